"""Tensors that lie side by side: parameters in the flat buffer, and gradients in the arena in the same order.

A `flat` of parameters, or a concat of them that is no kernel, says that they are neighbours: `lower.layout` takes their
order from here. A `flat` of computed tensors is the memory that each of them is written to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compiler.group import view_root
from compiler.ir import Graph, Node, TensorType
from compiler.memory import ALIGNMENT


def starts(types: Iterable[TensorType]) -> tuple[tuple[int, ...], int]:
    """Where tensors of one dtype lie in a flat one, in elements, and how many there are in all: each begins aligned."""
    out, end = [], 0
    for type in types:
        unit = ALIGNMENT // type.itemsize
        out.append(-(-end // unit) * unit)
        end = out[-1] + type.size
    return tuple(out), end


def side_by_side(types: Sequence[TensorType]) -> bool:
    """Whether tensors that each begin aligned leave no gaps between them."""
    return all(type.bytes % ALIGNMENT == 0 for type in types[:-1])


def of_parameters(graph: Graph, node: Node) -> bool:
    return all(graph[i].op == "parameter" for i in node.inputs)


def neighbours(graph: Graph) -> list[tuple[str, ...]]:
    """The parameters that must lie one behind the other, each in at most one of the lists."""
    found: list[tuple[str, ...]] = []
    taken: set[str] = set()
    kernels = {name for launch in graph.kernels or () for name in launch.nodes}
    for op in ("flat", "concat"):
        for node in graph.nodes():
            if node.op == op and node.name not in kernels and of_parameters(graph, node) and taken.isdisjoint(node.inputs):
                found.append(node.inputs)
                taken.update(node.inputs)
    return found


def storages(graph: Graph) -> dict[str, str]:
    """Whose memory nodes lie in that are side by side with others: `parameter:w` from w on, `node:n+64` so many bytes
    behind n's beginning. Others are left out."""
    kernels = {name for launch in graph.kernels for name in launch.nodes}
    memory: dict[str, str] = {}
    for node in graph.nodes():
        if node.name in kernels:
            continue
        if node.op in ("flat", "concat") and of_parameters(graph, node):
            memory[node.name] = f"parameter:{node.inputs[0]}"
        elif node.op == "flat":
            memory[node.name] = f"node:{node.name}"
            for operand, start in zip(node.inputs, node.attrs["starts"]):
                root = view_root(graph, operand)
                memory[root] = f"node:{node.name}+{start * node.type.itemsize}"
        elif node.op == "flat_part" and node.attrs["start"] == 0:
            path = next((p for p, value in graph.updates.items() if value == node.name), None)
            memory[node.inputs[0]] = f"parameter:{path}"
    return {node.name: memory[root] for node in graph.nodes() if (root := view_root(graph, node.name)) in memory}


def base_and_offset(storage: str) -> tuple[str, int]:
    """`node:n+64` as the tensor's own storage `node:n` and 64. Names of merged nodes hold a + too, but none before a number."""
    base, plus, offset = storage.rpartition("+")
    return (base, int(offset)) if plus and offset.isdigit() else (storage, 0)
