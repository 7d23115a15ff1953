"""Pooling within the 1×1 convolution that reads it: no pooled tensor in memory."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.passes.stage import fuse


def is_pointwise(conv) -> bool:
    """Whether a convolution reads one element of each channel for one of its results."""
    a = conv.attrs
    return conv.op == "conv" and a["groups"] == 1 and set(a["kernel"]) == set(a["stride"]) == {1} and not any(map(any, a["pad"]))


@graph_pass("fuse_pool_pointwise")
def fuse_pool_pointwise(graph: Graph, context: Context) -> list[Rewrite]:
    """Pools a band of rows in cache, and convolves it there."""
    return fuse(graph, context, ({"max_pool", "avg_pool"}, {"conv"}), lambda pool, conv: is_pointwise(conv),
                extra=lambda pair, rows: 0.0, cut=lambda pair: 1)
