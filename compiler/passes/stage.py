"""What the passes share that put a producer into the kernel of its one reader: the tensor between them lives in a band of
rows in cache, made just before it is read, never in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compiler import dims
from compiler.group import Group, Launch
from compiler.ir import Graph, Node
from compiler.layout import PLAIN
from compiler.ops import REGISTRY, namespace
from compiler.passes.base import Context, Rewrite, layers


@dataclass(frozen=True)
class Pair:
    """A producer whose result only the anchor of one other kernel reads, as its first operand."""

    producer: Launch
    reader: Launch
    made: Node  # the producer's result
    anchors: tuple[Node, Node]


def fuse(graph: Graph, context: Context, ops: tuple[set[str], set[str]], fits: Callable[[Node, Node], bool],
         extra: Callable[[Pair, int], float], cut: Callable[[Pair], int]) -> list[Rewrite]:
    """Stages every pair of these ops (producers, readers) that `fits` where it pays, the cheapest intermediates last.

    cut(pair): how many pieces the channels of the intermediate are worked through in; extra(pair, rows): the share of the
    producer's work that is done again when the band has so many rows of it.
    """
    considered = []
    for pair in _pairs(graph, ops, fits):
        one, other = pair.anchors
        what = f"{one.name} is computed within {other.name}"
        if (one.op, other.op) not in context.machine.staged:
            continue
        why = _unfit(graph, pair, context)
        gain = 0.0
        if not why:
            gain = _gain(graph, pair, context, extra, cut)
            why = "" if gain > 0 else "making the borders of bands again costs more than memory saves"
        considered.append(Rewrite(what, layers(one, other), not why, gain, why))
        if not why:
            group, = pair.reader.groups
            group.staged = [*pair.producer.groups]
            graph.kernels.remove(pair.producer)
    return considered


def _pairs(graph: Graph, ops: tuple[set[str], set[str]], fits: Callable[[Node, Node], bool]) -> list[Pair]:
    makes = {name: launch for launch in graph.kernels for name in launch.results}
    found = []
    for reader in graph.kernels:
        if len(reader.groups) != 1 or reader.groups[0].staged or graph[reader.groups[0].anchor].op not in ops[1]:
            continue
        anchor = graph[reader.groups[0].anchor]
        producer = makes.get(anchor.inputs[0])
        if producer is None or len(producer.groups) != 1 or graph[producer.groups[0].anchor].op not in ops[0]:
            continue
        before = graph[producer.groups[0].anchor]
        if fits(before, anchor):
            found.append(Pair(producer, reader, graph[anchor.inputs[0]], (before, anchor)))
    return found


def _unfit(graph: Graph, pair: Pair, context: Context) -> str:
    """Why the two cannot be one kernel; empty where they can."""
    group: Group = pair.producer.groups[0]
    convs = [anchor for anchor in pair.anchors if anchor.op == "conv"]
    reasons = {
        f"{pair.made.name} is a result of the program": pair.made.name in graph.results(),
        f"{pair.made.name} is read by others too": len(graph.users(pair.made.name)) > 1,
        "its kernel makes other tensors too": len(group.results) > 1,
        "something is staged in it already": bool(group.staged),
        "it reads its operands through other work": bool(group.inlined),
        "its products are made by pairs of inputs": any(
            graph.layouts.get(conv.inputs[1], PLAIN).pair > 1 for conv in convs),
        "its vectors do not hold channels": pair.made.type.shape[1] % context.block or any(
            graph.layouts.get(conv.inputs[1], PLAIN).block != context.block for conv in convs),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _gain(graph: Graph, pair: Pair, context: Context, extra: Callable[[Pair, int], float],
          cut: Callable[[Pair], int]) -> float:
    """Predicted seconds saved: the intermediate is neither written nor read, some of it is computed twice, a call less."""
    batch = {s: context.batch for s in dims.symbols(pair.made.type.bytes)}
    _, channels, height, width = pair.made.type.shape
    one = dims.evaluate(pair.made.type.bytes, batch)
    row = channels * width * pair.made.type.itemsize // cut(pair)
    rows = max(1, min(height, context.machine.cache // 2 // row))
    producer = graph[pair.producer.groups[0].anchor]
    flops = dims.evaluate(REGISTRY[producer.op].flops(namespace(producer.attrs), [graph[i].type for i in producer.inputs],
                                                      producer.type), batch)
    machine = context.machine
    return 2 * one / machine.bandwidth - flops / machine.flops * extra(pair, rows) + machine.launch
