"""Concatenations and slices that are places in memory instead of kernels.

The producer of a concat's operand writes into its part of the concat; the reader of a slice reads its part of the whole.
Aliasing is proved: an operand is placed only if it is one kernel's result, nothing else decides where it lies, and nobody
reads it as a compact array under another shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.dims import Dim
from compiler.group import is_leaf, is_view, view_root
from compiler.ir import Graph, Node
from compiler.layout import PLAIN


@dataclass(frozen=True)
class Place:
    """A node lies in the memory of `root`, from `starts` on along each of root's axes."""

    root: str
    starts: tuple[Dim, ...]


def place_concats(graph: Graph) -> set[str]:
    """Places operands of concats, drops the kernels of these, and returns their names."""
    kernels, free = alone(graph), set()
    for node in reversed(graph.sorted()):
        if node.op == "concat" and node.name in kernels and not any(unplaceable(graph, node, i) for i in node.inputs):
            base = graph.places.get(node.name, Place(node.name, (0,) * node.type.rank))
            start: Dim = 0
            for operand in node.inputs:
                graph.places[operand] = Place(base.root, _moved(base.starts, node.attrs["axis"], start))
                start = start + graph[operand].type.shape[node.attrs["axis"]]
            free.add(node.name)
    _drop(graph, free)
    return free


def place_slices(graph: Graph) -> set[str]:
    """Places slices in what they are of, drops their kernels, and returns their names."""
    kernels, free = alone(graph), set()
    for node in graph.sorted():
        if node.op == "slice" and node.name in kernels and not unreadable(graph, node):
            whole = node.inputs[0]
            base = graph.places.get(whole, Place(whole, (0,) * node.type.rank))
            graph.places[node.name] = Place(base.root, _moved(base.starts, node.attrs["axis"], node.attrs["start"]))
            free.add(node.name)
    _drop(graph, free)
    return free


def alone(graph: Graph) -> set[str]:
    """The nodes that are a kernel by themselves."""
    return {launch.nodes[0] for launch in graph.kernels if len(launch.nodes) == 1}


def _drop(graph: Graph, free: set[str]) -> None:
    graph.kernels = [launch for launch in graph.kernels if not (len(launch.nodes) == 1 and launch.nodes[0] in free)]


def _moved(starts: tuple[Dim, ...], axis: int, by: Dim) -> tuple[Dim, ...]:
    return tuple(start + by if at == axis else start for at, start in enumerate(starts))


def unplaceable(graph: Graph, concat: Node, operand: str) -> str:
    """Why the kernel that makes `operand` cannot write it into `concat`; empty where it can."""
    node = graph[operand]
    reasons = {
        "is given, not computed": is_leaf(node),
        "is another shape of a tensor": is_view(node),
        "is a part of another tensor already": operand in graph.places,
        "is a result of the program": operand in graph.results(),
        "is there twice": concat.inputs.count(operand) > 1,
        "is read under another shape": any(is_view(u) for u in graph.users(operand)),
        "keeps other channels together": not _blocks_fit(graph, concat.name, operand),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def unreadable(graph: Graph, node: Node) -> str:
    """Why readers of a slice cannot read the whole instead; empty where they can."""
    whole = node.inputs[0]
    reasons = {
        "it is a part of another tensor already": node.name in graph.places,
        "it is a result of the program": node.name in graph.results(),
        "the whole is overwritten by the program": view_root(graph, whole) in graph.updates,
        "it is read under another shape": any(is_view(u) for u in graph.users(node.name)),
        "it keeps other channels together than the whole": not _blocks_fit(graph, whole, node.name),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _blocks_fit(graph: Graph, whole: str, part: str) -> bool:
    """Whether both keep the same channels together: then a part begins and ends with a block."""
    one, other = graph.layouts.get(whole, PLAIN), graph.layouts.get(part, PLAIN)
    return (one.block, one.axis, one.order) == (other.block, other.axis, other.order)
