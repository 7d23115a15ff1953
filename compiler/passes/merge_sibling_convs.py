"""Parallel convolutions of one input become one convolution: the input is read once instead of once a branch.

The weights stay the user's parameters: the merged weight is their concat, which an inference artifact computes in
`prepare` and a training graph differentiates: one input gradient sums the branches, and each weight gets its slice.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import networkx as nx
import numpy as np

from compiler import flat
from compiler.autodiff import differentiate, is_trainable
from compiler.build import Builder
from compiler.group import is_leaf
from compiler.ir import DTYPES, Graph, Node, unite
from compiler.kernels import with_kernels
from compiler.ops import REGISTRY
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.concat_gradients import concat_gradients
from compiler.passes.expand import expand


@graph_pass("merge_sibling_convs")
def merge_sibling_convs(graph: Graph, context: Context) -> list[Rewrite]:
    """Makes one convolution of those that read one input alike; each branch goes on with its slice of the channels."""
    considered: list[Rewrite] = []
    rank = {node.name: i for i, node in enumerate(graph.sorted())}
    learning = graph.needed(graph.losses.values()) if context.training and graph.losses else set(rank)
    for x in reversed(rank):  # a value is looked at before what makes it, so that it still has its name
        readers = [u for u in graph.users(x) if u.op == "conv" and u.inputs.index(x) == 0]
        if len(readers) > 1:
            considered = _consider(graph, sorted(readers, key=lambda u: rank[u.name]), context, learning) + considered
    return considered


def _consider(graph: Graph, convs: list[Node], context: Context, learning: set[str]) -> list[Rewrite]:
    """What to do with the convolutions that read one value. learning: the nodes whose weights training may change."""
    considered: list[Rewrite] = []
    alike: dict[Hashable, list[Node]] = {}
    for conv in convs:
        why = _unfit(graph, conv) if conv.name in learning else "no loss depends on it: its weights are not trained"
        if why:
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
    """Merges all siblings or, where that is better, those that no concat reads: it would have to copy their slices."""
    alternatives = [siblings]
    copied = {conv.name for conv in siblings if _ends_in_concat(graph, conv)}
    if copied and len(siblings) - len(copied) > 1:
        alternatives.append([conv for conv in siblings if conv.name not in copied])
    choices = []
    for convs in alternatives:
        common = _common_activations(graph, convs)
        # In training a common activation is a kernel more: its gradient is that of the whole, not of branches.
        choices += [(convs, common)] + [(convs, [])] * (context.training and bool(common))
    gains = [_gain(graph, convs, activations, context) for convs, activations in choices]
    gain, (chosen, activations) = max(zip(gains, choices), key=lambda pair: pair[0])
    what = f"{len(chosen)} convs of {chosen[0].inputs[0]} become one" + \
        (f", with one {activations[0].op}" if activations else "")
    if gain <= 0:
        return Rewrite(what, layers(*chosen), False, gain, "slices would cost more than reading the input once saves")
    _merge(graph, chosen, activations)
    left_out = "the others go into a concat as they are" if chosen is not siblings else ""
    return Rewrite(what, layers(*chosen), True, gain, left_out)


def _ends_in_concat(graph: Graph, conv: Node) -> bool:
    end = (_common_activations(graph, [conv]) or [conv])[0]
    return any(user.op == "concat" for user in graph.users(end.name))


def _gain(graph: Graph, siblings: list[Node], activations: list[Node], context: Context) -> float:
    """Predicted seconds saved by merging."""
    apart = _region(graph, siblings, activations, context.training)
    merged = apart.copy()
    _merge(merged, siblings, activations)
    return _price(apart, context) - _price(merged, context)


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


# --- what it is worth: the siblings and their readers alone, both ways, as kernels ------------------------------------

def _region(graph: Graph, siblings: list[Node], activations: list[Node], training: bool) -> Graph:
    """A graph of the siblings and whoever reads a branch; what they read besides is a leaf, or a copy of one."""
    ends = activations or siblings
    readers = {user.name for end in ends for user in graph.users(end.name)}
    inside = readers | {node.name for node in [*siblings, *activations]}
    weights = {source for conv in siblings for source in conv.inputs[1:]}
    region = Graph("region")
    for node in map(graph.__getitem__, nx.lexicographical_topological_sort(graph.nx.subgraph(inside))):
        for source in node.inputs:
            if source not in region:
                region.add(_stand_in(graph, source, source in weights, training) if source == siblings[0].inputs[0]
                           or source in weights or is_leaf(graph[source]) else _made_elsewhere(region, graph[source]))
        region.add(node)
    results = set(graph.results())
    region.outputs = {n: n for n in region.nx if n in inside and (n in results or not region.users(n))}
    return region


def _stand_in(graph: Graph, source: str, weight: bool, training: bool) -> Node:
    """A leaf for a value: a trainable parameter where training wants its gradient."""
    node = graph[source]
    if node.op in ("parameter", "constant"):
        return node
    learns = training and any(is_trainable(graph[s]) for s in nx.ancestors(graph.nx, source))
    attrs = {"trainable": learns} if weight or learns else {"role": "input"}
    return replace(node, op="parameter" if weight or learns else "input", inputs=(), attrs=attrs)


def _made_elsewhere(region: Graph, node: Node) -> Node:
    """A value that some kernel makes: so concats can be places in memory as they are in the whole graph."""
    source = region.fresh(f"{node.name}/source")
    leaf = region.add(replace(node, name=source, op="input", inputs=(), attrs={"role": "input"}))
    return replace(node, op="copy", inputs=(leaf,), attrs={})


def _price(region: Graph, context: Context) -> float:
    """Predicted seconds of the kernels of a region: forward, and in training backward too.

    Outside training, what depends on weights alone is free: `prepare` computes it once. In training a merged weight is
    free where its parts can lie side by side.
    """
    region = expand(_differentiated(region) if context.training else region)
    concat_gradients(region, context)
    fixed: set[str] = set()
    for node in region.sorted():
        if node.op in ("parameter", "constant") or node.inputs and fixed.issuperset(node.inputs):
            fixed.add(node.name)
    region = with_kernels(region)
    anchors = [region[g.anchor] for launch in region.kernels for g in launch.groups]
    free = {a.name for a in anchors if _is_its_parts(region, a)} if context.training else fixed
    return context.seconds(region, [a for a in anchors if a.name not in free])


def _is_its_parts(graph: Graph, node: Node) -> bool:
    """Whether a node is a merged weight that needs no memory of its own (`passes/flatten_updates.py`)."""
    if node.op != "concat" or not flat.of_parameters(graph, node):
        return False
    parts = [graph[i] for i in node.inputs]
    alike = {tuple(part.attrs.get(key) for key in ("trainable", "lr", "decay")) for part in parts}
    return len(alike) == 1 and flat.side_by_side([part.type for part in parts])


def _differentiated(region: Graph) -> Graph:
    """The region with the gradients that training wants of it, for the sum of its results as loss."""
    region = region.copy()
    b = Builder(region)
    for name in region.outputs:
        value = b.value(region.outputs[name])
        if value.type.is_float:
            region.losses[name] = b.op("sum", value, axes=tuple(range(value.type.rank)), keepdims=False).name
    region.outputs = {}
    joint, gradients = differentiate(region)
    joint.gradients = dict(gradients)
    return joint
