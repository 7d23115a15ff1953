"""The order of rewrites is searched: equality saturation over the rules that the passes behind it apply one by one.

A greedy pass takes what pays now; here a rewrite may cost at first (a 1×1 convolution made 3×3) where it lets another
(merging it with its sibling) pay more. What is found is kept only if the whole net, priced as it would be lowered, is
faster than what the greedy passes make.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations

from compiler.build import Value
from compiler.ir import Graph, Node
from compiler.ops import REGISTRY
from compiler.passes.base import Context, Rewrite, graph_pass
from compiler.passes.move_pooling import MONOTONE, apart, pointwise
from compiler.passes.price import fixed
from compiler.saturate import Equal, Extraction, saturate

NODES = 20_000     # beyond which no more alternatives are added
SUBSETS = 5        # siblings of which all subsets are offered; of more, pairs and all
SATURATING = 0.4   # of the time; the rest is for choosing


@graph_pass("search", training=False, reason="alternatives are priced forward only")
def search(graph: Graph, context: Context) -> list[Rewrite]:
    """Looks for an order of rewrites that is better than taking each where it pays; runs where time is given for it."""
    if not context.search:
        return []
    start = time.perf_counter()
    equal = Equal(graph)
    complete = saturate(equal, RULES.items(), start + SATURATING * context.search, NODES)
    choice = Extraction(equal, lambda node: _seconds(equal, node, context))
    choice.improve(start + context.search)
    found = choice.graph()
    greedy, searched = context.predict(graph), context.predict(found)
    size = f"{len(equal.graph):,} nodes, {len(equal.offers):,} equalities{'' if complete else ', stopped'}"
    what = f"search over {size} in {time.perf_counter() - start:.1f} s: {_said(choice.rules())}"
    if searched >= greedy * (1 - 1e-6):
        return [Rewrite(what, (), False, greedy - searched, "the passes, one after another, find as much")]
    graph.take(found)
    return [Rewrite(what, tuple(sorted({o.layer for n in found.nodes() for o in n.origins})), True, greedy - searched,
                    f"{100 * (1 - searched / greedy):.1f} % beyond the passes, one after another")]


def _said(rules: list[str]) -> str:
    return ", ".join(f"{count} × {rule}" for rule, count in Counter(rules).most_common()) or "nothing"


def _seconds(equal: Equal, node: Node, context: Context) -> float:
    """Predicted seconds of a node: element-wise work behind a kernel and places in memory cost nothing."""
    if node.op in ("slice", "concat") or REGISTRY[node.op].pointwise and node.inputs \
            and equal.graph[node.inputs[0]].op != "input":
        return 0.0
    return context.seconds(equal.graph, [node])


# --- rules: each yields what nodes equal --------------------------------------------------------------------------------

def _pool_of_monotone(equal: Equal, pool: Node) -> Iterator[Mapping[str, Value]]:
    """max_pool(f(x)) = f(max_pool(x)) for an f that never decreases."""
    if pool.op == "max_pool":
        for act in equal.equals(pool.inputs[0], *MONOTONE):
            if MONOTONE[act.op](act.attrs):
                both = act.origins | pool.origins
                yield {pool.name: equal.op(both, act.op, equal.op(both, "max_pool", act.inputs[0], **pool.attrs), **act.attrs)}


def _monotone_of_pool(equal: Equal, act: Node) -> Iterator[Mapping[str, Value]]:
    """f(max_pool(x)) = max_pool(f(x)) for an f that never decreases."""
    if act.op in MONOTONE and MONOTONE[act.op](act.attrs):
        for pool in equal.equals(act.inputs[0], "max_pool"):
            both = act.origins | pool.origins
            yield {act.name: equal.op(both, "max_pool", equal.op(both, act.op, pool.inputs[0], **act.attrs), **pool.attrs)}


def _mean_of_pointwise(equal: Equal, pool: Node) -> Iterator[Mapping[str, Value]]:
    """avg_pool(conv1x1(x)) = conv1x1(avg_pool(x)): both are linear."""
    if pool.op == "avg_pool":
        for conv in equal.equals(pool.inputs[0], "conv"):
            if pointwise(conv) and not apart(conv, pool):
                both = conv.origins | pool.origins
                mean = equal.op(both, "avg_pool", conv.inputs[0], **pool.attrs)
                yield {pool.name: equal.op(both, "conv", mean, *conv.inputs[1:], **conv.attrs)}


def _pointwise_of_mean(equal: Equal, conv: Node) -> Iterator[Mapping[str, Value]]:
    """conv1x1(avg_pool(x)) = avg_pool(conv1x1(x)): both are linear."""
    if conv.op == "conv" and pointwise(conv):
        for pool in equal.equals(conv.inputs[0], "avg_pool"):
            both = conv.origins | pool.origins
            behind = conv.inputs[2:] if apart(conv, pool) else ()  # a bias that the mean over padding would lessen
            made = equal.op(both, "conv", pool.inputs[0], *conv.inputs[1:2 if behind else 3], **conv.attrs)
            mean = equal.op(both, "avg_pool", made, **pool.attrs)
            if behind:
                column = equal.op(both, "reshape", behind[0], shape=(conv.type.shape[1], *[1] * (conv.type.rank - 2)))
                mean = equal.op(both, "add", mean, column)
            yield {conv.name: mean}


def _pointwise_of_conv(equal: Equal, second: Node) -> Iterator[Mapping[str, Value]]:
    """conv1x1(conv(x, W1) + b1, W2) + b2 = conv(x, W2 W1) + (W2 b1 + b2)."""
    if second.op != "conv" or not pointwise(second) or second.attrs["groups"] > 1 or not fixed(equal.graph, second.inputs[1]):
        return
    for first in equal.equals(second.inputs[0], "conv"):
        if first.attrs["groups"] > 1 or first.type.rank != 4 or not fixed(equal.graph, first.inputs[1]):
            continue
        both = first.origins | second.origins
        w1, w2 = equal.graph[first.inputs[1]].type.shape, equal.graph[second.inputs[1]].type.shape
        left = equal.op(both, "reshape", second.inputs[1], shape=w2[:2])
        right = equal.op(both, "reshape", first.inputs[1], shape=(w1[0], w1[1] * w1[2] * w1[3]))
        product = equal.op(both, "matmul", left, right, transpose_a=False, transpose_b=False)
        operands = [equal.op(both, "reshape", product, shape=(w2[0], *w1[1:]))]
        bias = None
        if len(first.inputs) == 3:
            column = equal.op(both, "reshape", first.inputs[2], shape=(w1[0], 1))
            moved = equal.op(both, "matmul", left, column, transpose_a=False, transpose_b=False)
            bias = equal.op(both, "reshape", moved, shape=(w2[0],))
        if len(second.inputs) == 3:
            bias = second.inputs[2] if bias is None else equal.op(both, "add", bias, second.inputs[2])
        yield {second.name: equal.op(both, "conv", first.inputs[0], *operands, *([] if bias is None else [bias]), **first.attrs)}


def _wider(equal: Equal, conv: Node) -> Iterator[Mapping[str, Value]]:
    """A 1×1 convolution is a k×k one with zeros around its weight, where it has a k×k sibling."""
    if conv.op != "conv" or not pointwise(conv) or conv.attrs["groups"] > 1 or not fixed(equal.graph, conv.inputs[1]):
        return
    for other in equal.readers(conv.inputs[0], "conv"):
        a = other.attrs
        same = all(2 * lo == 2 * hi == k - 1 for (lo, hi), k in zip(a["pad"], a["kernel"]))
        if not pointwise(other) and a["groups"] == 1 and set(a["stride"]) == set(a["dilation"]) == {1} and same:
            around = (0, 0, *((k - 1) // 2 for k in a["kernel"]))
            weight = equal.op(conv.origins, "pad", conv.inputs[1], before=around, after=around, value=0.0)
            yield {conv.name: equal.op(conv.origins, "conv", conv.inputs[0], weight, *conv.inputs[2:], **a)}


def _siblings(equal: Equal, conv: Node) -> Iterator[Mapping[str, Value]]:
    """Convolutions of one input are slices of one convolution with all their weights."""
    if not _mergeable(equal, conv):
        return
    alike = sorted((c for c in equal.readers(conv.inputs[0], "conv") if c.attrs == conv.attrs and _mergeable(equal, c)
                    and len(c.inputs) == len(conv.inputs)), key=lambda c: c.name)
    alike = list({equal.find(c.name): c for c in alike}.values())
    if not any(c.name == conv.name for c in alike) or alike[0].name != conv.name:
        return
    sizes = range(2, len(alike) + 1) if len(alike) <= SUBSETS else (2, len(alike))
    for size in sizes:
        for chosen in combinations(alike, size):
            yield _merged(equal, chosen)


def _mergeable(equal: Equal, conv: Node) -> bool:
    """Whether a convolution has weights of its own, and is no merged one itself."""
    return (conv.op == "conv" and conv.attrs["groups"] == 1 and all(i in equal.fixed for i in conv.inputs[1:])
            and equal.graph[conv.inputs[1]].op != "concat")


def _merged(equal: Equal, convs: tuple[Node, ...]) -> dict[str, Value]:
    origins = frozenset().union(*(c.origins for c in convs))
    operands = [equal.op(origins, "concat", *(c.inputs[at] for c in convs), axis=0) for at in range(1, len(convs[0].inputs))]
    whole = equal.op(origins, "conv", convs[0].inputs[0], *operands, **convs[0].attrs)
    out, start = {}, 0
    for conv in convs:
        stop = start + conv.type.shape[1]
        out[conv.name] = equal.op(conv.origins, "slice", whole, axis=1, start=start, stop=stop)
        start = stop
    return out


RULES = {
    "max_pool·f = f·max_pool": _pool_of_monotone,
    "f·max_pool = max_pool·f": _monotone_of_pool,
    "avg_pool·conv1x1 = conv1x1·avg_pool": _mean_of_pointwise,
    "conv1x1·avg_pool = avg_pool·conv1x1": _pointwise_of_mean,
    "conv1x1·conv = conv": _pointwise_of_conv,
    "1x1 as k×k": _wider,
    "siblings = one conv, sliced": _siblings,
}
