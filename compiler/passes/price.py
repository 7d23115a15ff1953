"""What passes on layers ask of a graph: the predicted time of an op that is not there yet, who else reads a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from compiler.build import Value
from compiler.ir import Graph, Node, TensorType, unite
from compiler.ops import REGISTRY, namespace
from compiler.passes.base import Context


def price(context: Context, op: str, attrs: dict[str, Any], *types: TensorType) -> float:
    """Predicted seconds of `op` on operands of these types, as a kernel of its own."""
    graph = Graph("price")
    inputs = tuple(graph.add(Node(f"x{i}", "input", (), type)) for i, type in enumerate(types))
    node = Node("y", op, inputs, REGISTRY[op].infer(namespace(attrs), *types), attrs)
    graph.add(node)
    return context.seconds(graph, [node])


def only_reader(graph: Graph, name: str) -> bool:
    """Whether a single node reads `name`, and it is no result itself."""
    return len(graph.users(name)) == 1 and name not in graph.results()


def fixed(graph: Graph, name: str) -> bool:
    """Whether parameters and constants alone determine a node."""
    waiting, seen = [name], set()
    while waiting:
        node = graph[waiting.pop()]
        if node.op == "input" or not node.inputs and node.op not in ("parameter", "constant"):
            return False
        waiting += [i for i in node.inputs if i not in seen]
        seen.update(node.inputs)
    return True


def all_fixed(graph: Graph) -> set[str]:
    """The nodes that parameters and constants alone determine."""
    found: set[str] = set()
    for node in graph.sorted():
        if node.op in ("parameter", "constant") or node.inputs and all(i in found for i in node.inputs):
            found.add(node.name)
    return found


def settled(graph: Graph, candidates: Iterable[Node], agrees: Callable[[Node, set[str]], bool]) -> list[str]:
    """Those candidates, in order, that agree with who else is left of them, when nobody has to go any more."""
    order = list(candidates)
    chosen = {node.name for node in order}
    waiting = list(order)
    while waiting:
        node = waiting.pop()
        if node.name in chosen and not agrees(node, chosen):
            chosen.remove(node.name)  # which its neighbours may have counted on
            waiting += graph.users(node.name)
            waiting += [graph[i] for i in node.inputs]
    return [node.name for node in order if node.name in chosen]


def become(graph: Graph, name: str, op: str, attrs: dict[str, Any], operands: list[Value], gone: list[str]) -> None:
    """Node `name` becomes an `op` of `operands` and takes over the origins of the nodes in `gone` (readers first), that
    nothing else reads and that are removed."""
    graph.update(name, op=op, attrs=attrs, inputs=tuple(v.name for v in operands),
                 origins=unite(graph[n].origins for n in [name, *gone]))
    for old in gone:
        graph.remove(old)
