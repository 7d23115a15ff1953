"""Batch normalization, scales and biases of channels become part of the convolution or dense layer beside them.

y = x * s + t for each channel, behind a layer: W' = s W, b' = s b + t (Jacob et al., arXiv:1712.05877, section 3.2);
before it: W' = W s, b' = b + W t. The new weights are arithmetic on the user's parameters, done when those are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compiler import dims
from compiler.build import Builder, Value
from compiler.ir import Graph, Node, unite
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.price import become, fixed, only_reader, price

LINEAR = ("conv", "dense")


@dataclass(frozen=True)
class Affine:
    """x * scale + shift, each [C] or one number for all channels; None where there is nothing to multiply or to add."""

    scale: Value | None
    shift: Value | None


@dataclass(frozen=True)
class Found:
    """A node that is affine in its operand `x`. shifts: whether it adds anything; read(builder) → Affine."""

    x: str
    shifts: bool
    read: Callable[[Builder], Affine]


@graph_pass("fold_batch_norm", training=False,
            reason="in training batch normalization depends on the batch, and weights with a scale in them would have "
                   "to be made anew in every step")
def fold_batch_norm(graph: Graph, context: Context) -> list[Rewrite]:
    """Folds batch_norm, normalize, scale, and products and sums with one number a channel into the convolution or dense
    layer before or after them."""
    done: list[Rewrite] = []
    order = [node.name for node in graph.sorted()]
    # A chain of such nodes is eaten from the layer's end: the nearest first.
    for names, fold in ((order, _fold_back), (order[::-1], _fold_forward)):
        for name in names:
            found = _affine(graph, graph[name]) if name in graph else None
            rewrite = fold(graph, context, graph[name], found) if found else None
            if rewrite is not None:
                done.append(rewrite)
    return done


def _affine(graph: Graph, node: Node) -> Found | None:
    dtype = node.type.dtype
    if node.type.rank < 2 or not node.type.is_float:
        return None
    if node.op == "batch_norm":
        def read(b: Builder) -> Affine:
            weight, bias, mean, var = (b.value(i) for i in node.inputs[1:])
            factor = weight * b.op("rsqrt", var + node.attrs["eps"])
            return Affine(factor, bias - mean * factor)
        return Found(node.inputs[0], True, read)
    if node.op == "normalize":
        mean, std = np.asarray(node.attrs["mean"]), np.asarray(node.attrs["std"])
        return Found(node.inputs[0], bool(mean.any()), lambda b: Affine(
            b.constant(1 / std, dtype), b.constant(-mean / std, dtype) if mean.any() else None))
    if node.op == "scale" and graph[node.inputs[0]].type.is_float:
        by, offset = node.attrs["by"], node.attrs["offset"]
        return Found(node.inputs[0], offset != 0, lambda b: Affine(
            b.constant(by, dtype), b.constant(offset, dtype) if offset else None))
    return _arithmetic(graph, node) if node.op in ("add", "sub", "mul", "div") else None


def _arithmetic(graph: Graph, node: Node) -> Found | None:
    """x ∘ v or v ∘ x, where v is fixed and has one number for each channel, or one for all."""
    for position in (0, 1):
        x, other = graph[node.inputs[position]], graph[node.inputs[1 - position]]
        if x.type != node.type or not _per_channel(other, node) or not fixed(graph, other.name) or fixed(graph, x.name):
            continue
        if node.op == "div" and position == 1:
            return None

        def read(b: Builder) -> Affine:
            v = b.value(other.name)
            v = b.op("reshape", v, shape=() if v.type.size == 1 else (v.type.size,))
            if node.op == "add":
                return Affine(None, v)
            if node.op == "sub":
                return Affine(None, -v) if position == 0 else Affine(b.constant(-1, v.type.dtype), v)
            return Affine(v if node.op == "mul" else 1 / v, None)

        return Found(x.name, node.op in ("add", "sub"), read)
    return None


def _per_channel(other: Node, node: Node) -> bool:
    shape = (1,) * (node.type.rank - other.type.rank) + other.type.shape
    return len(shape) == node.type.rank and all(size == 1 for axis, size in enumerate(shape) if axis != 1)


def _gain(graph: Graph, context: Context, node: Node) -> float:
    """What folding saves: a tail or head of a kernel moves no tensor of its own, only its numbers for each channel."""
    types = [graph[i].type for i in node.inputs]
    return max(price(context, node.op, node.attrs, *types) - price(context, "copy", {}, node.type), 0.0)


# --- behind a layer --------------------------------------------------------------------------------------------------

def _fold_back(graph: Graph, context: Context, node: Node, found: Found) -> Rewrite | None:
    layer = graph[found.x]
    if layer.op not in LINEAR:
        return None
    what = f"{layer.op} · {node.op} -> {layer.op}"
    if not only_reader(graph, layer.name):
        return Rewrite(what, layers(layer, node), False, why=f"what {node.op} reads is read elsewhere too")
    if not fixed(graph, layer.inputs[1]):
        return Rewrite(what, layers(layer, node), False, why="the weight of the layer depends on the input")
    done = Rewrite(what, layers(layer, node), gain=_gain(graph, context, node))
    b = Builder(graph)
    with b.within(f"{node.name}/folded", unite([layer.origins, node.origins])):
        x, weight, *bias = (b.value(i) for i in layer.inputs)
        affine = found.read(b)
        shift = affine.shift
        if affine.scale is not None:
            weight = weight * _rows(b, affine.scale, weight.type.rank)
            bias = [value * affine.scale for value in bias]
        if bias and shift is not None:
            bias = [bias[0] + shift]
        elif shift is not None:
            bias = [shift if shift.shape else b.op("broadcast_to", shift, shape=(weight.shape[0],))]
    become(graph, node.name, layer.op, layer.attrs, [x, weight, *bias], [layer.name])
    return done


def _rows(b: Builder, value: Value, rank: int) -> Value:
    """[C] as [C, 1…], which multiplies the rows of a weight; one number stays as it is."""
    return b.op("reshape", value, shape=(value.shape[0], *[1] * (rank - 1))) if value.shape else value


# --- before a layer --------------------------------------------------------------------------------------------------

def _fold_forward(graph: Graph, context: Context, node: Node, found: Found) -> Rewrite | None:
    users = graph.users(node.name)
    view = next((u for u in users if u.op == "flatten"), None)
    ends = graph.users(view.name) if view else users
    layer = next((u for u in ends if u.op in LINEAR and u.inputs[0] == (view or node).name), None)
    if layer is None:
        return None
    what = f"{node.op} · {layer.op} -> {layer.op}"
    if not only_reader(graph, node.name) or view and not only_reader(graph, view.name) or len(set(layer.inputs)) < 2:
        return Rewrite(what, layers(node, layer), False, why=f"what {node.op} makes is read elsewhere too")
    if not fixed(graph, layer.inputs[1]):
        return Rewrite(what, layers(node, layer), False, why="the weight of the layer depends on the input")
    if found.shifts and layer.op == "conv" and any(map(any, layer.attrs["pad"])):
        return Rewrite(what, layers(node, layer), False,
                       why="the padding is zeros behind the shift: folded before it, the border would be wrong")
    done = Rewrite(what, layers(node, layer), gain=_gain(graph, context, node))
    b = Builder(graph)
    with b.within(f"{layer.name}/folded", unite([layer.origins, node.origins])):
        _, weight, *bias = (b.value(i) for i in layer.inputs)
        affine = found.read(b)
        seen = _by_channel(b, weight, layer, node.type.shape[1])
        if affine.shift is not None:
            added = _columns(b, affine.shift, layer.attrs.get("groups", 1))
            added = b.op("sum", seen * added, axes=(2, 3), keepdims=False)
            added = b.op("reshape", added, shape=(weight.shape[0],))
            bias = [bias[0] + added] if bias else [added]
        if affine.scale is not None:
            seen = seen * _columns(b, affine.scale, layer.attrs.get("groups", 1))
            weight = b.op("reshape", seen, shape=weight.shape)
    x = b.value(found.x)
    if view is not None:
        graph.update(view.name, inputs=(x.name,), origins=unite([view.origins, node.origins]))
        x = b.value(view.name)
    become(graph, layer.name, layer.op, layer.attrs, [x, weight, *bias], [node.name])
    return done


def _by_channel(b: Builder, weight: Value, layer: Node, channels: int) -> Value:
    """A weight as [groups, rows of a group, channels of a group, what is left]."""
    groups = layer.attrs.get("groups", 1)
    rows, size = weight.shape[0] // groups, dims.product(weight.shape[1:])
    return b.op("reshape", weight, shape=(groups, rows, channels // groups, size * groups // channels))


def _columns(b: Builder, value: Value, groups: int) -> Value:
    """[C] as [groups, 1, C / groups, 1]; one number stays as it is."""
    return b.op("reshape", value, shape=(groups, 1, value.shape[0] // groups, 1)) if value.shape else value
