"""Compile-time expressions: from the syntax tree to values, and from values to what an argument of a kind may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from compiler.dims import Poly
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.scope import Scope
from compiler.elaborate.values import (
    Listed, Poison, Quantity, Tensor, Typed, ValueProblem, binary, describe, is_int, is_number, unary,
)
from compiler.initialize import INITIALIZERS
from compiler.ir import DECLARED
from dsl import tree
from dsl.diagnostics import Note, Span, did_you_mean

AXES = ("batch", "channel", "height", "width", "time", "feature")
PADDINGS = ("same", "valid")
WORDS = {"padding": PADDINGS, "axis": AXES, "axes": AXES, "dtype": DECLARED, "init": tuple(INITIALIZERS)}

EXPECTED = {
    "int": "a whole number", "float": "a number", "bool": "`true` or `false`", "str": "a string",
    "dims": "sizes such as 3x3", "ints": "a list of whole numbers", "shape": "a list of dims",
    "padding": "`same`, `valid`, sizes such as 1x1, or [before, after] for each axis",
    "axis": "an axis such as `channel`, or its number", "axes": "an axis or a list of axes",
    "dtype": "an element type such as `f32`", "init": "an initializer such as `he` or `normal(0.01)`",
    "weight": "nested lists of numbers, all rows of one length", "tensor": "a tensor",
    "tensors": "tensors",
}
# What a plain value of each kind is.
PLAIN: dict[str, Callable[[Any], bool]] = {
    "int": is_int, "float": is_number, "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str), "dims": lambda value: is_int(value) or isinstance(value, tuple),
    "padding": lambda value: is_int(value) or isinstance(value, tuple), "axis": is_int,
    "ints": lambda value: isinstance(value, tuple), "shape": lambda value: isinstance(value, tuple),
}
HINTS = {"dims": "write `3x3`, or `dims(k, k)` for computed sizes", "str": 'strings stand in double quotes: "text"',
         "weight": "write [[1, 2], [3, 4]]"}


def words_of(kind: str) -> tuple[str, ...]:
    """The enum words an argument of this kind takes."""
    return tuple(word.strip() for word in kind.split("|")) if "|" in kind else WORDS.get(kind, ())


def listing(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


class Evaluator:
    """Evaluates expressions in one scope. Every method reports what is wrong and raises Failed."""

    def __init__(self, report: Report, scope: Scope, imported: Callable[[tree.Name], Any]):
        """imported: the value that `g.name` stands for; reports and raises Failed where there is none."""
        self.report = report
        self.scope = scope
        self.imported = imported
        self.chain: tuple[Note, ...] = ()  # the block calls that led here, innermost first

    def fail(self, code: str, message: str, span: Span | None, hint: str | None = None,
             notes: Iterable[Note] = ()) -> Any:
        self.report.fail(code, message, span, hint, (*notes, *self.chain))

    # --- values --------------------------------------------------------------------------------------------------

    def value(self, part: tree.Expression) -> Any:
        """The value of an expression: a compile-time value, or a Tensor where there are tensors."""
        match part:
            case tree.Number():
                return part.value if part.unit is None else Quantity(part.value, part.unit)
            case tree.Dims():
                return part.sizes
            case tree.String() | tree.Bool():
                return part.value
            case tree.Name():
                return self.name(part)
            case tree.List():
                return Listed(tuple((item.name, self.value(item.value), item.value.span) for item in part.items))
            case tree.Unary():
                return self.unary(part, self.value(part.operand))
            case tree.Binary(operator="and" | "or"):
                return self.logical(part)
            case tree.Binary():
                left, right = self.all([lambda: self.value(part.left), lambda: self.value(part.right)])
                return self.binary(part, left, right)
            case tree.Call(callee=tree.Name(parts=("dims",))):
                return self.dims_call(part)
        return self.layer(part)

    def layer(self, part: tree.Expression) -> Any:
        """The value of a call or pipe; only a net's or block's body has one."""
        name = part.callee.text if isinstance(part, tree.Call) else "a pipe"
        self.fail("E0422", f"{'`' + name + '(…)`' if isinstance(part, tree.Call) else name} is not a value here",
                  part.span, "layers stand in nets and blocks; here only numbers, dims, strings, lists and arithmetic")

    def name(self, part: tree.Name) -> Any:
        if len(part.parts) > 1:
            return self.imported(part)
        entry = self.scope.find(part.text)
        if entry is None:
            self.unknown_name(part)
        if isinstance(entry.value, Poison):
            raise Failed
        return entry.value

    def unknown_name(self, part: tree.Name) -> None:
        taken = self.scope.elsewhere.get(part.text)
        if taken is not None:
            self.fail("E0201", f"`{part.text}` has no value: its branch of the `if` was not taken", part.span,
                      "give it a value in the other branch too", [Note("the branch is", taken)])
        words = {word for kind in WORDS for word in words_of(kind)}
        hint = did_you_mean(part.text, self.scope.names())
        if hint is None and part.text in words:
            hint = "such a word stands only where an argument asks for it"
        self.fail("E0201", f"there is no `{part.text}` here", part.span, hint)

    def all(self, parts: Iterable[Callable[[], Any]]) -> list[Any]:
        """The values of independent parts; errors of all of them are reported before this fails."""
        values, failed = [], False
        for part in parts:
            try:
                values.append(part())
            except Failed:
                failed = True
        if failed:
            raise Failed
        return values

    def unary(self, part: tree.Unary, value: Any) -> Any:
        try:
            return unary(part.operator, value)
        except ValueProblem as problem:
            self.fail(problem.code, problem.message, part.span, problem.hint)

    def binary(self, part: tree.Binary, left: Any, right: Any) -> Any:
        try:
            return binary(part.operator, left, right)
        except ValueProblem as problem:
            self.fail(problem.code, problem.message, part.span, problem.hint)

    def logical(self, part: tree.Binary) -> bool:
        left = self.truth(part.left, f"`{part.operator}`")
        if left == (part.operator == "or"):
            return left
        return self.truth(part.right, f"`{part.operator}`")

    def truth(self, part: tree.Expression, what: str) -> bool:
        value = self.value(part)
        if not isinstance(value, bool):
            self.fail("E0424", f"{what} needs true or false, got {describe(value)}", part.span)
        return value

    def dims_call(self, part: tree.Call) -> tuple[int, ...]:
        """`dims(k, 3)`."""
        for item in part.arguments:
            if item.name is not None:
                self.fail("E0420", f"`dims` has no argument `{item.name}`", item.span, "write `dims(3, 3)`")
        if not part.arguments:
            self.fail("E0421", "`dims` needs at least one size", part.span, "write `dims(3, 3)`")
        return tuple(self.all([lambda item=item: self.convert(item.value, "int", "a size of `dims`")
                               for item in part.arguments]))

    def dim(self, part: tree.Expression) -> int | Poly:
        """A dim of a type: a positive whole number or an expression over symbols."""
        value = self.value(part)
        if isinstance(value, Poly):
            return value
        if not is_int(value):
            hint = "`//` rounds down" if isinstance(value, float) else None
            self.fail("E0323", f"a dim is a whole number, got {describe(value)}", part.span, hint)
        if value < 1:
            self.fail("E0323", f"a dim is at least 1, got {value}", part.span)
        return value

    # --- arguments -----------------------------------------------------------------------------------------------

    def convert(self, part: tree.Expression, kind: str, what: str) -> Any:
        """The Python value of an argument of a kind (compiler.ops.base.KINDS); `what` names it in messages."""
        words = words_of(kind)
        if words and isinstance(part, tree.Name) and part.text in words:
            return (part.text,) if kind == "axes" else self.initializer(part, what) if kind == "init" else part.text
        if kind == "init" and isinstance(part, tree.Call):
            return self.initializer(part, what)
        if kind in ("axes", "ints", "shape", "padding") and isinstance(part, tree.List):
            return self.listed(part, kind, what)
        if kind == "weight" and isinstance(part, tree.List):
            return self.nested(part, what)
        if words and isinstance(part, tree.Name) and len(part.parts) == 1 and self.scope.find(part.text) is None:
            self.fail("E0423", f"{what} is {EXPECTED.get(kind) or 'one of ' + listing(words)}, not `{part.text}`",
                      part.span, did_you_mean(part.text, words) or "the words are " + listing(words))
        return self.coerce(self.value(part), kind, part.span, what)

    def coerce(self, value: Any, kind: str, span: Span, what: str) -> Any:
        """A value as an argument of a kind."""
        if isinstance(value, Typed) and value.kind == kind:
            return value.value
        if isinstance(value, Quantity) and kind in ("float", "int") and not (kind == "float" and value.is_percent):
            self.fail("E0426", f"{what} takes no unit, got {describe(value)}", span, f"write {value.value}")
        if isinstance(value, Listed):
            self.no_names(value.items, what)
            if kind == "weight":
                return self.array(value, span, what)
            if kind in ("axes", "ints", "shape", "padding"):
                return tuple(self.element(v, kind, s, what) for _, v, s in value.items)
        if kind in PLAIN and PLAIN[kind](value):
            return value
        if kind == "axes" and (is_int(value) or isinstance(value, Typed) and value.kind == "axis"):
            return (value.value if isinstance(value, Typed) else value,)
        if kind == "float" and isinstance(value, Quantity):
            return value.value / 100
        expected = EXPECTED.get(kind) or "one of " + listing(words_of(kind))
        hint = HINTS.get(kind)
        if kind == "int" and isinstance(value, float):
            hint = "`//` divides and rounds down"
        elif isinstance(value, Tensor):
            hint = "a tensor's values are known only when the binary runs"
        self.fail("E0423", f"{what} is {expected}, got {describe(value)}", span, hint)

    def no_names(self, items: Iterable[tuple[str | None, Any, Span]], what: str) -> None:
        for name, _, span in items:
            if name is not None:
                self.fail("E0423", f"the items of {what} have no names, got `{name} = …`", span)

    def listed(self, part: tree.List, kind: str, what: str) -> tuple:
        self.no_names([(item.name, None, item.span) for item in part.items], what)

        def one(part: tree.Expression) -> Any:
            if kind == "axes":
                return self.convert(part, "axis", what)
            if kind == "padding" and isinstance(part, tree.List):
                pair = self.listed(part, "ints", what)
                if len(pair) != 2:
                    self.fail("E0423", f"{what} has [before, after] for each axis, got {len(pair)} numbers", part.span)
                return pair
            return self.element(self.value(part), kind, part.span, what)

        return tuple(self.all([lambda item=item: one(item.value) for item in part.items]))

    def element(self, value: Any, kind: str, span: Span, what: str) -> Any:
        if kind == "padding" and isinstance(value, Listed) and len(value.items) == 2:
            return tuple(self.element(v, "ints", s, what) for _, v, s in value.items)
        if is_int(value) or kind == "shape" and isinstance(value, Poly):
            return value
        if kind == "axes" and isinstance(value, Typed) and value.kind == "axis":
            return value.value
        self.fail("E0423", f"{what} is {EXPECTED[kind]}, got {describe(value)} in it", span)

    def initializer(self, part: tree.Name | tree.Call, what: str) -> tuple:
        """`he` as ("he",), `normal(0.01)` as ("normal", 0.01)."""
        name = part.text if isinstance(part, tree.Name) else part.callee.text
        if name not in INITIALIZERS:
            self.fail("E0423", f"{what} is an initializer, there is no initializer `{name}`", part.span,
                      did_you_mean(name, INITIALIZERS) or "there are " + listing(INITIALIZERS))
        wanted = INITIALIZERS[name]
        given = part.arguments if isinstance(part, tree.Call) else ()
        if len(given) != len(wanted) or any(item.name not in (None, n) for item, n in zip(given, wanted)):
            shape = f"{name}({', '.join(wanted)})" if wanted else name
            self.fail("E0421", f"the initializer is written `{shape}`", part.span)
        numbers = self.all([lambda i=i, n=n: self.convert(i.value, "float", f"`{n}` of `{name}`")
                            for i, n in zip(given, wanted)])
        if name in ("normal", "uniform") and numbers[0] < 0:
            self.fail("E0425", f"`{wanted[0]}` of `{name}` is not negative, got {numbers[0]}", part.span)
        return (name, *map(float, numbers))

    def nested(self, part: tree.List, what: str) -> np.ndarray:
        value = self.value(part)
        return self.array(value, part.span, what)

    def array(self, value: Listed, span: Span, what: str) -> np.ndarray:
        """Nested lists of numbers as an f32 array; rows of different lengths are an error."""
        def plain(value: Any, span: Span) -> tuple[list | float, tuple[int, ...]]:
            if is_number(value):
                if abs(value) > np.finfo(np.float32).max:
                    self.fail("E0425", f"{value} does not fit f32", span)
                return float(value), ()
            if not isinstance(value, Listed) or not value.items:
                self.fail("E0423", f"{what} is {EXPECTED['weight']}, got {describe(value)}", span)
            self.no_names(value.items, what)
            rows = [plain(v, s) for _, v, s in value.items]
            for (_, shape), (_, _, s) in zip(rows, value.items):
                if shape != rows[0][1]:
                    self.fail("E0427", f"the rows of {what} differ in length", s, "give each row as many numbers")
            return [row for row, _ in rows], (len(rows), *rows[0][1])

        return np.asarray(plain(value, span)[0], np.float32)

    def typed(self, part: tree.Expression, kind: str, what: str) -> Any:
        """As `convert`, wrapped so that a name can carry it: what the parameter of a block is bound to."""
        return wrap(self.convert(part, kind, what), kind)


def wrap(value: Any, kind: str) -> Any:
    return value if kind in ("int", "float", "bool", "str", "dims") else Typed(kind, value)


def kind_of(value: Any) -> str | None:
    """The kind of a parameter without a type, from its default."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float) or isinstance(value, Quantity) and value.is_percent:
        return "float"
    if isinstance(value, int):
        return "int"
    return "str" if isinstance(value, str) else "dims" if isinstance(value, tuple) else None

