"""Slices that are places in memory: each reader reads its part of the whole (the proof: `views.py`)."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.views import alone, place_slices, unreadable


@graph_pass("eliminate_split")
def eliminate_split(graph: Graph, context: Context) -> list[Rewrite]:
    """Consumers read slices of the whole's memory; no kernel copies."""
    free = place_slices(graph)
    left = [graph[name] for name in sorted(alone(graph)) if graph[name].op == "slice"]
    return [Rewrite(f"{name} is a place in memory", layers(graph[name])) for name in sorted(free)] + [
        Rewrite(f"{node.name} stays a copy", layers(node), taken=False, why=unreadable(graph, node)) for node in left]
