"""Parallel convolutions of one input become one convolution: the input is read once instead of once a branch.

The weights stay the user's parameters: the merged weight is their concat, which an inference artifact computes in
`prepare` and a training graph differentiates, so that one input gradient sums the branches and each weight gets its slice.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import networkx as nx
import numpy as np

from compiler.autodiff import differentiate, is_trainable
from compiler.build import Builder
from compiler.group import group
from compiler.ir import DTYPES, Graph, Node, unite
from compiler.ops import REGISTRY
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.expand import expand


@graph_pass("merge_sibling_convs")
def merge_sibling_convs(graph: Graph, context: Context) -> list[Rewrite]:
    """Makes one convolution of those that read one input alike; each branch goes on with its slice of the channels."""
    considered: list[Rewrite] = []
    rank = {node.name: i for i, node in enumerate(graph.sorted())}
    for x in reversed(rank):  # a value is looked at before what makes it, so that it still has its name
        readers = [u for u in graph.users(x) if u.op == "conv" and u.inputs.index(x) == 0]
        if len(readers) > 1:
            considered = _consider(graph, sorted(readers, key=lambda u: rank[u.name]), context) + considered
    return considered


def _consider(graph: Graph, convs: list[Node], context: Context) -> list[Rewrite]:
    """What to do with the convolutions that read one value."""
    considered: list[Rewrite] = []
    alike: dict[Hashable, list[Node]] = {}
    for conv in convs:
        if why := _unfit(graph, conv):
            considered.append(Rewrite("conv stays apart from its siblings", layers(conv), taken=False, why=why))
        else:
            alike.setdefault(tuple(sorted(conv.attrs.items())), []).append(conv)
    for siblings in alike.values():
        if len(siblings) > 1:
            considered.append(_decide(graph, siblings, context))
        elif len(alike) > 1:
            considered.append(Rewrite("conv stays apart from its siblings", layers(*siblings), taken=False,
                                      why="its window, stride, padding or dilation is like none of theirs"))
    return considered


def _unfit(graph: Graph, conv: Node) -> str:
    """Why a convolution cannot be merged with any other; empty where it can."""
    if conv.attrs["groups"] > 1:
        return f"it has {conv.attrs['groups']} groups, which do not read all channels"
    for weight in conv.inputs[1:]:
        if len(graph.users(weight)) > 1:
            return f"{weight} is shared with another layer"
        if any(graph[source].op == "input" for source in nx.ancestors(graph.nx, weight) | {weight}):
            return f"{weight} is computed from the inputs of the net"
    return ""


def _decide(graph: Graph, siblings: list[Node], context: Context) -> Rewrite:
    activations = _common_activations(graph, siblings)
    apart = _region(graph, siblings, activations, context.training)
    merged = apart.copy()
    _merge(merged, siblings, activations)
    gain = _price(apart, context) - _price(merged, context)
    what = f"{len(siblings)} convs of {siblings[0].inputs[0]} become one" + \
        (f", with one {activations[0].op}" if activations else "")
    rewrite = Rewrite(what, layers(*siblings), gain > 0, gain,
                      "" if gain > 0 else "cutting the result into slices costs more than reading the input once saves")
    if rewrite.taken:
        _merge(graph, siblings, activations)
    return rewrite


def _common_activations(graph: Graph, siblings: list[Node]) -> list[Node]:
    """The activation behind each convolution, if it is the same behind all and nothing else reads any of them."""
    results = set(graph.results())
    found = []
    for conv in siblings:
        users = graph.users(conv.name)
        if len(users) != 1 or conv.name in results or users[0].inputs != (conv.name,) \
                or not REGISTRY[users[0].op].pointwise or users[0].type != conv.type:
            return []
        found.append(users[0])
    alike = all(f.op == found[0].op and f.attrs == found[0].attrs for f in found)
    return found if alike else []


def _merge(graph: Graph, siblings: list[Node], activations: list[Node]) -> None:
    """Puts the merged convolution and a slice for each branch in the place of `siblings` and their common activations.

    All siblings are named in the name of the merged weight: programs of one net that merge others do not share it.
    """
    b = Builder(graph)
    first = siblings[0]
    ends = activations or siblings
    with b.within("+".join(conv.name for conv in siblings), unite(node.origins for node in [*siblings, *activations])):
        operands = [b.op("concat", *(b.value(conv.inputs[1]) for conv in siblings), name="weight", axis=0)]
        if any(len(conv.inputs) == 3 for conv in siblings):
            parts = [b.value(conv.inputs[2]) if len(conv.inputs) == 3 else _zeros(b, conv) for conv in siblings]
            operands.append(b.op("concat", *parts, name="bias", axis=0))
        merged = b.op("conv", b.value(first.inputs[0]), *operands, name="conv", **first.attrs)
        if activations:
            merged = b.op(ends[0].op, merged, name=ends[0].op, **ends[0].attrs)
    start = 0
    for conv, end in zip(siblings, ends):
        stop = start + conv.type.shape[1]
        with b.within(end.name, conv.origins | end.origins):
            part = b.op("slice", merged, name="slice", axis=1, start=start, stop=stop)
        graph.replace_uses(end.name, part.name)
        for name in dict.fromkeys((end.name, conv.name)):
            graph.remove(name)
        start = stop


def _zeros(b: Builder, conv: Node):
    """The bias of a convolution that has none."""
    return b.constant(np.zeros(conv.type.shape[1], DTYPES[conv.type.dtype]), conv.type.dtype, name="no_bias")


# --- what it is worth: the region alone, both ways, as kernels -------------------------------------------------------

def _region(graph: Graph, siblings: list[Node], activations: list[Node], training: bool) -> Graph:
    """A graph of the siblings alone; what they read are leaves, trainable ones where a gradient of them is wanted."""
    region = Graph("region")
    for node in [*siblings, *activations]:
        for source in node.inputs:
            if source not in region:
                learns = training and any(is_trainable(graph[s]) for s in nx.ancestors(graph.nx, source) | {source})
                kind = "parameter" if learns or source != siblings[0].inputs[0] else "input"
                region.add(replace(graph[source], op=kind, inputs=(), attrs={"trainable": learns, "role": "input"}))
        region.add(node)
    region.outputs = {end.name: end.name for end in activations or siblings}
    return region


def _price(region: Graph, context: Context) -> float:
    """Predicted seconds of the kernels of a region: forward, and in training backward too.

    Outside training, what depends on weights alone is free: `prepare` computes it once.
    """
    if context.training:
        region = _differentiated(region)
    region = expand(region)
    fixed: set[str] = set()
    for node in region.sorted():
        if node.op in ("parameter", "constant") or node.inputs and fixed.issuperset(node.inputs):
            fixed.add(node.name)
    anchors = [region[g.anchor] for g in group(region)]
    return context.seconds(region, [a for a in anchors if context.training or a.name not in fixed])


def _differentiated(region: Graph) -> Graph:
    """The region with the gradients that training wants of it, for the sum of its results as loss."""
    region = region.copy()
    b = Builder(region)
    for name in region.outputs.values():
        region.losses[name] = b.op("sum", b.value(name), axes=tuple(range(region[name].type.rank)), keepdims=False).name
    region.outputs = {}
    joint, gradients = differentiate(region)
    joint.gradients = dict(gradients)
    return joint
