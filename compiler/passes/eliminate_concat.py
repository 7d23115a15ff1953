"""Concatenations that are places in memory: each producer writes into its part of the whole (the proof: `views.py`)."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.views import alone, place_concats, unplaceable


@graph_pass("eliminate_concat")
def eliminate_concat(graph: Graph, context: Context) -> list[Rewrite]:
    """Producers write into slices of the concat's memory; no kernel copies."""
    free = place_concats(graph)
    left = [graph[name] for name in sorted(alone(graph)) if graph[name].op == "concat"]
    reasons = {node.name: next((f"{i} {why}" for i in node.inputs if (why := unplaceable(graph, node, i))), "") for node in left}
    return [Rewrite(f"{name} is a place in memory", layers(graph[name])) for name in sorted(free)] + [
        Rewrite(f"{node.name} stays a copy", layers(node), taken=False, why=reasons[node.name]) for node in left]
