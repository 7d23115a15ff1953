"""Concatenations that are places in memory: each producer writes into its part of the whole (the proof: `views.py`)."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.views import place_concats, report


@graph_pass("eliminate_concat")
def eliminate_concat(graph: Graph, context: Context) -> list[Rewrite]:
    """Producers write into slices of the concat's memory; no kernel copies."""
    return report(graph, "concat", place_concats(graph))
