"""The kernels that a graph of primitives has when nothing more is chosen for it: the start of the passes on kernels."""

from __future__ import annotations

from compiler.group import Launch, group, is_leaf, view_root
from compiler.ir import Graph, Node
from compiler.views import place_concats, place_slices


def choose_kernels(graph: Graph, fuse: bool = True) -> Graph:
    """Gives every result memory of its own and every group a kernel, in place; returns the graph."""
    _own_results(graph)
    graph.kernels = [Launch([g]) for g in group(graph, fuse)]
    graph.places = {}
    return graph


def with_kernels(graph: Graph) -> Graph:
    """The graph if its kernels are chosen; else a copy with element-wise kernels, whose concats and slices are places."""
    if graph.kernels is not None:
        return graph
    graph = choose_kernels(graph.copy())
    place_concats(graph)
    place_slices(graph)
    return graph


def _own_results(graph: Graph) -> None:
    """Copies an output that is an input, a parameter, or another result too."""
    taken: set[str] = set()
    for table in (graph.outputs, graph.losses, graph.metrics, graph.updates):
        for key, name in table.items():
            root = view_root(graph, name)
            if is_leaf(graph[root]) or root in taken:
                node = graph[name]
                root = table[key] = graph.add(Node(graph.fresh(f"{name}/copy"), "copy", (name,), node.type, {},
                                                   node.origins))
            taken.add(root)
