"""Winograd's algorithm for 3x3 convolutions of stride 1, where the cost model says that it pays.

It needs 9/4 (tiles of 2x2 results) to 4 (4x4) times fewer products. Weights are transformed once, which makes them 16/9
to 4 times as large, or by the kernel that reads them: at a small batch reading them is what takes long. Results differ
from a direct sum by 3e-6 of the largest.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.ir import Graph, Node
from compiler.layout import PLAIN
from compiler.ops import REGISTRY, namespace
from compiler.passes.base import Context, Rewrite, graph_pass, layers

TILES = (4, 2)
MARGIN = 0.9  # of the direct time: predicted gains below a tenth are not relied on
SMALL = 0.75  # weights are kept transformed, and four times as large, only where that saves more than a quarter
EFFICIENCY = 0.75  # of the rate of direct sums, which the many small products and the transforms reach


@graph_pass("choose_algorithm", training=False, reason="transforming weights in each step costs more than it saves")
def choose_algorithm(graph: Graph, context: Context) -> list[Rewrite]:
    """Computes 3x3 convolutions of packed weights by Winograd's algorithm, unless results have to be exact."""
    considered = []
    for conv in [node for node in graph.sorted() if _fits(graph, node, context)]:
        direct = context.seconds(graph, [conv])
        seconds, tile, once = min((_seconds(graph, conv, tile, once, context) * (1 if once else SMALL), tile, once)
                                  for tile in TILES for once in (True, False))
        seconds /= 1 if once else SMALL
        gain = direct - seconds
        what = f"{conv.name} by Winograd's algorithm, tiles of {tile}x{tile}"
        what += "" if once else ", weights transformed in cache"
        if context.exact:
            considered.append(Rewrite(what, layers(conv), False, gain, "results have to be exact"))
        elif seconds > MARGIN * direct:
            considered.append(Rewrite(what, layers(conv), False, gain, "reading its weights costs what it saves"))
        else:
            _replace(graph, conv, tile, once)
            considered.append(Rewrite(what, layers(conv), True, gain))
    return considered


def _fits(graph: Graph, node: Node, context: Context) -> bool:
    """Whether a node is a convolution that the schedules can compute so: weights are packed in blocks of outputs."""
    if node.op != "conv" or node.type.rank != 4 or context.block == 1:
        return False
    a, (x, w) = namespace(node.attrs), [graph[i] for i in node.inputs[:2]]
    return (a.kernel == (3, 3) and a.stride == a.dilation == (1, 1) and a.groups == 1
            and x.type.shape[1] % context.block == 0 and w.op == "copy" and graph.layouts.get(w.name, PLAIN).axis == 0)


def _seconds(graph: Graph, conv: Node, tile: int, once: bool, context: Context) -> float:
    """Predicted time with tiles of this size, the weights transformed once, or in each call."""
    weight = graph[conv.inputs[1]]
    made = Graph("price")
    names = [made.add(replace(graph[i], op="input", inputs=(), attrs={})) for i in conv.inputs]
    if once:
        made.update(names[1], type=REGISTRY["winograd_weight"].infer(namespace({"tile": tile}), weight.type))
    node = replace(conv, op="winograd_conv", attrs={**conv.attrs, "tile": tile}, inputs=tuple(names))
    made.add(node)
    return context.seconds(made, [node]) / EFFICIENCY


def _replace(graph: Graph, conv: Node, tile: int, once: bool) -> None:
    packed = graph[conv.inputs[1]]
    if not once:
        graph.update(conv.name, op="winograd_conv", attrs={**conv.attrs, "tile": tile})
        return
    name = f"{packed.inputs[0]}/winograd_{tile}"
    if name not in graph:
        type = REGISTRY["winograd_weight"].infer(namespace({"tile": tile}), packed.type)
        graph.add(replace(packed, name=name, op="winograd_weight", type=type, attrs={"tile": tile}))
        graph.layouts[name] = graph.layouts[packed.name]
    graph.update(conv.name, op="winograd_conv", attrs={**conv.attrs, "tile": tile},
                 inputs=(conv.inputs[0], name, *conv.inputs[2:]))
    if not graph.users(packed.name):
        graph.remove(packed.name)
        graph.layouts.pop(packed.name)
