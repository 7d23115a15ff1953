"""Winograd's algorithm for 3x3 convolutions of stride 1, Fourier transforms for large windows, where the cost model says that
they pay.

Winograd's needs 9/4 (tiles of 2x2 results) to 4 (4x4) times fewer products. Weights are transformed once, which makes them 16/9
to 4 times as large, or by the kernel that reads them: at a small batch reading them is what takes long. Results differ
from a direct sum by 3e-6 of the largest.

Transforms of tiles make a product of a sum over a window. Weights become as large as the tiles.
"""

from __future__ import annotations

from dataclasses import replace

from compiler import dims
from compiler.ir import Graph, Node
from compiler.layout import PLAIN
from compiler.ops import REGISTRY, fft, namespace
from compiler.passes.base import Context, Rewrite, graph_pass, layers

TILES = (4, 2)
MARGIN = 0.9  # of the direct time: predicted gains below a tenth are not relied on
SMALL = 0.75  # weights are kept transformed, and many times as large, only where that saves more than a quarter
EFFICIENCY = 0.75  # of the rate of direct sums, which the many small products and the transforms reach
LARGE = 7  # rows or columns of a window from which on Fourier transforms are considered
PRODUCTS, TRANSFORMS = 0.65, 0.33  # of that rate: complex products of points, and transforms, which are not multiply-adds


@graph_pass("choose_algorithm", training=False, reason="transforming weights in each step costs more than it saves")
def choose_algorithm(graph: Graph, context: Context) -> list[Rewrite]:
    """Computes 3x3 convolutions of packed weights by Winograd's algorithm, and those of large windows by Fourier transforms,
    unless results have to be exact."""
    considered = [_transformed(graph, node, context) for node in graph.sorted() if _large(graph, node, context)]
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
    if not _packed(graph, node, context):
        return False
    return (node.attrs["kernel"] == (3, 3) and node.attrs["groups"] == 1
            and graph[node.inputs[0]].type.shape[1] % context.block == 0)


def _packed(graph: Graph, node: Node, context: Context) -> bool:
    """Whether a node is a convolution of maps with neighbouring windows, whose weights are packed in blocks of outputs."""
    if node.op != "conv" or node.type.rank != 4 or context.block == 1:
        return False
    weight = graph[node.inputs[1]]
    return (node.attrs["stride"] == node.attrs["dilation"] == (1, 1) and weight.op == "copy"
            and graph.layouts.get(weight.name, PLAIN).axis == 0 and graph.layouts[weight.name].pair == 1)


def _large(graph: Graph, node: Node, context: Context) -> bool:
    """Whether a node is a convolution that Fourier transforms may suit."""
    if not _packed(graph, node, context):
        return False
    channels, sizes = graph[node.inputs[0]].type.shape[1], [*graph[node.inputs[0]].type.shape[2:], *node.type.shape[2:]]
    return (max(node.attrs["kernel"]) >= LARGE and max(node.attrs["kernel"]) < max(fft.SIZES)
            and node.attrs["groups"] in (1, channels if channels == node.type.shape[1] else 1)
            and all(isinstance(size, int) for size in sizes))


def _transformed(graph: Graph, conv: Node, context: Context) -> Rewrite:
    """A convolution by Fourier transforms, if that is faster and allowed."""
    direct = context.seconds(graph, [conv])
    seconds, size = min((_fft_seconds(graph, conv, size, context), size) for size in fft.SIZES
                        if size > max(conv.attrs["kernel"]))
    what = f"{conv.name} by Fourier transforms of {size}x{size}"
    if context.exact:
        return Rewrite(what, layers(conv), False, direct - seconds, "results have to be exact")
    if seconds > SMALL * direct:
        return Rewrite(what, layers(conv), False, direct - seconds, "transforms and larger weights cost what it saves")
    _use(graph, conv, "fft", {"tile": size})
    return Rewrite(what, layers(conv), True, direct - seconds)


def _fft_seconds(graph: Graph, conv: Node, size: int, context: Context) -> float:
    """Predicted time with tiles of `size`. Channels fill whole vectors."""
    made = Graph("price")
    names = [made.add(replace(graph[i], op="input", inputs=(), attrs={})) for i in conv.inputs]
    x, w = graph[conv.inputs[0]].type, graph[conv.inputs[1]].type
    n, channels, *spatial = x.shape
    made.update(names[0], type=replace(x, shape=(n, -(-channels // context.block) * context.block, *spatial)))
    made.update(names[1], type=REGISTRY["fft_weight"].infer(namespace({"tile": size}), w))
    node = replace(conv, op="fft_conv", attrs={**conv.attrs, "tile": size}, inputs=tuple(names))
    made.add(node)
    op, a, types = REGISTRY["fft_conv"], namespace(node.attrs), [made[name].type for name in names]
    whole, products = (dims.evaluate(flops, dict.fromkeys(dims.symbols(flops), context.batch)) for flops in (
        op.flops(a, types, node.type), op.products(a, types, node.type)))
    share = products / whole
    return context.seconds(made, [node]) * (share / PRODUCTS + (1 - share) / TRANSFORMS)


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
    if once:
        _use(graph, conv, "winograd", {"tile": tile})
    else:
        graph.update(conv.name, op="winograd_conv", attrs={**conv.attrs, "tile": tile})


def _use(graph: Graph, conv: Node, algorithm: str, attrs: dict[str, int]) -> None:
    """Makes a convolution `ALGORITHM_conv` of its weight transformed by `ALGORITHM_weight`."""
    packed = graph[conv.inputs[1]]
    name = f"{packed.inputs[0]}/{algorithm}_{attrs['tile']}"
    if name not in graph:
        type = REGISTRY[f"{algorithm}_weight"].infer(namespace(attrs), packed.type)
        graph.add(replace(packed, name=name, op=f"{algorithm}_weight", type=type, attrs=attrs))
        graph.layouts[name] = graph.layouts[packed.name]
    graph.update(conv.name, op=f"{algorithm}_conv", attrs={**conv.attrs, **attrs},
                 inputs=(conv.inputs[0], name, *conv.inputs[2:]))
    if not graph.users(packed.name):
        graph.remove(packed.name)
        graph.layouts.pop(packed.name)
