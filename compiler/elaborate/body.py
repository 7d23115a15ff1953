"""The body of a net or a block: statements one after another, pipes and calls, blocks instantiated where called.

A statement that goes wrong poisons the names it would have bound and nothing else: one run finds all
independent errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compiler import dims
from compiler.elaborate.apply import MAX_NODES, apply_arithmetic, apply_negation, apply_op
from compiler.elaborate.arguments import TENSORS, Binder, Bound, Callee
from compiler.elaborate.expressions import Evaluator, kind_of, wrap
from compiler.elaborate.files import BlockRef, Unit, alias, imported, is_op, op_names
from compiler.elaborate.naming import Label, join, labels, sites
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.scope import Scope
from compiler.elaborate.values import LayerObject, Listed, Poison, Results, Tensor, describe, made_by
from compiler.ir import DECLARED, Graph, TensorType
from compiler.ops import REGISTRY, Arg, Op
from compiler.ops.base import KINDS
from dsl import tree
from dsl.diagnostics import Note, Span, did_you_mean

MAX_DEPTH = 50  # blocks in blocks

# What people coming from elsewhere call our ops.
ELSEWHERE = {"linear": "dense", "fc": "dense", "fully_connected": "dense", "conv2d": "conv", "conv1d": "conv",
             "convolution": "conv", "maxpool": "max_pool", "maxpool2d": "max_pool", "avgpool": "avg_pool",
             "bn": "batch_norm",
             "batchnorm": "batch_norm", "concatenate": "concat", "cat": "concat", "softmax_loss": "cross_entropy"}


@dataclass
class Session:
    """What all bodies of one elaboration share: the graph being made and the paths in use."""

    graph: Graph
    report: Report
    taken: set[str] = field(default_factory=set)
    parameters: dict[int, tuple[Arg, ...]] = field(default_factory=dict)  # of each block, by the identity of its tree

    def unique(self, path: str) -> str:
        """`path`, or with the first number that makes it unique; reserves it."""
        number, chosen = 1, path
        while chosen in self.taken:
            number += 1
            chosen = f"{path}{number}"
        self.taken.add(chosen)
        return chosen


@dataclass(frozen=True)
class Place:
    """Where a call's nodes go: `path` in the graph, `weights` the owner of its weights (another path inside a shared
    layer), `shared` the weight owners that this use of a layer object has met, None outside of one."""

    path: str
    weights: str
    shared: set[str] | None = None

    def at(self, *segments: str | None) -> Place:
        return Place(join(self.path, *segments), join(self.weights, *segments), self.shared)


class Body(Evaluator):
    """Elaborates the statements of one net, or of one call of a block."""

    def __init__(self, session: Session, unit: Unit, place: Place, results: tuple[str, ...] = (),
                 chain: tuple[Note, ...] = ()):
        super().__init__(session.report, Scope(session.report, unit.scope),
                         lambda name: imported(unit, session.report, name))
        self.session = session
        self.unit = unit
        self.place = place
        self.results = results
        self.chain = chain
        self.labels: dict[int, Label] = {}
        self.broken = False  # whether a statement went wrong
        self.here = place  # of the statement being elaborated

    @property
    def graph(self) -> Graph:
        return self.session.graph

    # --- statements ----------------------------------------------------------------------------------------------

    def run(self, statements: Sequence[tree.Statement]) -> None:
        for part in statements:
            try:
                self.statement(part)
            except Failed:
                self.broken = True
                for name in bound_names(part):
                    self.scope.poison(name, part.span)

    def statement(self, part: tree.Statement) -> None:
        match part:
            case tree.Binding():
                self.binding(part)
            case tree.Let():
                value = self.value(part.value)
                if isinstance(value, (Tensor, Results)):
                    self.fail("E0422", f"`let` names compile-time values, this is {describe(value)}", part.value.span,
                              f"write `{part.name} = …` without `let`")
                self.scope.bind(part.name, value, part.span)
            case tree.Layer():
                self.scope.bind(part.name, self.layer_object(part), part.span)
            case tree.If():
                chosen, other = part.then, part.orelse
                if not self.truth(part.condition, "the condition of `if`"):
                    chosen, other = other, chosen
                for statement in other:
                    for name in bound_names(statement):
                        self.scope.elsewhere.setdefault(name, part.span)
                self.run(chosen)
            case _:
                word = type(part).__name__.lower()
                self.fail("E0207", f"`{word}` cannot stand in a block", part.span, "it belongs into a net")

    def binding(self, part: tree.Binding) -> None:
        first = part.targets[0].name
        segment = None if self.results == (first,) and len(part.targets) == 1 else first
        value = self.valued(part.value, segment)
        tensors = value.tensors if isinstance(value, Results) else (value,)
        if len(tensors) != len(part.targets):
            self.fail("E0321", f"{len(part.targets)} names for {describe(value)}", part.span,
                      f"write {len(tensors)} names before the `=`" if isinstance(value, Results)
                      else "write one name before the `=`")
        for target, tensor in zip(part.targets, tensors):
            if not isinstance(tensor, Tensor):
                self.fail("E0422", f"`{target.name}` would be {describe(tensor)}, not a tensor", part.value.span,
                          f"compile-time values are named by `let {target.name} = …`")
            self.scope.bind(target.name, replace(tensor, name=target.name), target.span)
            if target.type is not None:
                self.check_type(target.type, replace(tensor, name=target.name))

    def valued(self, part: tree.Expression, segment: str | None) -> Any:
        """The value of a statement's expression; its layers are named under `segment`."""
        self.here = self.place.at(segment)
        self.labels = labels(list(sites(part, self.is_layer, self.is_tensor, self.repetitions)))
        return self.value(part)

    def repetitions(self, part: tree.Expression) -> int:
        count = self.convert(part, "int", "the number behind `**`")
        if count < 0:
            self.fail("E0425", f"the number behind `**` is not negative, got {count}", part.span)
        if count > MAX_NODES:
            self.fail("E0213", f"{count} layers are too many", part.span, f"a net has at most {MAX_NODES} operations")
        return count

    def is_layer(self, part: tree.Call) -> bool:
        try:
            return self.find(part.callee) is not None
        except Failed:
            return False

    def is_tensor(self, part: tree.Expression) -> bool:
        """Whether an expression makes a tensor, as far as its form and the names in scope tell."""
        match part:
            case tree.Name():
                entry = self.scope.find(part.text)
                return entry is not None and isinstance(entry.value, (Tensor, Results))
            case tree.Pipe() | tree.Tuple():
                return True
            case tree.Call():
                return self.is_layer(part)
            case tree.Binary():
                return self.is_tensor(part.left) or self.is_tensor(part.right)
            case tree.Unary():
                return self.is_tensor(part.operand)
        return False

    # --- expressions with tensors --------------------------------------------------------------------------------

    def layer(self, part: tree.Expression) -> Any:
        if isinstance(part, tree.Call):
            return self.call(part, ())
        if isinstance(part, tree.Pipe):
            return self.pipe(part)
        self.fail("E0422", "several values in ( ) stand only at the head of a pipe", part.span, "write `(a, b) -> f`")

    def pipe(self, part: tree.Pipe) -> Any:
        try:
            tensors = self.pipe_head(part.head)
        except Failed:
            self.check_stages(part.stages)
            raise
        for number, stage in enumerate(part.stages):
            try:
                tensors = self.stage(stage, tensors)
            except Failed:
                self.check_stages(part.stages[number + 1:])
                raise
        return tensors[0] if len(tensors) == 1 else Results("the pipe", tuple(tensors))

    def pipe_head(self, head: tree.Expression) -> list[Tensor]:
        parts = head.items if isinstance(head, tree.Tuple) else (head,)
        values = self.all([lambda p=p: self.value(p) for p in parts])
        tensors: list[Tensor] = []
        for value, p in zip(values, parts):
            if isinstance(value, Listed) or not isinstance(value, (Tensor, Results)):
                self.fail("E0423", f"a pipe carries tensors, got {describe(value)}", p.span,
                          "write `(a, b) -> f` for several tensors" if isinstance(value, Listed) else None)
            tensors += value.tensors if isinstance(value, Results) else [value]
        return tensors

    def stage(self, stage: tree.Stage, tensors: list[Tensor]) -> list[Tensor]:
        count = 1 if stage.repeat is None else self.repetitions(stage.repeat)
        for repetition in range(count):
            value = self.call(stage.call, tensors, repetition)
            tensors = list(value.tensors) if isinstance(value, Results) else [value]
        return tensors

    def check_stages(self, stages: Sequence[tree.Stage]) -> None:
        """The arguments of stages that no tensor reaches: what comes before them went wrong."""
        for stage in stages:
            try:
                target = self.resolve(stage.call.callee)
                before = target.arguments if isinstance(target, LayerObject) else {}
                callee = self.signature(target.callee if isinstance(target, LayerObject) else target)
                binder = Binder(self, callee, self.is_tensor)
                binder.bind(stage.call.arguments, stage.call.span, partial=True, before=before)
            except Failed:
                continue

    def binary(self, part: tree.Binary, left: Any, right: Any) -> Any:
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            return super().binary(part, left, right)
        return apply_arithmetic(self, part, left, right, self.place_of(part))

    def unary(self, part: tree.Unary, value: Any) -> Any:
        if not isinstance(value, Tensor) or part.operator != "-":
            return super().unary(part, value)
        return apply_negation(self, part, value, self.place_of(part))

    def place_of(self, part: tree.Tree, repetition: int = 0) -> Place:
        label = self.labels.get(id(part))
        return self.here.at(label.at(repetition) if label is not None else None)

    # --- calls ---------------------------------------------------------------------------------------------------

    def find(self, callee: tree.Name) -> Op | BlockRef | LayerObject | None:
        """What is called, or None."""
        if len(callee.parts) > 1:
            unit = alias(self.unit, self.report, callee)
            block = unit.blocks.get(callee.parts[1])
            return BlockRef(block, unit) if block is not None else None
        name = callee.text
        entry = self.scope.find(name)
        if entry is not None and isinstance(entry.value, LayerObject):
            return entry.value
        if name in self.unit.blocks:
            return BlockRef(self.unit.blocks[name], self.unit)
        return REGISTRY[name] if is_op(name) else None

    def resolve(self, callee: tree.Name) -> Op | BlockRef | LayerObject:
        found = self.find(callee)
        if found is not None:
            return found
        entry = self.scope.find(callee.text)
        if entry is not None and isinstance(entry.value, Poison):
            raise Failed
        self.fail(*unknown_callee(self.unit, self.report, callee, self.scope))

    def call(self, part: tree.Call, piped: Sequence[Tensor], repetition: int = 0) -> Any:
        target = self.resolve(part.callee)
        place = self.place_of(part, repetition)
        before: dict[str, Bound] = {}
        if isinstance(target, LayerObject):
            before, place, target = target.arguments, Place(place.path, target.path, set()), target.callee
        callee = self.signature(target)
        bound = Binder(self, callee, self.is_tensor).bind(part.arguments, part.span, piped, before=before)
        if isinstance(target, BlockRef):
            return self.instantiate(target, callee, bound, place, part.span)
        return apply_op(self, target, bound, place, part.span)

    def layer_object(self, part: tree.Layer) -> LayerObject:
        if is_op(part.name) or part.name in self.unit.blocks:
            self.fail("E0202", f"`{part.name}` is an op or a block already", part.span,
                      "choose another name: nothing is shadowed")
        target = self.resolve(part.value.callee)
        if isinstance(target, LayerObject):
            self.fail("E0422", f"`{target.name}` is a layer object already", part.value.span,
                      f"call an op or a block, or use `{target.name}`")
        bound = Binder(self, self.signature(target), self.is_tensor).bind(part.value.arguments, part.value.span,
                                                                          partial=True)
        path = self.place.at(part.name).weights
        if self.place.shared is None:
            path = self.session.unique(path)
        return LayerObject(part.name, target, bound, path, part.value)

    def signature(self, target: Op | BlockRef) -> Callee:
        if isinstance(target, BlockRef):
            return Callee(target.block.name, block_parameters(self.session, target))
        return Callee(target.name, target.args())

    def instantiate(self, target: BlockRef, callee: Callee, bound: dict[str, Bound], place: Place, span: Span) -> Any:
        """One call of a block: its body in a scope of its own."""
        block = target.block
        if len(self.chain) >= MAX_DEPTH:
            self.fail("E0212", f"`{block.name}`: blocks are nested more than {MAX_DEPTH} deep", span,
                      "does a block call itself without end?")
        chain = (Note(f"in `{block.name}`, called", span), *self.chain)
        names = tuple(result.name for result in block.results)
        body = self.inner(target.unit, place, names if len(names) == 1 else (), chain)
        for arg, parameter in zip(callee.parameters, block.parameters):
            if arg.kind == "tensor":
                value: Any = replace(bound[arg.name].value, name=arg.name)
            elif arg.name in bound:
                value = wrap(bound[arg.name].value, arg.kind)
            else:
                value = body.typed(arg.default, arg.kind, f"`{arg.name}` of `{block.name}`")
            body.scope.bind(arg.name, value, parameter.span)
        specs = [(p.type, bound[p.name].value) for p in block.parameters if isinstance(p.type, tree.TensorSpec)]
        for spec, tensor in specs:
            body.bind_symbols(spec, tensor)
        body.all([lambda s=s, t=t: body.check_type(s, t) for s, t in specs])
        body.run(block.body)
        tensors = body.all([lambda r=r: body.result(block, r) for r in block.results])
        return tensors[0] if len(tensors) == 1 else Results(block.name, tuple(tensors))

    def inner(self, unit: Unit, place: Place, results: tuple[str, ...], chain: tuple[Note, ...]) -> Body:
        """What elaborates the body of a block that is called here."""
        return Body(self.session, unit, place, results, chain)

    def result(self, block: tree.Block, target: tree.Target) -> Tensor:
        if self.scope.find(target.name) is None:
            hint = did_you_mean(target.name, self.scope.names()) or f"write `{target.name} = …` in the block"
            self.fail("E0206", f"`{block.name}` never gives its result `{target.name}` a value", target.span, hint)
        value = self.name(tree.Name(target.span, (target.name,)))
        if not isinstance(value, Tensor):
            self.fail("E0422", f"the result `{target.name}` is {describe(value)}, not a tensor", target.span)
        if target.type is not None:
            self.check_type(target.type, value)
        return replace(value, name=None)

    # --- types ---------------------------------------------------------------------------------------------------

    def dtype(self, spec: tree.TensorSpec) -> str:
        if spec.dtype not in DECLARED:
            self.fail("E0205", f"there is no element type `{spec.dtype}`", spec.span,
                      did_you_mean(spec.dtype, DECLARED) or f"the types are {', '.join(DECLARED)}")
        return spec.dtype

    def bind_symbols(self, spec: tree.TensorSpec, tensor: Tensor) -> None:
        """Gives the new names among the dims of a block parameter's type their sizes."""
        if len(spec.dims) == tensor.type.rank:
            for part, size in zip(spec.dims, tensor.type.shape):
                if isinstance(part, tree.Name) and len(part.parts) == 1 and self.scope.find(part.text) is None:
                    self.scope.bind(part.text, size, part.span)

    def check_type(self, spec: tree.TensorSpec, tensor: Tensor) -> None:
        """Compares the type in the text with the tensor's (E0320)."""
        what = f"`{tensor.name}`" if tensor.name else "the value"
        dtype = self.dtype(spec)
        notes = made_by([tensor])
        if len(spec.dims) != tensor.type.rank:
            self.fail("E0320", f"{what} is {tensor.type}, which has {tensor.type.rank} dims, not {len(spec.dims)}",
                      spec.span, None, notes)
        wanted = tuple(self.all([lambda p=p: self.dim(p) for p in spec.dims]))
        if dtype != tensor.type.dtype:
            self.fail("E0320", f"{what} is {tensor.type}, its elements are not {dtype}", spec.span, None, notes)
        for part, size, actual in zip(spec.dims, wanted, tensor.type.shape):
            if size != actual:
                self.fail("E0320", f"{what} is {tensor.type}, not {TensorType(dtype, wanted)}", part.span,
                          f"this dim is {actual}", notes)

    def declared_type(self, spec: tree.TensorSpec) -> TensorType:
        """The type of an input or label; new names among its dims become symbols."""
        dtype = self.dtype(spec)
        for part in spec.dims:
            if isinstance(part, tree.Name) and len(part.parts) == 1 and self.scope.find(part.text) is None:
                self.scope.bind(part.text, dims.symbol(part.text), part.span)
        return TensorType(dtype, tuple(self.all([lambda p=p: self.dim(p) for p in spec.dims])))


def unknown_callee(unit: Unit, report: Report, callee: tree.Name, scope: Scope) -> tuple[str, str, Span, str | None]:
    """Code, message, span and hint for a name that is no op and no block."""
    if len(callee.parts) > 1:
        other = alias(unit, report, callee)
        if not other.complete:
            raise Failed
        return ("E0203", f"`{other.name}` has no block `{callee.parts[1]}`", callee.span,
                did_you_mean(callee.parts[1], other.blocks))
    name = callee.text
    if (entry := scope.find(name)) is not None:
        return "E0203", f"`{name}` is {describe(entry.value)}, not an op or a block", callee.span, None
    instead = ELSEWHERE.get(name.lower().replace("_", "")) or ELSEWHERE.get(name.lower())
    if instead is not None and is_op(instead):
        hint: str | None = f"it is called `{instead}` here"
    else:
        inside = [f"{a}.{name}" for a, u in unit.imports.items() if u is not None and name in u.blocks]
        hint = f"did you mean `{inside[0]}`?" if inside else did_you_mean(name, [*op_names(), *unit.blocks])
    return "E0203", f"there is no op or block `{name}`", callee.span, hint or "`netc ops` lists the ops"


def bound_names(part: tree.Statement) -> Iterator[str]:
    """The names a statement gives values to, in all branches."""
    match part:
        case tree.Binding():
            yield from (target.name for target in part.targets)
        case tree.If():
            for statement in (*part.then, *part.orelse):
                yield from bound_names(statement)
        case tree.Loss() | tree.Metric():
            return
        case _:
            yield part.name


def block_parameters(session: Session, target: BlockRef) -> tuple[Arg, ...]:
    """The parameters of a block with their kinds; defaults stay syntax trees. Checked once a block."""
    key = id(target.block)
    if key not in session.parameters:
        evaluator = Evaluator(session.report, target.unit.scope,
                              lambda name: imported(target.unit, session.report, name))
        session.parameters[key] = declared_parameters(evaluator, target.block.parameters, tensors=True)
    return session.parameters[key]


def declared_parameters(evaluator: Evaluator, parameters: Sequence[tree.Parameter], tensors: bool) -> tuple[Arg, ...]:
    """Parameters of a block (or a net, which has no tensors among them) as Args."""
    kinds = [kind for kind in KINDS if kind != "tensors" and (tensors or kind != "tensor")]
    seen: set[str] = set()

    def one(part: tree.Parameter) -> Arg:
        if part.name in seen:
            evaluator.fail("E0202", f"there is a parameter `{part.name}` already", part.span)
        seen.add(part.name)
        match part.type:
            case tree.TensorSpec() if tensors:
                kind: str | None = "tensor"
            case tree.TensorSpec():
                evaluator.fail("E0205", f"a net's parameter is no tensor: `{part.name}`", part.span,
                               "write `input x: f32[N, …]`")
            case tree.TypeName(name=name):
                kind = name
                if name not in kinds:
                    evaluator.fail("E0205", f"there is no parameter type `{name}`", part.type.span,
                                   f"write `{name}[N, …]` or `tensor`" if name in DECLARED and tensors
                                   else did_you_mean(name, kinds) or f"the types are {', '.join(kinds)}")
            case None:
                if part.default is None:
                    raise Failed  # the parser has said that it needs one of the two
                kind = kind_of(evaluator.value(part.default))
                if kind is None:
                    evaluator.fail("E0205", f"the parameter `{part.name}` needs a type", part.span,
                                   f"write `{part.name}: int = …`")
        if kind in TENSORS and part.default is not None:
            evaluator.fail("E0205", f"the tensor `{part.name}` cannot have a default", part.default.span)
        return Arg(part.name, kind, part.default, required=part.default is None)

    return tuple(evaluator.all([lambda p=p: one(p) for p in parameters]))

