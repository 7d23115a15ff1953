"""A convolution (and its activation) within the pooling that reads it: its maps are never in memory."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.passes.stage import Pair, fuse


@graph_pass("fuse_conv_pool")
def fuse_conv_pool(graph: Graph, context: Context) -> list[Rewrite]:
    """Convolves a band of rows of a few channels in cache, and pools it there."""
    return fuse(graph, context, ({"conv"}, {"max_pool", "avg_pool"}), lambda conv, pool: conv.attrs["groups"] == 1,
                extra=_again, cut=lambda pair: max(1, pair.made.type.shape[1] // (2 * context.block)))


def _again(pair: Pair, rows: int) -> float:
    """The share of rows that two bands of `rows` rows both need: windows of neighbouring bands overlap."""
    pool = pair.anchors[1]
    window = (pool.attrs["kernel"][0] - 1) * pool.attrs.get("dilation", (1,))[0] + 1
    overlap = max(0, window - pool.attrs["stride"][0])
    return 0.0 if rows >= pair.made.type.shape[2] else overlap / max(1, rows - overlap)
