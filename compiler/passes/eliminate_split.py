"""Slices that are places in memory: each reader reads its part of the whole (the proof: `views.py`)."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.views import place_slices, report


@graph_pass("eliminate_split")
def eliminate_split(graph: Graph, context: Context) -> list[Rewrite]:
    """Consumers read slices of the whole's memory; no kernel copies."""
    return report(graph, "slice", place_slices(graph))
