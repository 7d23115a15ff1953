"""Finding what a rule's pattern stands for in a graph.

A match is contained: what lies inside of it is read by nothing else and is no result. The operands of `add` and `mul`
are tried in both orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import numpy as np

from compiler.elaborate.arguments import Bound
from compiler.elaborate.expressions import wrap
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.values import LayerObject, Tensor, Typed
from compiler.ir import DTYPES, Graph, Node, TensorType
from compiler.ops import REGISTRY, OpError
from compiler.passes.price import fixed
from compiler.rules.arguments import from_weights, operands, parameters, read, resolve
from compiler.rules.rule import ANY_TYPE, Call, Pattern, Rule, Scalar, Variable
from compiler.rules.terms import Terms, terms
from dsl import tree

COMMUTATIVE = ("add", "mul")


@dataclass(frozen=True)
class Zero:
    """The weight that a layer does not have: zeros of this type."""

    type: TensorType


@dataclass(frozen=True)
class Match:
    """roots, nodes: the matched nodes whose values are replaced, and all of them, inputs before users. tensors: parameter
    → node, Zero, or an array that was an argument. values: parameter or dim → value. layers: name → node."""

    rule: Rule
    roots: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    tensors: Mapping[str, str | Zero | np.ndarray] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[tuple[Call, str], ...] = ()
    known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def type(self, graph: Graph, name: str) -> TensorType:
        """The type of a tensor parameter."""
        match self.tensors[name]:
            case str(node):
                return graph[node].type
            case Zero(type=type):
                return type
        return TensorType("f32", np.shape(self.tensors[name]))


def matches(rule: Rule, graph: Graph, root: str, known: dict[str, bool] | None = None) -> Iterator[Match]:
    """The matches of a rule whose first result is the node `root`. known: which nodes are weights, as far as it was asked;
    it grows."""
    return (found for found in structural(rule, graph, root, known) if _holds(graph, found))


def structural(rule: Rule, graph: Graph, root: str, known: dict[str, bool] | None = None) -> Iterator[Match]:
    """What would match but for computed arguments and dims, and the condition."""
    start = Match(rule, known={} if known is None else known)
    return (found for found in _roots(rule, graph, root, rule.roots, start) if _contained(graph, found))


def _roots(rule: Rule, graph: Graph, root: str, patterns: Sequence[Call], sofar: Match) -> Iterator[Match]:
    for found in _match(graph, patterns[0], root, sofar):
        found = replace(found, roots=(*found.roots, root))
        if len(patterns) == 1:
            yield found
            continue
        for name in _candidates(graph, patterns[1], found):
            if name not in found.roots:
                yield from _roots(rule, graph, name, patterns[1:], found)


def _candidates(graph: Graph, pattern: Call, sofar: Match) -> list[str]:
    """Where a further result may be: above a value that the results before it have bound."""
    way = _way(pattern, sofar)
    if way is None:
        return [node.name for node in graph.nodes() if node.op == pattern.op.name]
    start, ops = way
    names = [start]
    for op in ops:
        names = list(dict.fromkeys(user.name for name in names for user in graph.users(name) if user.op == op))
    return names


def _way(pattern: Pattern | None, sofar: Match) -> tuple[str, list[str]] | None:
    """A bound value that a pattern reads, and the ops from there to its top."""
    if isinstance(pattern, Variable):
        node = sofar.tensors.get(pattern.name)
        return (node, []) if isinstance(node, str) else None
    if isinstance(pattern, Call):
        for part in (*pattern.operands, *pattern.weights.values()):
            if (way := _way(part, sofar)) is not None:
                return way[0], [*way[1], pattern.op.name]
    return None


# --- one pattern, one node -------------------------------------------------------------------------------------------

def _match(graph: Graph, pattern: Pattern, name: str, sofar: Match) -> Iterator[Match]:
    match pattern:
        case Variable():
            found = _bind_tensor(graph, pattern.name, name, sofar)
            if found is not None:
                yield found
        case Scalar(value=value):
            number = scalar(graph, name)
            if number is not None:
                yield from _number(sofar, value, number)
        case Call():
            yield from _call(graph, pattern, name, sofar)


def _call(graph: Graph, pattern: Call, name: str, sofar: Match) -> Iterator[Match]:
    node = graph[name]
    if node.op != pattern.op.name:
        return
    tensors, weights = operands(node)
    if len(tensors) != len(pattern.operands):
        return
    pairs: list[tuple[Pattern, str]] = []
    for weight, part in pattern.weights.items():
        if weight in weights and part is not None:
            pairs.append((part, weights[weight]))
        elif weight in weights:
            return
        elif part is not None:
            none = Zero(graph[weights["weight"]].type.with_shape(graph[weights["weight"]].type.shape[0]))
            bound = _bind_zero(part, none, sofar)
            if bound is None:
                return
            sofar = bound
    orders = [tensors] if node.op not in COMMUTATIVE or tensors[0] == tensors[1] else [tensors, tensors[::-1]]
    for order in orders:
        for found in _sequence(graph, [*zip(pattern.operands, order), *pairs], sofar):
            found = _arguments(graph, pattern, name, found)
            if found is not None:
                nodes = found.nodes if name in found.nodes else (*found.nodes, name)
                yield replace(found, nodes=nodes, calls=(*found.calls, (pattern, name)))


def _sequence(graph: Graph, pairs: Sequence[tuple[Pattern, str]], sofar: Match) -> Iterator[Match]:
    if not pairs:
        yield sofar
        return
    for found in _match(graph, *pairs[0], sofar):
        yield from _sequence(graph, pairs[1:], found)


def _arguments(graph: Graph, pattern: Call, name: str, sofar: Match) -> Match | None:
    """Binds the parameters that are arguments of a node; a layer of a name met before must be like it."""
    node = graph[name]
    values, tensors, layers = dict(sofar.values), dict(sofar.tensors), dict(sofar.layers)
    if pattern.layer is not None:
        if pattern.layer in layers and not _alike(graph, pattern, layers[pattern.layer], name):
            return None
        layers.setdefault(pattern.layer, name)
    wanted = {key: part for key, part in pattern.given.items() if isinstance(part, tree.Name)
              and part.text in sofar.rule.parameters}
    if wanted:
        found = read(graph, node)
        kinds = {arg.name: arg.kind for arg in parameters(pattern.op)}
        for key, part in wanted.items():
            if found[key] is None:
                return None
            if kinds[key] == "weight":
                array = np.asarray(found[key], "float64")
                if not _fits(TensorType("f32", array.shape), sofar.rule, part.text, values) \
                        or not np.array_equal(tensors.setdefault(part.text, array), array):
                    return None
            elif not _same(values.setdefault(part.text, wrap(found[key], kinds[key])), wrap(found[key], kinds[key])):
                return None
    return replace(sofar, values=values, tensors=tensors, layers=layers)


def _alike(graph: Graph, pattern: Call, first: str, second: str) -> bool:
    """Whether two layers agree in all that the pattern does not say."""
    (_, left), (_, right) = operands(graph[first]), operands(graph[second])
    skip = {*pattern.given, *from_weights(pattern.op, {k: graph[v].type for k, v in left.items()})}
    return {k: v for k, v in read(graph, graph[first]).items() if k not in skip} == \
        {k: v for k, v in read(graph, graph[second]).items() if k not in skip} and \
        {k: v for k, v in left.items() if k not in pattern.weights} == \
        {k: v for k, v in right.items() if k not in pattern.weights}


def _bind_tensor(graph: Graph, name: str, node: str, sofar: Match) -> Match | None:
    if name in sofar.tensors:
        bound = sofar.tensors[name]
        return sofar if isinstance(bound, str) and bound == node else None
    values = dict(sofar.values)
    if not _fits(graph[node].type, sofar.rule, name, values):
        return None
    if sofar.rule.parameters[name].kind == "weight" and not _weight(graph, node, sofar.known):
        return None
    return replace(sofar, tensors={**sofar.tensors, name: node}, values=values)


def _weight(graph: Graph, name: str, known: dict[str, bool]) -> bool:
    """Whether parameters and constants alone determine a node."""
    if name not in known:
        parts = graph[name].inputs
        known[name] = all(known[i] for i in parts) if parts and all(i in known for i in parts) else fixed(graph, name)
    return known[name]


def _bind_zero(part: Pattern, none: Zero, sofar: Match) -> Match | None:
    if not isinstance(part, Variable) or not sofar.rule.parameters[part.name].zero:
        return None
    if sofar.tensors.get(part.name, none) != none:
        return None
    return replace(sofar, tensors={**sofar.tensors, part.name: none})


def _fits(type: TensorType, rule: Rule, name: str, values: dict[str, Any]) -> bool:
    """Whether element type and rank are those of the parameter; dims that are names get their values."""
    spec = rule.parameters[name].type
    if spec is None:
        return True
    if spec.dtype not in (type.dtype, *ANY_TYPE) or len(spec.dims) != type.rank:
        return False
    for part, size in zip(spec.dims, type.shape):
        if isinstance(part, tree.Number) and part.value != size:
            return False
        if isinstance(part, tree.Name) and rule.unit.scope.find(part.text) is None \
                and values.setdefault(part.text, size) != size:
            return False
    return True


def scalar(graph: Graph, name: str) -> int | float | None:
    """The number that a node is, if it is a constant one."""
    node = graph[name]
    if node.op != "constant" or node.type.shape:
        return None
    value = node.attrs["value"]
    return np.asarray(value).item()


def _number(sofar: Match, part: tree.Expression, number: int | float) -> Iterator[Match]:
    if isinstance(part, tree.Name) and part.text in sofar.rule.parameters:
        if sofar.rule.parameters[part.text].kind == "int" and not isinstance(number, int):
            return
        values = {**sofar.values}
        if _same(values.setdefault(part.text, number), number):
            yield replace(sofar, values=values)
        return
    evaluator = scope(sofar.rule, sofar)
    try:
        wanted = evaluator.value(part)
    except Failed:
        return
    if wanted == number or np.float32(wanted) == np.float32(number):
        yield sofar


def _same(left: Any, right: Any) -> bool:
    left, right = (value.value if isinstance(value, Typed) else value for value in (left, right))
    return left == right


# --- the whole match -------------------------------------------------------------------------------------------------

def _contained(graph: Graph, found: Match) -> bool:
    """Whether nothing else needs what lies inside, and no operand depends on a value that is replaced."""
    inside = set(found.nodes) - set(found.roots)
    kept = {*graph.results(), *graph.gradients.values()}
    tensors = {node for node in found.tensors.values() if isinstance(node, str)}
    if tensors & set(found.nodes) or inside & kept:
        return False
    if any(user not in found.nodes for name in inside for user in graph.nx.successors(name)):
        return False
    if len(found.roots) == 1:
        return True
    return not any(tensors & nx.descendants(graph.nx, root) for root in found.roots)


def _holds(graph: Graph, found: Match) -> bool:
    """Whether arguments, dims and the condition are what the rule says; one that cannot be told does not hold."""
    evaluator = scope(found.rule, found)
    try:
        return arguments_hold(graph, found, evaluator) and dims_hold(graph, found, evaluator) and (
            found.rule.condition is None or evaluator.truth(found.rule.condition, "the condition of a rule"))
    except (Failed, OpError):
        return False


def scope(rule: Rule, found: Match, report: Report | None = None) -> Terms:
    """Evaluates expressions of a rule with the numbers that a match has bound."""
    made = terms(report or Report(), rule.unit)
    for name, value in found.values.items():
        made.scope.bind(name, value, rule.tree.span)
    return made


def arguments_hold(graph: Graph, found: Match, evaluator: Terms) -> bool:
    """Whether nodes have the arguments that the pattern gives as values."""
    for call, name in found.calls:
        kinds = {arg.name: arg.kind for arg in parameters(call.op)}
        given = {key: evaluator.convert(part, kinds[key], f"`{key}` of `{call.op.name}`")
                 for key, part in call.given.items()
                 if not (isinstance(part, tree.Name) and part.text in found.rule.parameters)}
        if not given:
            continue
        node = graph[name]
        tensors, weights = operands(node)
        decided = from_weights(call.op, {k: graph[i].type for k, i in weights.items()})
        if any(key in decided and key != "k" and decided[key] != value for key, value in given.items()):
            return False
        if resolve(call.op, {**read(graph, node), **given}, [graph[i].type for i in tensors]) != node.attrs:
            return False
    return True


def dims_hold(graph: Graph, found: Match, evaluator: Terms) -> bool:
    """Whether dims that are computed from others are those of the tensors."""
    for name, parameter in found.rule.parameters.items():
        if parameter.type is None or name not in found.tensors:
            continue
        type = found.type(graph, name)
        if isinstance(found.tensors[name], Zero) and not _fits(type, found.rule, name, dict(found.values)):
            return False
        for part, size in zip(parameter.type.dims, type.shape):
            if not isinstance(part, tree.Number) and evaluator.value(part) != size:
                return False
    return True


def bind_tensors(graph: Graph, found: Match, made: Terms) -> dict[str, str]:
    """Puts a leaf for each tensor and the layers of a match into the scope and graph of `made`. Returns leaf → node of
    `graph`."""
    rule, leaves = found.rule, {}

    def tensor(node: str) -> Tensor:
        leaf = f"${node}"
        if leaf not in made.graph:
            leaves[leaf] = node
            made.graph.add(replace(graph[node], name=leaf, op="parameter", inputs=(), attrs={}))
        return Tensor(leaf, graph[node].type, graph[node].op, rule.tree.span)

    for name, parameter in rule.parameters.items():
        if not parameter.is_tensor:
            continue
        node, span = found.tensors[name], parameter.span
        if isinstance(node, str):
            made.scope.bind(name, replace(tensor(node), name=name), span)
            continue
        type = found.type(graph, name)
        value = np.zeros(type.shape, DTYPES[type.dtype]) if isinstance(node, Zero) else np.asarray(node, "float32")
        attrs = {"value": value, **({"none": True} if isinstance(node, Zero) else {})}
        made.graph.add(Node(f"new/{name}", "constant", (), type, attrs))
        made.session.taken.add(f"new/{name}")
        made.scope.bind(name, Tensor(f"new/{name}", type, "constant", span, name), span)
    for layer, name in found.layers.items():
        node = graph[name]
        given = {key: Bound(value, rule.tree.span) for key, value in read(graph, node).items() if value is not None}
        given |= {key: Bound(tensor(i), rule.tree.span) for key, i in operands(node)[1].items()}
        made.scope.bind(layer, LayerObject(layer, REGISTRY[node.op], given, layer, None), rule.tree.span)
    return leaves
