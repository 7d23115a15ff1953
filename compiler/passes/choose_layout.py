"""Blocked channels: activations keep as many channels together as a vector has lanes, weights as many outputs.

A vector of channels is full whatever the width of the map, strides cost nothing, and weights stream by. Layout is a
property of memory: no conversion is inserted anywhere, since whoever reads a tensor reads it by logical index. So the
choice is about speed only: convolutions ask for it, the ops between them follow where their operands do.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.group import is_leaf, is_view, view_root
from compiler.ir import LOW, Graph, Node
from compiler.layout import Layout
from compiler.ops import REGISTRY
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.price import all_fixed, settled

CONVS = ("conv", "winograd_conv")
FOLLOW = ("max_pool", "avg_pool", "concat", "slice", "channel_sum")  # besides what is element-wise


@graph_pass("choose_layout", training=False, reason="the kernels of gradients read channels as the shape says")
def choose_layout(graph: Graph, context: Context) -> list[Rewrite]:
    """Keeps channels together in memory, and packs the weights of convolutions that read and write them so."""
    if context.block == 1:
        return []
    if not context.packed:
        return [Rewrite("channels stay apart", (), taken=False, why="weights change while this is used")]
    fixed = all_fixed(graph)
    blocked = _blocked(graph, context.block, fixed)
    convs = [node for node in graph.sorted() if _may_pack(graph, node, context.block, fixed)]
    _widen(graph, {conv.name for conv in convs}, fixed)
    if not convs:
        return []
    gain = sum(context.seconds(graph, [conv]) * _waste(conv, context.block) for conv in convs)
    for name in blocked:
        graph.layouts[name] = Layout(context.block)
    for conv in convs:
        _pack(graph, conv, context)
    return [Rewrite(f"{len(convs)} convolutions make {context.block} channels at once, {len(blocked)} tensors keep them "
                    "together", layers(*convs), True, gain)]


def _blocked(graph: Graph, block: int, fixed: set[str]) -> list[str]:
    """The nodes whose channels are kept together, in order."""
    candidates = (node for node in graph.sorted() if _may(graph, node, block, fixed))
    return settled(graph, candidates, lambda node, chosen: _agrees(graph, node, chosen))


def _may_pack(graph: Graph, node: Node, block: int, fixed: set[str]) -> bool:
    """Whether vectors of output channels suit a convolution, wherever its result goes."""
    shape = node.type.shape
    if node.op not in CONVS or node.type.rank != 4 or node.type.dtype not in ("f32", *LOW) or not all(
            isinstance(size, int) for size in shape[1:]) or shape[1] % block or node.name in fixed:
        return False
    if not _parts_fit(graph, node, block):
        return False
    if node.op == "winograd_conv":
        return True
    groups, channels = node.attrs["groups"], graph[node.inputs[0]].type.shape[1]
    return (groups == 1 or groups == channels == shape[1] or (shape[1] // groups) % block == 0) \
        and node.inputs[1] in fixed


def _parts_fit(graph: Graph, conv: Node, block: int) -> bool:
    """Whether slices that cut the result, behind element-wise work too, begin and end with a block: else a vector of outputs
    would go to two tensors."""
    waiting = [conv.name]
    while waiting:
        for user in graph.users(waiting.pop()):
            if user.op == "slice" and user.attrs["axis"] == 1:
                if user.attrs["start"] % block or user.attrs["stop"] % block:
                    return False
            elif REGISTRY[user.op].pointwise and user.type.shape == conv.type.shape:
                waiting.append(user.name)
    return True


def _may(graph: Graph, node: Node, block: int, fixed: set[str]) -> bool:
    """Whether a node could have blocked channels, whatever the others have."""
    shape = node.type.shape
    if (is_leaf(node) or is_view(node) or node.type.rank != 4 or node.type.dtype not in ("f32", *LOW)
            or not all(isinstance(size, int) for size in shape[1:]) or shape[1] % block or shape[2] * shape[3] == 1):
        return False
    if node.name in fixed or any(map(is_view, graph.users(node.name))) or any(
            view_root(graph, name) == node.name for name in graph.results()):
        return False
    if node.op == "slice":
        return node.attrs["axis"] == 1 and node.attrs["start"] % block == 0
    if node.op in CONVS:
        return _may_pack(graph, node, block, fixed)
    return node.op in FOLLOW or REGISTRY[node.op].pointwise


def _agrees(graph: Graph, node: Node, chosen: set[str]) -> bool:
    """Whether the neighbours of a chosen node that lie in the same memory, or are read along with it, are chosen too."""
    for user in graph.users(node.name):
        if user.op in ("concat", "slice") and user.name not in chosen:
            return False
    if node.op in CONVS:
        return True
    return all(i in chosen for i in node.inputs if graph[i].type.rank == 4 and graph[i].type.shape[2:] == node.type.shape[2:]
               or node.op in FOLLOW)


def _waste(conv: Node, lanes: int) -> float:
    """The share of work that vectors along rows would do for nothing."""
    width = conv.type.shape[3]
    return -(-width // lanes) * lanes / width - 1


def _pack(graph: Graph, conv: Node, context: Context) -> None:
    """Gives a convolution a copy of its weight in which outputs of a block lie together, and where the target multiplies bf16
    by pairs, two inputs."""
    block, weight = context.block, graph[conv.inputs[1]]
    if weight.op == "winograd_weight":
        return
    name = f"{weight.name}/outputs_by_{block}"
    if name not in graph:
        graph.add(replace(weight, name=name, op="copy", inputs=(weight.name,), attrs={}, origins=conv.origins))
        graph.layouts[name] = Layout(block, axis=0, pair=2 if _by_pairs(graph, conv, context) else 1)
    graph.update(conv.name, inputs=(conv.inputs[0], name, *conv.inputs[2:]))


def _widen(graph: Graph, packed: set[str], fixed: set[str]) -> None:
    """Keeps rounded weights in f32 where kernels take them one by one: widening a number costs more than reading it."""
    for conv in graph.sorted():
        if conv.op != "conv" or conv.name in packed or conv.inputs[1] not in fixed:
            continue
        weight = graph[conv.inputs[1]]
        if weight.type.dtype in LOW:
            name = f"{weight.name}/f32"
            if name not in graph:
                graph.add(replace(weight, name=name, op="cast", inputs=(weight.name,), attrs={"dtype": "f32"},
                                  type=replace(weight.type, dtype="f32"), origins=conv.origins))
            graph.update(conv.name, inputs=(conv.inputs[0], name, *conv.inputs[2:]))


def _by_pairs(graph: Graph, conv: Node, context: Context) -> bool:
    types = [graph[i].type for i in conv.inputs[:2]]
    return (context.machine.low > 1 and all(t.dtype == "bf16" for t in types) and conv.op == "conv"
            and conv.attrs["groups"] == 1 and types[1].shape[1] % 2 == 0)
