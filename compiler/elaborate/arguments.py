"""Which argument of a call belongs to which parameter: by pipe, by position, by name, or as a flag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.elaborate.expressions import Evaluator, listing
from compiler.elaborate.report import Failed
from compiler.elaborate.values import Listed, Results, Tensor, describe, show
from compiler.ops import Arg
from dsl import tree
from dsl.diagnostics import Note, Span, did_you_mean

TENSORS = ("tensor", "tensors")


@dataclass(frozen=True)
class Bound:
    """The value of a parameter, and where its text stands."""

    value: Any
    span: Span


@dataclass(frozen=True)
class Callee:
    """What arguments are bound to: a name for messages and parameters in order."""

    name: str
    parameters: tuple[Arg, ...]

    def signature(self) -> str:
        """`conv(x: tensor, ch: int, k: dims = 1)`."""
        def one(arg: Arg) -> str:
            if arg.required:
                return f"{arg.name}: {arg.kind}"
            default = arg.default
            shown = "…" if isinstance(default, tree.Tree) else "none" if default is None else \
                default if isinstance(default, str) else show(default)
            return f"{arg.name}: {arg.kind} = {shown}"

        return f"{self.name}({', '.join(map(one, self.parameters))})"


class Binder:
    """Binds the arguments of one call. All mistakes of the call are reported before `bind` raises Failed."""

    def __init__(self, evaluator: Evaluator, callee: Callee, is_tensor: Callable[[tree.Expression], bool]):
        self.evaluator = evaluator
        self.callee = callee
        self.is_tensor = is_tensor
        self.parameters = {arg.name: arg for arg in callee.parameters}
        self.bound: dict[str, Bound] = {}
        self.open: set[str] = set()  # `tensors` parameters that still take positional tensors
        self.filled: set[str] = set()
        self.failed = False
        self.misplaced = False  # something else stands where a tensor belongs: what is missing is not clear

    def bind(self, arguments: Sequence[tree.Argument], span: Span, piped: Sequence[Tensor] = (), partial: bool = False,
             before: dict[str, Bound] | None = None) -> dict[str, Bound]:
        """Parameter name → Bound, for what is given (defaults are the caller's).

        piped: the tensors that a pipe brings, for the first tensor parameters. partial: tensors may be missing (a layer
        object waits for them). before: what a layer object has bound already.
        """
        self.bound.update(before or {})
        self.filled.update(before or {})
        self._try(lambda: self._pipe(piped, span))
        named = False
        for item in arguments:
            if item.name is not None:
                named = True
                self._try(lambda: self._named(item))
            elif (flag := self._flag(item.value)) is not None:
                self._try(lambda: self._give_flag(flag, item))
            elif named:
                self._try(lambda: self.evaluator.fail(
                    "E0421", "an argument without a name stands behind one with a name", item.span,
                    f"give it its name, or move it forward: {self.callee.signature()}"))
            else:
                self._try(lambda: self._positional(item, span, partial))
        for arg in self.callee.parameters:
            missing = arg.required and arg.name not in self.filled and not self.misplaced
            if missing and not (partial and arg.kind in TENSORS):
                self._try(lambda: self._missing(arg, span))
        if self.failed:
            raise Failed
        return self.bound

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Failed:
            self.failed = True

    def _what(self, arg: Arg) -> str:
        return f"`{arg.name}` of `{self.callee.name}`"

    def _pipe(self, piped: Sequence[Tensor], span: Span) -> None:
        waiting = list(piped)
        for arg in self.callee.parameters:
            if not waiting:
                return
            if arg.name in self.filled:
                continue
            if arg.kind == "tensors":
                self._give(arg, Bound(tuple(waiting), waiting[0].span))
                self.open.add(arg.name)
                waiting = []
            elif arg.kind == "tensor":
                self._give(arg, Bound(waiting.pop(0), piped[0].span))
        if waiting:
            takes = sum(arg.kind in TENSORS for arg in self.callee.parameters)
            brings = "a tensor" if len(piped) == 1 else f"{len(piped)} tensors"
            self.evaluator.fail("E0421", f"the pipe brings {brings}, `{self.callee.name}` takes "
                                f"{takes or 'none'}", span, self.callee.signature())

    def _flag(self, part: tree.Expression) -> Arg | None:
        """The bool parameter that a bare name switches on: `frozen`."""
        if not isinstance(part, tree.Name):
            return None
        arg = self.parameters.get(part.text)
        return arg if arg is not None and arg.kind == "bool" else None

    def _give_flag(self, arg: Arg, item: tree.Argument) -> None:
        if self.evaluator.scope.find(arg.name) is not None:
            self.evaluator.fail("E0421", f"`{arg.name}` is a value here as well as a flag of `{self.callee.name}`",
                                item.span, f"write `{arg.name} = {arg.name}` or `{arg.name} = true`")
        self._free(arg, item)
        self._give(arg, Bound(True, item.span))

    def _named(self, item: tree.Argument) -> None:
        arg = self.parameters.get(item.name)
        if arg is None:
            self.evaluator.fail("E0420", f"`{self.callee.name}` has no argument `{item.name}`", item.span,
                                did_you_mean(item.name, self.parameters) or self.callee.signature())
        self._free(arg, item)
        self.filled.add(arg.name)
        self._give(arg, self._value(arg, item.value))

    def _free(self, arg: Arg, item: tree.Argument) -> None:
        if arg.name in self.filled:
            earlier = self.bound.get(arg.name)
            self.evaluator.fail("E0421", f"{self._what(arg)} is given twice", item.span, None,
                                [Note("it is given", earlier.span)] if earlier is not None else ())

    def _positional(self, item: tree.Argument, span: Span, partial: bool) -> None:
        tensor = None
        for arg in self.callee.parameters:
            takes = arg.name in self.open or arg.name not in self.filled
            if takes and arg.kind in TENSORS and (partial or arg.kind == "tensors"):
                tensor = self.is_tensor(item.value) if tensor is None else tensor
                if not tensor:
                    continue
                if arg.kind == "tensors":
                    before = self.bound[arg.name].value if arg.name in self.open else ()
                    self.open.add(arg.name)
                    self.filled.add(arg.name)
                    bound = Bound(self._tensors(arg, item.value), item.span)
                    self.bound[arg.name] = Bound((*before, *bound.value), bound.span)
                    return
            if arg.name not in self.filled:
                self.filled.add(arg.name)  # before the value is looked at: a wrong value is not a missing argument
                self._give(arg, self._value(arg, item.value))
                return
        taken = len(self.callee.parameters)
        if taken == 0:
            self.evaluator.fail("E0421", f"`{self.callee.name}` takes no arguments", item.span)
        self.evaluator.fail("E0421", f"too many arguments for `{self.callee.name}`", item.span, self.callee.signature())

    def _value(self, arg: Arg, part: tree.Expression) -> Bound:
        if arg.kind == "tensor":
            return Bound(self._tensor(arg, part), part.span)
        if arg.kind == "tensors":
            return Bound(self._tensors(arg, part), part.span)
        return Bound(self.evaluator.convert(part, arg.kind, self._what(arg)), part.span)

    def _tensor(self, arg: Arg, part: tree.Expression) -> Tensor:
        value = self.evaluator.value(part)
        if isinstance(value, Tensor):
            return value
        self.misplaced = True
        hint = f"pipe a tensor into it: `x -> {self.callee.name}(…)`"
        if isinstance(value, Results):
            hint = f"give its results names first: `{', '.join('abcdefgh'[:len(value.tensors)])} = …`"
        self.evaluator.fail("E0423", f"{self._what(arg)} is a tensor, got {describe(value)}", part.span, hint)

    def _tensors(self, arg: Arg, part: tree.Expression) -> tuple[Tensor, ...]:
        value = self.evaluator.value(part)
        if isinstance(value, Results):
            return value.tensors
        items = [v for _, v, _ in value.items] if isinstance(value, Listed) else [value]
        for one in items:
            if not isinstance(one, Tensor):
                self.evaluator.fail("E0423", f"{self._what(arg)} are tensors, got {describe(one)}", part.span)
        return tuple(items)

    def _give(self, arg: Arg, bound: Bound) -> None:
        self.filled.add(arg.name)
        self.bound[arg.name] = bound

    def _missing(self, arg: Arg, span: Span) -> None:
        if arg.kind in TENSORS:
            self.evaluator.fail("E0421", f"`{self.callee.name}` needs a tensor, its `{arg.name}`", span,
                                f"pipe one into it: `x -> {self.callee.name}`")
        words = listing(arg.kind.split("|")) if "|" in arg.kind else None
        message = f"`{self.callee.name}` needs `{arg.name}`" + (f": one of {words}" if words else "")
        self.evaluator.fail("E0421", message, span, self.callee.signature())
