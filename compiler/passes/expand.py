"""Replaces composite ops by their expansions, until only primitives are left.

The node that an expansion ends with takes the composite's name, the others are named under it; all keep its origins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from compiler.build import Builder, Value
from compiler.ir import Graph, Node
from compiler.ops import REGISTRY, Op, namespace

Rewrite = Callable[[Builder, Op, Any, list[Value]], Value]


def expand(graph: Graph, wanted: Callable[[Node], bool] = lambda node: True) -> Graph:
    """A new graph in which no node that `wanted` names has an op with an expansion."""
    def composite(node: Node) -> bool:
        return REGISTRY[node.op].has("expand") and wanted(node)

    graph = graph.copy()
    while any(composite(node) for node in graph.nodes()):
        graph = rewrite(graph, composite, lambda b, op, a, xs: op.expand(b, a, *xs))
    return graph


def rewrite(graph: Graph, choose: Callable[[Node], bool], how: Rewrite) -> Graph:
    """A copy of `graph` in which each chosen node is what `how(builder, op, attrs, operands)` makes of it."""
    result = Graph(graph.name)
    builder = Builder(result)
    renamed: dict[str, str] = {}
    for node in graph.sorted():
        inputs = [renamed.get(i, i) for i in node.inputs]
        if choose(node):
            made = len(result)
            with builder.within(node.name, node.origins):
                value = how(builder, REGISTRY[node.op], namespace(node.attrs), [builder.value(i) for i in inputs])
            fresh = value.name in list(result.nx)[made:]
            renamed[node.name] = _rename(result, value.name, node.name) if fresh else value.name
        elif node.name not in result:  # an input that a rewrite declared already
            result.add(replace(node, inputs=tuple(inputs)))
    for table in ("outputs", "losses", "metrics", "updates", "gradients"):
        for key, value in getattr(graph, table).items():
            getattr(result, table)[key] = renamed.get(value, value)
    return result


def _rename(graph: Graph, old: str, new: str) -> str:
    graph.add(replace(graph[old], name=new))
    graph.replace_uses(old, new)
    graph.remove(old)
    return new
