"""A 1×1 convolution within the k×k convolution that reads it (the reduce of an Inception branch), where making the rows
between two bands twice costs less than the memory between the kernels."""

from __future__ import annotations

from compiler.ir import Graph
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.passes.move_pooling import pointwise
from compiler.passes.stage import Pair, fuse


@graph_pass("fuse_pointwise_conv")
def fuse_pointwise_conv(graph: Graph, context: Context) -> list[Rewrite]:
    """Computes a band of rows of the 1×1 convolution in cache, with the halo that the k×k convolution needs there."""
    return fuse(graph, context, ({"conv"}, {"conv"}),
                lambda one, conv: pointwise(one) and not pointwise(conv) and one.attrs["groups"] == conv.attrs["groups"] == 1,
                extra=_again, cut=lambda pair: 1)


def _again(pair: Pair, rows: int) -> float:
    """The share of rows that two bands of `rows` rows both need."""
    conv = pair.anchors[1]
    overlap = (conv.attrs["kernel"][0] - 1) * conv.attrs["dilation"][0]
    return 0.0 if rows >= pair.made.type.shape[2] else overlap / max(1, rows - overlap)
