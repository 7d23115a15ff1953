"""Concatenations and slices that are places in memory instead of kernels.

The producer of a concat's operand writes into its part of the concat; the reader of a slice reads its part of the whole.
Aliasing is proved: an operand is placed only if it is one kernel's result, nothing else decides where it lies, and nobody
reads it as a compact array under another shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.dims import Dim
from compiler.group import Group, is_leaf, is_view, view_root
from compiler.ir import Graph


@dataclass(frozen=True)
class Place:
    """A node lies in the memory of `root`, from `starts` on along each of root's axes."""

    root: str
    starts: tuple[Dim, ...]


def place(graph: Graph, groups: list[Group]) -> tuple[dict[str, Place], list[Group]]:
    """Where nodes lie that are part of another, and the groups that still are kernels."""
    kernels = {g.members[0]: g for g in groups if len(g.members) == 1 and not g.inlined}
    places: dict[str, Place] = {}
    free: set[str] = set()
    for node in reversed(graph.sorted()):
        if node.op == "concat" and node.name in kernels and all(_placeable(graph, places, node.name, i) for i in node.inputs):
            base = places.get(node.name, Place(node.name, (0,) * node.type.rank))
            start: Dim = 0
            for operand in node.inputs:
                starts = tuple(s + start if axis == node.attrs["axis"] else s for axis, s in enumerate(base.starts))
                places[operand] = Place(base.root, starts)
                start = start + graph[operand].type.shape[node.attrs["axis"]]
            free.add(node.name)
    for node in graph.sorted():
        if node.op == "slice" and node.name in kernels and _readable(graph, places, node.name):
            whole = node.inputs[0]
            base = places.get(whole, Place(whole, (0,) * node.type.rank))
            starts = tuple(s + node.attrs["start"] if axis == node.attrs["axis"] else s for axis, s in enumerate(base.starts))
            places[node.name] = Place(base.root, starts)
            free.add(node.name)
    return places, [g for g in groups if not (g.members[0] in free and kernels.get(g.members[0]) is g)]


def _placeable(graph: Graph, places: Mapping[str, Place], concat: str, operand: str) -> bool:
    """Whether the kernel that makes `operand` can write it into `concat`."""
    node = graph[operand]
    return (not is_leaf(node) and not is_view(node) and operand not in places and operand not in graph.results()
            and graph[concat].inputs.count(operand) == 1 and not any(is_view(u) for u in graph.users(operand)))


def _readable(graph: Graph, places: Mapping[str, Place], name: str) -> bool:
    """Whether readers of the slice `name` can read the whole instead."""
    root = view_root(graph, graph[name].inputs[0])
    return (name not in places and name not in graph.results() and root not in graph.updates
            and not any(is_view(u) for u in graph.users(name)))
