"""A rule as the compiler sees it: its parameters, and its pattern as calls of ops with variables for leaves.

What a rule says wrong whatever it is applied to is found here: ops and arguments that do not exist, names that nothing
binds, what cannot stand in a pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from compiler.elaborate.arguments import TENSORS
from compiler.elaborate.body import unknown_callee
from compiler.elaborate.expressions import WORDS, words_of
from compiler.elaborate.files import Unit, alias, is_op
from compiler.elaborate.report import Failed, Report
from compiler.initialize import INITIALIZERS
from compiler.ir import DECLARED
from compiler.ops import REGISTRY, Arg, Op
from compiler.ops.base import KINDS
from compiler.rules.arguments import OPTIONAL, WEIGHTS, parameters
from dsl import tree
from dsl.diagnostics import Note, Span, did_you_mean

ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
ANY_TYPE = ("tensor", "weight")  # element types of a rule's tensors that say nothing about the elements


@dataclass(frozen=True)
class Parameter:
    """kind: `tensor`, `weight` (a tensor that parameters and constants alone determine) or a kind of `ops.base.KINDS`.
    zero: a layer may lack it, and it is 0 then."""

    name: str
    kind: str
    span: Span
    type: tree.TensorSpec | None = None
    zero: bool = False

    @property
    def is_tensor(self) -> bool:
        return self.kind in ANY_TYPE


@dataclass(frozen=True)
class Variable:
    """Any value; the same name stands for the same value."""

    name: str
    span: Span


@dataclass(frozen=True)
class Scalar:
    """A constant number, or a parameter that takes the value of one."""

    value: tree.Expression

    @property
    def span(self) -> Span:
        return self.value.span


@dataclass(frozen=True)
class Call:
    """One node. What is left out, of weights and `given` arguments, may be anything; a weight that is None is not
    there.

    layer: the name of its stage; a name that occurs twice stands for layers that are alike in all that is left out.
    """

    op: Op
    operands: tuple[Pattern, ...]
    weights: dict[str, Pattern | None]
    given: dict[str, tree.Expression]
    layer: str | None
    span: Span

    def __hash__(self) -> int:
        return id(self)


Pattern = Variable | Scalar | Call


@dataclass(frozen=True)
class Rule:
    """roots: a call for each result. unit: the file whose names the replacement sees."""

    name: str
    parameters: dict[str, Parameter]
    roots: tuple[Call, ...]
    replacement: tuple[tree.Expression, ...]
    condition: tree.Expression | None
    tree: tree.Rule = field(compare=False, repr=False)
    unit: Unit = field(compare=False, repr=False)


def calls(pattern: Pattern | None) -> Iterator[Call]:
    """The calls of a pattern, operands before users."""
    if isinstance(pattern, Call):
        for part in (*pattern.operands, *pattern.weights.values()):
            yield from calls(part)
        yield pattern


def compile_rules(report: Report, unit: Unit) -> list[Rule]:
    """The rules of a file, in its order; what is wrong with one is reported, and it is left out."""
    rules = []
    for part in unit.rules.values():
        try:
            rules.append(Compiler(report, unit, part).rule())
        except Failed:
            continue
    return rules


class Compiler:
    """Makes a Rule of one rule's tree."""

    def __init__(self, report: Report, unit: Unit, part: tree.Rule):
        self.report = report
        self.unit = unit
        self.part = part
        self.parameters: dict[str, Parameter] = {}
        self.dims: set[str] = set()
        self.bound: set[str] = set()
        self.layers: dict[str, Op] = {}

    def fail(self, code: str, message: str, span: Span, hint: str | None = None, notes: Sequence[Note] = ()) -> None:
        self.report.fail(code, message, span, hint, notes)

    def rule(self) -> Rule:
        part = self.part
        failed = False
        for item in part.parameters:
            try:
                self.parameter(item)
            except Failed:
                failed = True
        if failed:
            raise Failed
        self.dims = {name.text for p in self.parameters.values() if p.type for dim in p.type.dims
                     for name in names_of(dim)}
        self.dims -= {*self.parameters, *self.unit.scope.names()}
        sides = [side.items if isinstance(side, tree.Tuple) else (side,) for side in (part.pattern, part.replacement)]
        roots = tuple(self.root(item) for item in sides[0])
        if len(sides[0]) != len(sides[1]) and not _may_make(sides[1], len(sides[0])):
            self.fail("E0443", f"the pattern makes {_values(len(sides[0]))}, the replacement {_values(len(sides[1]))}",
                      part.replacement.span, "each value of the pattern needs one that takes its place")
        for parameter in self.parameters.values():
            if parameter.name not in self.bound:
                self.fail("E0442", f"`{parameter.name}` does not occur in the pattern of `{part.name}`: nothing gives "
                          "it a value", parameter.span, "use it in the pattern, or remove it")
            for dim in [name for dim in (parameter.type.dims if parameter.type else ())
                        for name in names_of(dim)]:
                if dim.text in self.dims and dim.text not in self.bound:
                    self.fail("E0442", f"nothing gives `{dim.text}` a value", dim.span,
                              "a dim gets its value where it stands alone in the type of a tensor that is always there")
        for name in names_of(part.condition) if part.condition else ():
            if name.text in self.parameters and self.parameters[name.text].is_tensor:
                self.fail("E0422", f"`{name.text}` is a tensor: a condition is about dims and arguments", name.span,
                          f"its dims get names in its type, `{name.text}: tensor[N, C, H, W]`")
        for expression in (*sides[1], *([part.condition] if part.condition else [])):
            self.names(expression, {*self.parameters, *self.dims}, frozenset())
        return Rule(part.name, self.parameters, roots, tuple(sides[1]), part.condition, part, self.unit)

    # --- parameters ----------------------------------------------------------------------------------------------

    def parameter(self, part: tree.Parameter) -> None:
        if part.name in self.parameters:
            self.fail("E0202", f"there is a parameter `{part.name}` already", part.span)
        earlier = self.unit.scope.find(part.name)
        if earlier is not None:
            self.fail("E0202", f"`{part.name}` has a value already", part.span,
                      "choose another name: nothing is shadowed", [Note(f"`{part.name}` was given", earlier.span)])
        kinds = ["weight", *(kind for kind in KINDS if kind not in ("tensors", "weight"))]
        match part.type:
            case tree.TensorSpec(dtype=dtype):
                if dtype not in DECLARED and dtype not in ANY_TYPE:
                    self.fail("E0205", f"there is no element type `{dtype}`", part.type.span, did_you_mean(
                        dtype, [*DECLARED, *ANY_TYPE]) or f"the types are {', '.join([*ANY_TYPE, *DECLARED])}")
                kind = "weight" if dtype == "weight" else "tensor"
            case tree.TypeName(name=kind):
                if kind not in kinds:
                    self.fail("E0205", f"there is no parameter type `{kind}`", part.type.span,
                              did_you_mean(kind, kinds) or f"the types are {', '.join(kinds)}")
            case None:
                self.fail("E0205", f"the parameter `{part.name}` of a rule needs a type", part.span,
                          f"write `{part.name}: tensor`, `{part.name}: int`, …")
        zero = isinstance(part.default, tree.Number) and part.default.value == 0
        if part.default is not None and not (zero and kind in ANY_TYPE):
            self.fail("E0205", f"`{part.name}` cannot have this default", part.default.span,
                      "a pattern gives parameters their values; only a tensor may be `= 0`, where a layer has none")
        self.parameters[part.name] = Parameter(
            part.name, kind, part.span, part.type if isinstance(part.type, tree.TensorSpec) else None, zero)

    def bind(self, name: str) -> None:
        """A parameter that the pattern uses has a value, and so have the dims of its type, if there is a tensor."""
        self.bound.add(name)
        parameter = self.parameters[name]
        if parameter.type is not None and not parameter.zero:
            self.bound |= {dim.text for dim in parameter.type.dims if isinstance(dim, tree.Name)}

    # --- the pattern ---------------------------------------------------------------------------------------------

    def root(self, part: tree.Expression) -> Call:
        made = self.pattern(part)
        if not isinstance(made, Call):
            self.fail("E0441", "this pattern would match everything", part.span, "a pattern is at least one operation")
        return made

    def pattern(self, part: tree.Expression) -> Pattern:
        match part:
            case tree.Name(parts=(name,)) if name in self.parameters and self.parameters[name].is_tensor:
                self.bind(name)
                return Variable(name, part.span)
            case tree.Name():
                if part.text in self.parameters:
                    self.fail("E0423", f"`{part.text}` is {_article(self.parameters[part.text].kind)}, not a tensor",
                              part.span)
                self.fail("E0201", f"there is no `{part.text}` here", part.span,
                          did_you_mean(part.text, self.parameters) or
                          f"name it in the first line: `rule {self.part.name}({part.text}: tensor, …)`")
            case tree.Call():
                return self.call(part, ())
            case tree.Pipe():
                return self.pipe(part)
            case tree.Binary(operator=operator) if operator in ARITHMETIC:
                sides = [self.pattern(p) if self.is_tensor(p) else self.scalar(p) for p in (part.left, part.right)]
                if all(isinstance(side, Scalar) for side in sides):
                    self.fail("E0441", "a pattern is made of operations on tensors", part.span)
                return Call(REGISTRY[ARITHMETIC[operator]], tuple(sides), {}, {}, None, part.span)
            case tree.Unary(operator="-"):
                return Call(REGISTRY["neg"], (self.pattern(part.operand),), {}, {}, None, part.span)
        self.fail("E0441", "a pattern is made of operations on tensors", part.span,
                  "such as `x -> relu`, `conv(x, weight = w)`, `x * 2`; what is asked of numbers stands behind `when`")

    def is_tensor(self, part: tree.Expression) -> bool:
        match part:
            case tree.Name():
                return part.text in self.parameters and self.parameters[part.text].is_tensor
            case tree.Binary():
                return self.is_tensor(part.left) or self.is_tensor(part.right)
            case tree.Unary():
                return self.is_tensor(part.operand)
            case tree.Call(callee=tree.Name(text="dims")):
                return False
        return isinstance(part, (tree.Call, tree.Pipe))

    def scalar(self, part: tree.Expression) -> Scalar:
        if isinstance(part, tree.Name) and part.text in self.parameters:
            if self.parameters[part.text].kind not in ("int", "float"):
                self.fail("E0423", f"`{part.text}` is {_article(self.parameters[part.text].kind)}, not a number",
                          part.span)
            self.bound.add(part.text)
        self.names(part, {*self.parameters, *self.dims}, frozenset())
        return Scalar(part)

    def pipe(self, part: tree.Pipe) -> Pattern:
        heads = part.head.items if isinstance(part.head, tree.Tuple) else (part.head,)
        piped = tuple(self.pattern(head) for head in heads)
        for stage in part.stages:
            if stage.repeat is not None:
                self.fail("E0441", "a pattern has no repetitions", stage.repeat.span,
                          "write the stage as often as needed")
            piped = (self.call(stage.call, piped, stage.name),)
        return piped[0]

    def call(self, part: tree.Call, piped: tuple[Pattern, ...], layer: str | None = None) -> Call:
        op = self.op(part.callee)
        if layer is not None and self.layers.setdefault(layer, op) is not op:
            self.fail("E0202", f"`{layer}` names a `{self.layers[layer].name}` already", part.span,
                      "one name stands for layers that are alike")
        if layer is not None and (is_op(layer) or layer in self.unit.blocks or layer in self.dims
                                  or layer in self.parameters or self.unit.scope.find(layer)):
            self.fail("E0202", f"`{layer}` is the name of something else already", part.span,
                      "choose another name: nothing is shadowed")
        slots = {arg.name: arg for arg in parameters(op)}
        operands: dict[str, list[Pattern]] = {arg.name: [] for arg in slots.values() if arg.kind in TENSORS}
        given: dict[str, tree.Expression] = {}
        absent: set[str] = set()
        waiting = list(piped)
        for arg in slots.values():
            if arg.kind in TENSORS and arg.name not in WEIGHTS.get(op.name, ()) and waiting:
                operands[arg.name], waiting = (waiting, []) if arg.kind == "tensors" else (waiting[:1], waiting[1:])
        if waiting:
            self.fail("E0421", f"the pipe brings more tensors than `{op.name}` takes", part.span)
        for item in part.arguments:
            arg = self.slot(op, item, slots, operands, given)
            if arg.name in given or arg.name in absent or operands.get(arg.name) and arg.kind != "tensors":
                self.fail("E0421", f"`{arg.name}` of `{op.name}` is given twice", item.span)
            if (op.name, arg.name) in OPTIONAL and isinstance(item.value, tree.Bool):
                if item.value.value:
                    self.fail("E0423", f"`{arg.name}` is a tensor in a rule", item.span,
                              f"name it, as in `{arg.name} = b`, or leave it out")
                absent.add(arg.name)
            elif arg.kind in TENSORS:
                operands[arg.name].append(self.pattern(item.value))
            else:
                given[arg.name] = self.given(arg, item, op)
        weights: dict[str, Pattern | None] = dict.fromkeys(absent)
        weights |= {name: operands[name][0] for name in WEIGHTS.get(op.name, ()) if operands[name]}
        tensors = [operands[arg.name] for arg in slots.values() if arg.name in operands
                   and arg.name not in WEIGHTS.get(op.name, ())]
        if not all(tensors):
            self.fail("E0421", f"`{op.name}` needs a tensor", part.span, f"pipe one into it: `x -> {op.name}`")
        return Call(op, tuple(p for group in tensors for p in group), weights, given, layer, part.span)

    def op(self, callee: tree.Name) -> Op:
        if len(callee.parts) == 1 and is_op(callee.text):
            op = REGISTRY[callee.text]
            if op.has("expand_results"):
                self.fail("E0441", f"`{op.name}` makes several values: a pattern names the `slice`s it becomes",
                          callee.span)
            return op
        if callee.parts[-1] in self.unit.blocks:
            self.fail("E0441", f"`{callee.text}` is a block: a pattern is made of ops", callee.span,
                      "blocks may stand in the replacement")
        self.fail(*unknown_callee(self.unit, self.report, callee, self.unit.scope))

    def slot(self, op: Op, item: tree.Argument, slots: dict[str, Arg], operands: dict[str, list[Pattern]],
             given: dict[str, tree.Expression]) -> Arg:
        """The parameter an argument is for: by name, as a flag, or by position."""
        if item.name is not None:
            if item.name not in slots:
                self.fail("E0420", f"`{op.name}` has no argument `{item.name}` in a rule", item.span,
                          did_you_mean(item.name, slots) or f"it has {', '.join(slots)}")
            return slots[item.name]
        if isinstance(item.value, tree.Name) and item.value.text in slots and slots[item.value.text].kind == "bool":
            return slots[item.value.text]
        tensor = self.is_tensor(item.value)
        for arg in slots.values():
            wanted = arg.kind in TENSORS or arg.kind == "weight" and isinstance(item.value, tree.Name)
            if wanted == tensor and (
                    arg.kind == "tensors" or not operands.get(arg.name) and arg.name not in given):
                return arg
        self.fail("E0421", f"too many arguments for `{op.name}`", item.span, f"it has {', '.join(slots)}")

    def given(self, arg: Arg, item: tree.Argument, op: Op) -> tree.Expression:
        value = item.value
        if arg.kind == "bool" and isinstance(value, tree.Name) and value.text == arg.name and item.name is None:
            return tree.Bool(value.span, True)
        if isinstance(value, tree.Name) and value.text in self.parameters:
            kind = self.parameters[value.text].kind
            if not (kind == arg.kind or arg.kind == "weight" and kind in ANY_TYPE):
                self.fail("E0423", f"`{arg.name}` of `{op.name}` is of type {arg.kind}, `{value.text}` is "
                          f"{_article(kind)}", value.span, f"write `{value.text}: {arg.kind}` in the first line")
            self.bind(value.text)
        else:
            self.names(value, {*self.parameters, *self.dims}, frozenset(words_of(arg.kind)))
        return value

    # --- names ---------------------------------------------------------------------------------------------------

    def names(self, part: tree.Expression, known: set[str], words: frozenset[str]) -> None:
        """Refuses names that nothing gives a value, and calls of what does not exist."""
        match part:
            case tree.Name(parts=(name,)):
                if name not in known and name not in words and self.unit.scope.find(name) is None:
                    hint = did_you_mean(name, [*known, *words]) or \
                        f"name it in the first line: `rule {self.part.name}({name}: …)`, and use it in the pattern"
                    self.fail("E0201", f"there is no `{name}` here", part.span, hint)
            case tree.Call():
                self.arguments(part, known)
            case tree.Pipe(head=head, stages=stages):
                self.names(head, known, words)
                for stage in stages:
                    self.arguments(stage.call, known)
                    if stage.repeat is not None:
                        self.names(stage.repeat, known, frozenset())
            case tree.Tuple(items=items):
                for item in items:
                    self.names(item, known, words)
            case tree.List(items=items):
                for item in items:
                    self.names(item.value, known, words)
            case tree.Unary(operand=operand):
                self.names(operand, known, frozenset())
            case tree.Binary(left=left, right=right):
                self.names(left, known, frozenset())
                self.names(right, known, frozenset())

    def imported(self, callee: tree.Name) -> bool:
        return len(callee.parts) > 1 and callee.parts[1] in alias(self.unit, self.report, callee).blocks

    def arguments(self, part: tree.Call, known: set[str]) -> None:
        callee = part.callee
        slots: dict[str, str] | None = None
        if callee.text in self.layers:
            slots = {arg.name: arg.kind for arg in parameters(self.layers[callee.text])}
        elif len(callee.parts) == 1 and is_op(callee.text):
            slots = {arg.name: arg.kind for arg in parameters(REGISTRY[callee.text])}
        elif callee.text not in ("dims", *INITIALIZERS, *self.unit.blocks) and not self.imported(callee):
            code, message, span, hint = unknown_callee(self.unit, self.report, callee, self.unit.scope)
            self.fail(code, message, span, did_you_mean(callee.text, self.layers) or hint)
        words = {word for kind in WORDS for word in words_of(kind)} | {
            word for kind in (slots or {}).values() for word in words_of(kind)}
        flags = {name for name, kind in (slots or {}).items() if kind == "bool"}
        for item in part.arguments:
            if item.name is not None and slots is not None and item.name not in slots:
                self.fail("E0420", f"`{callee.text}` has no argument `{item.name}` in a rule", item.span,
                          did_you_mean(item.name, slots) or f"it has {', '.join(slots)}")
            self.names(item.value, known, frozenset(words | (flags if item.name is None else set())))


def names_of(part: tree.Expression) -> Iterator[tree.Name]:
    """The names of values in an expression without layers."""
    match part:
        case tree.Name():
            yield part
        case tree.Unary():
            yield from names_of(part.operand)
        case tree.Binary():
            yield from names_of(part.left)
            yield from names_of(part.right)
        case tree.Call():
            for item in part.arguments:
                yield from names_of(item.value)
        case tree.List():
            for item in part.items:
                yield from names_of(item.value)


def _values(count: int) -> str:
    return "one value" if count == 1 else f"{count} values"


def _may_make(side: Sequence[tree.Expression], count: int) -> bool:
    """Whether one expression may make several values, as a `split` does."""
    return len(side) == 1 and isinstance(side[0], (tree.Call, tree.Pipe)) and count > 1


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


