"""Pooling within the 1×1 convolution that reads it: no pooled tensor in memory."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.passes.move_pooling import pointwise
from compiler.passes.stage import fuse


@graph_pass("fuse_pool_pointwise")
def fuse_pool_pointwise(graph: Graph, context: Context) -> list[Rewrite]:
    """Pools a band of rows in cache, and convolves it there."""
    return fuse(graph, context, ({"max_pool", "avg_pool"}, {"conv"}), lambda pool, conv: pointwise(conv) and conv.attrs["groups"] == 1,
                extra=lambda pair, rows: 0.0, cut=lambda pair: 1)
