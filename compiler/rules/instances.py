"""Random small nets that a rule's pattern matches: the shapes and arguments that its tests run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.build import Builder
from compiler.elaborate.apply import default_of
from compiler.elaborate.expressions import AXES, words_of, wrap
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.values import Typed, ValueProblem
from compiler.ir import DTYPES, Graph, Node, TensorType
from compiler.ops import Arg, Op, OpError, namespace
from compiler.rules.arguments import OPTIONAL, WEIGHTS, complete, from_weights, values
from compiler.rules.match import Match, matches, scope, structural
from compiler.rules.rule import ANY_TYPE, Call, Pattern, Rule, Scalar, Variable, names_of
from dsl import tree

TRIES = 1500  # draws in a row that fit nothing
POSITIVE = ("running_var", "std")


class Unfit(Exception):
    """This draw makes no net: another one may."""


@dataclass(frozen=True)
class Instance:
    """A net that is the pattern of a rule, and its match; arrays: values for its inputs and parameters, in float64."""

    graph: Graph
    match: Match
    arrays: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        return sum(array.size for array in self.arrays.values()) + 100 * len(self.graph)


def instances(rule: Rule, report: Report, count: int, seed: int = 0) -> Iterator[Instance]:
    """Up to `count` instances; none where no draw fits. What the rule says wrong about them goes to the report."""
    stream = np.random.default_rng(seed)
    left = TRIES
    while count and left and not report.errors:
        left -= 1
        try:
            made = Maker(rule, report, stream).instance()
        except (Unfit, OpError, ValueProblem, Failed):
            continue
        count, left = count - 1, TRIES
        yield made


class Maker:
    """Draws one instance."""

    def __init__(self, rule: Rule, report: Report, stream: np.random.Generator):
        self.rule, self.report, self.stream = rule, report, stream
        self.graph = Graph(rule.name)
        self.builder = Builder(self.graph)
        self.tensors: dict[str, str | None] = {}
        self.values: dict[str, Any] = {}
        self.layers: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        self.positive: set[str] = set()

    def instance(self) -> Instance:
        roots = [self.make(root, ()) for root in self.rule.roots]
        if len(set(roots)) < len(roots):
            raise Unfit
        self.graph.outputs = {str(i): name for i, name in enumerate(roots)}
        found = next((m for m in matches(self.rule, self.graph, roots[0]) if m.roots == tuple(roots)), None)
        if found is None:
            self.look_at_condition(roots)
            raise Unfit
        return Instance(self.graph, found, self.arrays())

    def look_at_condition(self, roots: list[str]) -> None:
        """Reports a condition that cannot be told, whatever it is asked about."""
        for found in structural(self.rule, self.graph, roots[0]):
            if found.roots == tuple(roots) and self.rule.condition is not None:
                scope(self.rule, found, self.report).truth(self.rule.condition, "the condition of a rule")

    # --- nodes ---------------------------------------------------------------------------------------------------

    def make(self, pattern: Pattern, beside: Sequence[TensorType]) -> str:
        """The node of a pattern; `beside` are the other operands of who reads it."""
        match pattern:
            case Variable(name=name):
                if name not in self.tensors:
                    self.leaf(name, self.type(name, beside))
                node = self.tensors[name]
                if node is None:
                    raise Unfit
                return node
            case Scalar(value=value):
                dtype = beside[0].dtype if beside else "f32"
                number = self.expression(value, "float" if dtype in ("f32", "f64") else "int")
                return self.builder.constant(number, dtype).name
        return self.call(pattern)

    def call(self, pattern: Call) -> str:
        op = pattern.op
        names: dict[int, str] = {}
        for at, part in sorted(enumerate(pattern.operands), key=lambda pair: isinstance(pair[1], Scalar)):
            names[at] = self.make(part, [self.graph[i].type for i in names.values()])
        operands = [names[at] for at in range(len(names))]
        types = [self.graph[i].type for i in operands]
        earlier, shared = self.layers.get(pattern.layer, ({}, {}))
        given = {}
        for arg in values(op):
            part = pattern.given.get(arg.name)
            given[arg.name] = earlier[arg.name] if part is None and arg.name in earlier else \
                self.decided(pattern, arg) if part is None and self.decided(pattern, arg) is not None else \
                self.argument(op, arg, part, types)
        attrs = op.attrs(complete(op, given), *types)
        weights = self.weights(pattern, given, attrs, types, shared)
        if pattern.layer is not None:
            self.layers.setdefault(pattern.layer, (
                {k: v for k, v in given.items() if k not in from_weights(op, {
                    k: self.graph[i].type for k, i in weights.items()})} if weights else given, weights))
        inputs = (*operands, *weights.values())
        result = op.infer(namespace(attrs), *[self.graph[i].type for i in inputs])
        if not result.shape and not op.roles == ("layer",):
            raise Unfit
        return self.graph.add(Node(self.graph.fresh(op.name), op.name, inputs, result, attrs))

    def weights(self, pattern: Call, given: dict[str, Any], attrs: dict[str, Any], types: list[TensorType],
                shared: dict[str, str]) -> dict[str, str]:
        op, out = pattern.op, {}
        if op.name not in WEIGHTS:
            return out
        extra = {"bias": True} if (op.name, "bias") in OPTIONAL else {}
        for name, weight in op.weights(complete(op, {**given, **extra}), namespace(attrs), *types).items():
            type = TensorType(types[0].dtype, weight.shape)
            part = pattern.weights.get(name)
            if name in pattern.weights and part is None:
                continue
            if (op.name, name) in OPTIONAL:
                zero = isinstance(part, Variable) and self.rule.parameters[part.name].zero
                known = self.tensors.get(part.name, "") is None if zero else False
                if known or (zero and part.name not in self.tensors or part is None and name not in shared) \
                        and self.stream.random() < 0.4:
                    if zero:
                        self.tensors[part.name] = None
                    continue
            if part is None:
                out[name] = shared.get(name) or self.parameter(f"{op.name}.{name}", type)
            elif isinstance(part, Variable) and part.name not in self.tensors:
                self.unify(part.name, type)
                out[name] = self.leaf(part.name, type)
            else:
                out[name] = self.make(part, ())
                if self.graph[out[name]].type != type:
                    raise Unfit
            if name in POSITIVE:
                self.positive.add(out[name])
        return out

    def leaf(self, name: str, type: TensorType) -> str:
        weight = self.rule.parameters[name].kind == "weight"
        self.tensors[name] = self.parameter(name, type) if weight else self.builder.input(name, type, "input").name
        return self.tensors[name]

    def parameter(self, name: str, type: TensorType) -> str:
        return self.graph.add(Node(self.graph.fresh(name), "parameter", (), type, {"trainable": True}))

    # --- types ---------------------------------------------------------------------------------------------------

    def unify(self, name: str, type: TensorType) -> None:
        spec = self.rule.parameters[name].type
        if spec is None:
            return
        if len(spec.dims) != type.rank or spec.dtype not in (*ANY_TYPE, type.dtype):
            raise Unfit
        for part, size in zip(spec.dims, type.shape):
            if isinstance(part, tree.Name) and self.rule.unit.scope.find(part.text) is None:
                if self.values.setdefault(part.text, size) != size:
                    raise Unfit

    def type(self, name: str, beside: Sequence[TensorType]) -> TensorType:
        spec = self.rule.parameters[name].type
        if spec is None:
            return self.any_type(beside)
        dtype = spec.dtype if spec.dtype not in ANY_TYPE else beside[0].dtype if beside else "f32"
        shape = []
        for axis, part in enumerate(spec.dims):
            if isinstance(part, tree.Name) and self.rule.unit.scope.find(part.text) is None:
                shape.append(self.values.setdefault(part.text, self.size(axis, len(spec.dims))))
            else:
                shape.append(self.expression(part, "int"))
        if any(not isinstance(size, int) or size < 1 for size in shape):
            raise Unfit
        return TensorType(dtype, tuple(shape))

    def any_type(self, beside: Sequence[TensorType]) -> TensorType:
        fractions = any(p.kind == "float" for p in self.rule.parameters.values())  # which whole numbers are no place for
        dtype = beside[0].dtype if beside else self.pick(["f32"] * 9 + ["f32" if fractions else "i32"])
        known = [*beside, *(self.graph[n].type for n in self.tensors.values() if n is not None)]
        if known and self.stream.random() < 0.7:
            shape = list(known[0].shape if beside else self.pick(known).shape)
            if self.stream.random() < 0.4:  # one that broadcasts
                shape = [size if self.stream.random() < 0.5 else 1 for size in shape]
                shape = shape[self.stream.integers(0, len(shape) + 1):]
            return TensorType(dtype, tuple(shape))
        rank = self.pick([4, 4, 4, 2, 2, 3, 1, 5])
        return TensorType(dtype, tuple(self.size(axis, rank) for axis in range(rank)))

    def size(self, axis: int, rank: int) -> int:
        if axis == 0:
            return self.pick([1, 2, 3, 4])
        return self.pick([1, 2, 2, 3, 4, 4, 6]) if axis == 1 else self.pick([1, 2, 3, 3, 4, 5, 6, 7])

    # --- arguments -----------------------------------------------------------------------------------------------

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.stream.integers(len(choices))]

    def decided(self, pattern: Call, arg: Arg) -> Any:
        """What the dims of a weight say about an argument, as far as they are known."""
        weight = pattern.weights.get("weight")
        spec = self.rule.parameters[weight.name].type if isinstance(weight, Variable) else None
        if spec is None or arg.name not in ("k", "ch", "units"):
            return None
        sizes = [part.value if isinstance(part, tree.Number) else self.values.get(part.text)
                 if isinstance(part, tree.Name) else None for part in spec.dims]
        if arg.name != "k":
            return sizes[0] if sizes else None
        return tuple(sizes[2:]) if None not in sizes[2:] and len(sizes) > 2 else None

    def argument(self, op: Op, arg: Arg, part: tree.Expression | None, types: list[TensorType]) -> Any:
        if part is None:
            return self.draw(op, arg, types)
        if isinstance(part, tree.Name) and part.text in self.rule.parameters:
            if arg.kind == "weight":
                return self.draw(op, arg, types)
            if part.text not in self.values:
                self.values[part.text] = wrap(self.draw(op, arg, types), arg.kind)
            value = self.values[part.text]
            return value.value if isinstance(value, Typed) else value
        return self.expression(part, arg.kind)

    def expression(self, part: tree.Expression, kind: str) -> Any:
        for name in {name.text for name in names_of(part)}:
            parameter = self.rule.parameters.get(name)
            if name not in self.values and parameter is not None and not parameter.is_tensor:
                self.values[name] = int(self.stream.integers(0, 4)) if parameter.kind == "int" else \
                    float(self.pick([0.5, 1.0, 2.0, -1.5])) if parameter.kind == "float" else self.unfit()
        found = Match(self.rule, values=self.values)
        return scope(self.rule, found, self.report).convert(part, kind, "this")

    def unfit(self) -> Any:
        raise Unfit

    def draw(self, op: Op, arg: Arg, types: list[TensorType]) -> Any:
        """An argument that the pattern leaves open."""
        if not arg.required and arg.name not in ("ch", "units") and self.stream.random() < 0.4:
            return default_of(arg.kind, arg.default)
        x = types[0] if types else TensorType("f32", (2, 2))
        spatial = max(x.rank - 2, 1)
        name = DRAW.get(arg.name)
        if name is not None and arg.kind == name[0]:
            one = name[1]
            same = self.stream.random() < 0.5
            return tuple([self.pick(one)] * spatial if same else [self.pick(one) for _ in range(spatial)]) \
                if arg.kind == "dims" else self.pick(one)
        if arg.kind == "padding":
            pairs = tuple((self.pick([0, 1, 2]), self.pick([0, 1])) for _ in range(spatial))
            return self.pick(["valid", "same", 1, pairs] if op.name != "pad" else [1, pairs])
        if "|" in arg.kind:
            return self.pick(words_of(arg.kind))
        maker = KINDS.get(arg.kind)
        return maker(self, x) if maker else self.unfit()

    def arrays(self) -> dict[str, np.ndarray]:
        """Normal numbers, some of them 0; half of the instances have no negative ones."""
        out = {}
        positive = self.stream.random() < 0.3
        for node in [*self.graph.leaves("input"), *self.graph.leaves("parameter")]:
            shape = node.type.shape
            if not node.type.is_float:
                out[node.name] = self.stream.integers(0, 2 if node.type.dtype == "bool" else 9, shape).astype(
                    DTYPES[node.type.dtype])
                continue
            array = self.stream.standard_normal(shape) * self.pick([1.0, 1.0, 3.0])
            if node.name in self.positive:
                array = np.abs(array) + 0.1
            elif positive:
                array = np.abs(array)
            else:
                array = np.where(self.stream.random(shape) < 0.1, 0.0, array)
            out[node.name] = np.asarray(array, "float64")
        return out


DRAW: dict[str, tuple[str, list[Any]]] = {
    "k": ("dims", [1, 1, 1, 2, 3, 3, 5]), "stride": ("dims", [1, 1, 1, 2, 3]), "dilation": ("dims", [1, 1, 1, 1, 2]),
    "groups": ("int", [1, 1, 1, 2]), "ch": ("int", [1, 2, 2, 3, 4, 6]), "units": ("int", [1, 2, 3, 4, 5]),
}
FLOATS = [0.5, 1.0, 2.0, 0.125, 3.0, -0.5, 2.0 ** -10]  # exact in f32, as which constants are stored
KINDS: dict[str, Callable[[Maker, TensorType], Any]] = {
    "int": lambda m, x: int(m.stream.integers(0, 4)), "float": lambda m, x: m.pick(FLOATS),
    "bool": lambda m, x: bool(m.stream.random() < 0.5),
    "axis": lambda m, x: m.pick([*range(x.rank), *AXES[:2]]),
    "axes": lambda m, x: tuple(axis for axis in range(x.rank) if m.stream.random() < 0.5) or (x.rank - 1,),
    "ints": lambda m, x: tuple(int(i) for i in m.stream.permutation(x.rank)),
    "shape": lambda m, x: m.pick([(x.size,), tuple(reversed(x.shape)), (x.shape[0], -1) if x.rank else (1,), x.shape]),
    "dims": lambda m, x: m.pick([1, 2, 3]), "dtype": lambda m, x: m.pick(["f32", "i32"]),
    "weight": lambda m, x: np.ceil(64 * np.abs(m.stream.standard_normal(x.shape[1] if x.rank > 1 else 1))) / 64 + 0.25,
}
