"""What depends on parameters alone is computed once, when parameters are loaded, by the program `prepare`.

Passes write folded and merged weights as arithmetic on the user's parameters; this moves that arithmetic out of the programs
that run. Each value it makes is a parameter `packed/…` of the flat buffer, which nobody stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import networkx as nx

from compiler.group import is_leaf, is_view, view_root
from compiler.ir import Graph, Node, node_key


def hoist(graphs: Mapping[str, Graph]) -> Graph | None:
    """Changes `graphs` in place to read packed values, and returns the program that makes these; None if there are none."""
    prepare = Graph("prepare")
    for program, graph in graphs.items():
        placed: dict[str, str] = {}
        for name in _frontier(graph):
            needed = nx.ancestors(graph.nx, name) | {name}
            for source in nx.topological_sort(graph.nx.subgraph(needed)):
                if source not in placed:
                    placed[source] = _place(prepare, graph[source], placed, program)
            packed = f"packed/{placed[name]}"
            if packed not in prepare:
                prepare.add(Node(packed, "parameter", (), graph[name].type, {"packed": True}))
                prepare.updates[packed] = placed[name]
            graph.add(prepare[packed])
            if name in graph.layouts:
                layout = graph.layouts.pop(name)
                graph.layouts[packed] = prepare.layouts[packed] = prepare.layouts[placed[name]] = layout
            graph.replace_uses(name, packed)
        graph.prune(keep=lambda node: node.op == "input")
    return prepare if prepare.updates else None


def _place(prepare: Graph, source: Node, placed: Mapping[str, str], program: str) -> str:
    """Adds a node of a program and returns its name there. Programs share what is the same; where passes did different
    things to two programs, nodes of one name may differ, and the later one is named under its program."""
    node = replace(source, inputs=tuple(placed[i] for i in source.inputs))
    if node.name not in prepare:
        return prepare.add(node)
    if node.op == "parameter" or node_key(node) == node_key(prepare[node.name]):
        return node.name
    return prepare.add(replace(node, name=prepare.fresh(f"{program}/{node.name}")))


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
