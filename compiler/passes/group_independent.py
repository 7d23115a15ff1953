"""Kernels that do not need each other become one call: one launch on a GPU, one parallel region on a CPU.

The branches of an Inception module are small; together they fill the machine, and threads meet once instead of once a
branch.
"""

from __future__ import annotations

import networkx as nx

from compiler.group import Launch, memory_read, view_root
from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass, layers


@graph_pass("group_independent")
def group_independent(graph: Graph, context: Context) -> list[Rewrite]:
    """Joins kernels that wait for as many others, one behind the other, where the target's schedules can share a call."""
    depth = _depths(graph)
    ranks: dict[tuple[int, bool], list[int]] = {}
    for i, launch in enumerate(graph.kernels):
        if all(context.machine.together(graph, group.anchor) for group in launch.groups):
            ranks.setdefault((depth[i], launch.update), []).append(i)
    considered: list[Rewrite] = []
    merged: dict[int, Launch] = {}
    gone: set[int] = set()
    for alike in ranks.values():
        if len(alike) > 1:
            together = [group for i in alike for group in graph.kernels[i].groups]
            nodes = [graph[group.anchor] for group in together]
            merged[alike[0]] = Launch(together)
            gone.update(alike[1:])
            considered.append(Rewrite(f"{len(alike)} kernels in one call: {', '.join(n.name for n in nodes)}",
                                      layers(*nodes), True, context.machine.launch * (len(alike) - 1)))
    order = sorted((i for i in range(len(graph.kernels)) if i not in gone), key=lambda i: (graph.kernels[i].update, depth[i], i))
    graph.kernels = [merged.get(i, graph.kernels[i]) for i in order]
    return considered


def dependences(graph: Graph) -> nx.DiGraph:
    """Which kernel, by its place in `graph.kernels`, has to run before which."""
    makes = {name: i for i, launch in enumerate(graph.kernels) for name in launch.nodes}
    edges = nx.DiGraph()
    edges.add_nodes_from(range(len(graph.kernels)))
    readers: dict[str, set[int]] = {}
    for i, launch in enumerate(graph.kernels):
        for member in launch.nodes:
            for source in memory_read(graph, member, makes):
                if source in makes and makes[source] != i:
                    edges.add_edge(makes[source], i)
                readers.setdefault(source, set()).add(i)
    for parameter, value in graph.updates.items():
        writer = makes.get(view_root(graph, value))
        edges.add_edges_from((r, writer) for r in readers.get(parameter, ()) if writer not in (None, r))
    return edges


def _depths(graph: Graph) -> list[int]:
    edges = dependences(graph)
    depth = [0] * len(graph.kernels)
    for i in nx.topological_sort(edges):
        depth[i] = max((depth[p] + 1 for p in edges.predecessors(i)), default=0)
    return depth
