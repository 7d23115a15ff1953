"""Channels innermost: on a GPU, threads that work on neighbouring channels of one position read one line of memory.

Then 16-byte loads and stores are whole whatever the width of the map, at any stride and at the border. A layout is a
property of memory: whoever reads a tensor reads it by logical index, so the choice is about speed only.
"""

from __future__ import annotations

from dataclasses import replace

from compiler import dims
from compiler.group import is_leaf, is_view, view_root
from compiler.ir import Graph, Node
from compiler.layout import Layout
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.price import all_fixed, settled

LAST = Layout(order=(0, 2, 3, 1))
OUTPUTS_LAST = Layout(order=(2, 3, 1, 0))  # of a weight: [kh, kw, I, O]
VECTOR = 4  # f32 of a 16-byte load


@graph_pass("channels_last")
def channels_last(graph: Graph, context: Context) -> list[Rewrite]:
    """Keeps the channels of each position together in memory, and the outputs of packed weights."""
    if not context.machine.channels_last:
        return []
    fixed = all_fixed(graph)
    chosen = _chosen(graph, fixed, results={view_root(graph, name) for name in graph.results()})
    for name in chosen:
        graph.layouts[name] = LAST
    convs = [node for node in graph.sorted() if node.op == "conv" and node.type.rank == 4]
    packed = [conv for conv in convs if context.packed and not context.training and _pack(graph, conv, fixed)]
    if not chosen and not packed:
        return []
    return [Rewrite(f"{len(chosen)} tensors keep the channels of a position together, {len(packed)} weights the outputs of a tap",
                    layers(*convs))]


def _chosen(graph: Graph, fixed: set[str], results: set[str]) -> list[str]:
    """The nodes whose channels are innermost, in order: parts of a concat, and a slice and its whole, are so together."""
    candidates = (node for node in graph.sorted() if node.name not in fixed | results and _may(graph, node))
    return settled(graph, candidates, lambda node, chosen: _agrees(graph, node, chosen))


def _may(graph: Graph, node: Node) -> bool:
    """Whether a node is a batch of maps that nobody looks at as another shape."""
    if is_leaf(node) or is_view(node) or node.type.rank != 4 or not dims.symbols(node.type.shape[0]):
        return False
    _, channels, height, width = node.type.shape
    return (isinstance(channels, int) and channels % VECTOR == 0 and (height, width) != (1, 1)
            and not any(map(is_view, graph.users(node.name))))


def _agrees(graph: Graph, node: Node, chosen: set[str]) -> bool:
    """Whether the neighbours of a chosen node that lie in the same memory are chosen too."""
    same = [user.name for user in graph.users(node.name) if user.op in ("concat", "slice")]
    return all(name in chosen for name in [*same, *(node.inputs if node.op in ("concat", "slice") else ())])


def _pack(graph: Graph, conv: Node, fixed: set[str]) -> bool:
    """Gives a convolution whose weight no training changes a copy of it with the outputs of each tap together."""
    weight = graph[conv.inputs[1]]
    if weight.type.shape[0] % VECTOR or weight.name not in fixed:
        return False
    name = f"{weight.name}/outputs_last"
    if name not in graph:
        graph.add(replace(weight, name=name, op="copy", inputs=(weight.name,), attrs={}, origins=conv.origins))
        graph.layouts[name] = OUTPUTS_LAST
    graph.update(conv.name, inputs=(conv.inputs[0], name, *conv.inputs[2:]))
    return True
