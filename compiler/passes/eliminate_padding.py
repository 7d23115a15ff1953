"""Padding that is in memory already: maps that a padded convolution reads have zeros around them.

The kernel that makes such a map writes the zeros too, so that the convolution needs no padded copy of it.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.group import is_leaf, view_root
from compiler.ir import Graph
from compiler.layout import PLAIN
from compiler.passes.base import Context, Rewrite, graph_pass, layers


@graph_pass("eliminate_padding", training=False, reason="maps keep the layout of their shape in training")
def eliminate_padding(graph: Graph, context: Context) -> list[Rewrite]:
    """Gives maps that padded convolutions read a halo of zeros, written by the kernel that makes them."""
    readers: dict[str, list[str]] = {}
    for node in graph.nodes():
        if node.op in ("conv", "winograd_conv") and any(lo or hi for lo, hi in node.attrs["pad"]):
            source = node.inputs[0]
            root = graph.places[source].root if source in graph.places else source
            if graph.layouts.get(root, PLAIN).block > 1 and not is_leaf(graph[view_root(graph, root)]):
                readers.setdefault(root, []).append(node.name)
    considered = []
    for root, convs in readers.items():
        pads = [graph[conv].attrs["pad"] for conv in convs]
        (top, bottom), (left, right) = ([max(pad[axis][side] for pad in pads) for side in (0, 1)] for axis in (0, 1))
        graph.layouts[root] = replace(graph.layouts[root], halo=(top, left, bottom, right))
        considered.append(Rewrite(f"{root} has zeros around it for {', '.join(convs)}",
                                  layers(*(graph[conv] for conv in convs)), True))
    return considered
