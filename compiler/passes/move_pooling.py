"""Pooling moves past the layers it commutes with, to where the two together are less work.

Linear operations commute: a mean of 1×1 convolutions is the 1×1 convolution of a mean. Activations that never decrease
commute with a maximum: f(max x) = max f(x). Weights and their gradients stay what they were, so this applies to
training.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from compiler.build import Builder
from compiler.group import is_leaf, is_view
from compiler.ir import Graph, Node, TensorType
from compiler.ops import REGISTRY, namespace
from compiler.ops.pool import window_counts
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.price import only_reader, price

# Attributes under which each never decreases; where it is flat, its gradient is 0, so that ties change no gradient.
MONOTONE: dict[str, Callable[[dict], bool]] = {
    **{op: lambda a: True for op in ("relu", "relu6", "hard_tanh", "hard_sigmoid", "clip", "sigmoid", "tanh",
                                     "softplus", "selu")},
    "leaky_relu": lambda a: a["slope"] >= 0,
    "elu": lambda a: a["alpha"] >= 0,
}
EXPENSIVE = ("sigmoid", "tanh", "softplus", "selu", "elu")  # an exponential each, wherever they run


@graph_pass("move_pooling")
def move_pooling(graph: Graph, context: Context) -> list[Rewrite]:
    """Puts activations behind maximum pooling, global mean pooling before 1×1 convolutions, and mean pooling and 1×1
    convolutions into the cheaper order."""
    considered: dict[tuple[str, str], Rewrite] = {}
    changed = True
    while changed:
        changed = False
        for name in [node.name for node in graph.sorted()]:
            while _move(graph, context, name, considered):
                changed = True
    return list(considered.values())


def _move(graph: Graph, context: Context, name: str, considered: dict[tuple[str, str], Rewrite]) -> bool:
    """Whether `name` was swapped with what it reads; what was thought of that goes into `considered`."""
    second = graph[name]
    if not second.inputs or is_leaf(graph[second.inputs[0]]) or second.inputs.count(second.inputs[0]) > 1:
        return False
    first = graph[second.inputs[0]]
    found = _consider(graph, context, first, second)
    if found is None or (second.name, first.name) in considered:  # these two were swapped before
        return False
    considered[first.name, second.name] = found
    if found.taken:
        _swap(graph, first, second)
    return found.taken


def _consider(graph: Graph, context: Context, first: Node, second: Node) -> Rewrite | None:
    if second.op == "max_pool" and first.op in MONOTONE and MONOTONE[first.op](first.attrs):
        return _activation(graph, context, first, second)
    if pointwise(first) and (second.op == "avg_pool" or _global_mean(second)):
        return _order(graph, context, first, second)
    if first.op == "avg_pool" and pointwise(second):
        return _order(graph, context, first, second)
    return None


def pointwise(node: Node) -> bool:
    """Whether a convolution has one tap, stride 1 and no padding: each result reads one position."""
    a = node.attrs
    return node.op == "conv" and set(a["kernel"]) == set(a["stride"]) == {1} and not any(map(any, a["pad"]))


def _global_mean(node: Node) -> bool:
    return node.op == "global_avg_pool" and node.attrs["keepdims"]


# --- activation and maximum ------------------------------------------------------------------------------------------

def _activation(graph: Graph, context: Context, act: Node, pool: Node) -> Rewrite:
    what = f"{act.op} · max_pool -> max_pool · {act.op}"
    ours = layers(act, pool)
    if not only_reader(graph, act.name):
        return Rewrite(what, ours, False, why=f"what {act.op} makes is read elsewhere too")
    if not _smaller(pool):
        return Rewrite(what, ours, False, why="the pool makes as many elements as it reads")
    maker = graph[act.inputs[0]]
    # Behind a kernel that makes its operand it is free, but for the tensor it writes beside one that others read.
    gain = 0.0
    if is_leaf(maker) or is_view(maker):
        gain += price(context, act.op, act.attrs, act.type)
    elif not only_reader(graph, maker.name):
        gain += _reading(context, act)
    if context.training:  # the gradient's mask is then read at the pool's size
        gain += _reading(context, act) - _reading(context, pool)
    if gain > 0:
        return Rewrite(what, ours, True, gain)
    if act.op in EXPENSIVE:
        return Rewrite(what, ours, True, 0.0, "fewer exponentials; no tensor more or less is moved")
    why = f"{act.op} costs nothing where it is, at the end of the kernel of {maker.op}"
    return Rewrite(what, ours, False, 0.0, why)


def _smaller(pool: Node) -> bool:
    return prod(pool.attrs["stride"]) > 1


def _reading(context: Context, node: Node) -> float:
    """Predicted seconds that one more tensor of the node's type takes in a kernel that runs anyway."""
    return price(context, "where_positive", {}, node.type, node.type) - price(context, "copy", {}, node.type)


# --- mean and 1×1 ----------------------------------------------------------------------------------------------------

def _order(graph: Graph, context: Context, first: Node, second: Node) -> Rewrite:
    what = f"{_title(first)} · {_title(second)} -> {_title(second)} · {_title(first)}"
    ours = layers(first, second)
    if not only_reader(graph, first.name):
        return Rewrite(what, ours, False, why="what the first makes is read elsewhere too")
    conv, pool = (first, second) if first.op == "conv" else (second, first)
    if first is conv and apart(conv, pool):
        return Rewrite(what, ours, False, why="the mean counts padding in, where the bias would not reach")
    x = graph[first.inputs[0]].type
    weights = [graph[i].type for i in conv.inputs[1:]]
    now = price(context, first.op, first.attrs, x, *(weights if first is conv else ())) \
        + price(context, second.op, second.attrs, first.type, *(weights if second is conv else ()))
    if first is conv:
        between = _pooled(pool, x)
        then = price(context, pool.op, pool.attrs, x) + price(context, "conv", conv.attrs, between, *weights)
    else:
        between = x.with_shape(x.shape[0], weights[0].shape[0], *x.shape[2:])
        then = price(context, "conv", conv.attrs, x, *weights) + price(context, pool.op, pool.attrs, between)
    if now - then > 0:
        return Rewrite(what, ours, True, now - then)
    return Rewrite(what, ours, False, now - then, "this order is the cheaper one")


def apart(conv: Node, pool: Node) -> bool:
    """Whether a bias is not what it was when the mean is taken behind it: of padding, which has none."""
    return len(conv.inputs) == 3 and pool.op == "avg_pool" and pool.attrs["count_include_pad"] \
        and any(map(any, pool.attrs["pad"]))


def _title(node: Node) -> str:
    return "1×1 conv" if node.op == "conv" else node.op


def _pooled(pool: Node, x: TensorType) -> TensorType:
    """What a pool makes of `x`."""
    if pool.op == "avg_pool":
        return x.with_shape(*x.shape[:2], *window_counts(namespace(pool.attrs), x.shape[2:]))
    return x.with_shape(*x.shape[:2], *[1] * (x.rank - 2))


# --- the swap --------------------------------------------------------------------------------------------------------

def _swap(graph: Graph, first: Node, second: Node) -> None:
    """second(first(x)) becomes first(second(x)); each keeps its own name, origins, attributes and further operands, but
    for a bias that must stay behind the mean."""
    bias = ""
    if second.op == "conv" and apart(second, first):
        bias, second = second.inputs[2], graph.update(second.name, inputs=second.inputs[:2])
    graph.replace_uses(second.name, first.name)
    for node, source in ((second, first.inputs[0]), (first, second.name)):
        inputs = (source, *node.inputs[1:])
        types = [graph[i].type for i in inputs]
        graph.update(node.name, inputs=inputs, type=REGISTRY[node.op].infer(namespace(node.attrs), *types))
    if bias:
        b = Builder(graph)
        with b.within(f"{second.name}/moved", second.origins):
            column = b.op("reshape", b.value(bias), shape=(graph[bias].type.size, *[1] * (first.type.rank - 2)))
            total = b.op("add", b.value(first.name), column, name="bias")
        graph.replace_uses(first.name, total.name)
