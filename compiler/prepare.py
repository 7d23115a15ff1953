"""What depends on parameters alone is computed once, when parameters are loaded, by the program `prepare`.

Passes write folded and merged weights as arithmetic on the user's parameters; this moves that arithmetic out of the programs
that run. Each value it makes is a parameter `packed/…` of the flat buffer, which nobody stores.
"""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx

from compiler.group import is_leaf, is_view, view_root
from compiler.ir import Graph, Node


def hoist(graphs: Mapping[str, Graph]) -> Graph | None:
    """Changes `graphs` in place to read packed values, and returns the program that makes these; None if there are none."""
    prepare = Graph("prepare")
    for graph in graphs.values():
        for name in _frontier(graph):
            node = graph[name]
            packed = f"packed/{name}"
            if packed not in prepare:
                for source in graph.sorted():
                    if source.name not in prepare and (source.name == name or nx.has_path(graph.nx, source.name, name)):
                        prepare.add(source)
                prepare.add(Node(packed, "parameter", (), node.type, {"packed": True}))
                prepare.updates[packed] = name
            graph.add(prepare[packed])
            graph.replace_uses(name, packed)
        graph.prune(keep=lambda node: node.op == "input")
    return prepare if prepare.updates else None


def _frontier(graph: Graph) -> list[str]:
    """The nodes that only parameters and constants determine, and that something else reads."""
    fixed: set[str] = set()
    for node in graph.sorted():
        if node.op in ("parameter", "constant") or not is_leaf(node) and node.inputs and fixed.issuperset(node.inputs):
            fixed.add(node.name)
    results = set(graph.results())
    return [node.name for node in graph.sorted()
            if node.name in fixed and not is_leaf(node) and not (is_view(node) and is_leaf(graph[view_root(graph, node.name)]))
            and node.name not in results and any(user.name not in fixed for user in graph.users(node.name))]
