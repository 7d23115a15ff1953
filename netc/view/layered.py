"""Layered drawing of an acyclic graph (Sugiyama, Tagawa and Toda, 1981): layers, an order within each, places.

Layers are longest paths, orders are found by sweeps of barycentres, and places are those nearest to the neighbours'
that keep order and distance: an isotonic regression for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

GAP, BETWEEN, SWEEPS = 18.0, 30.0, 12
Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """centers of nodes and bends of edges, within `width` and `height` from a corner at 0, 0."""

    centers: Mapping[str, Point]
    bends: Mapping[tuple[str, str], list[Point]]
    width: float
    height: float


def draw(sizes: Mapping[str, Point], edges: Iterable[tuple[str, str]], top: Iterable[str] = (),
         bottom: Iterable[str] = ()) -> Drawing:
    """Places nodes of the given (width, height). top, bottom: nodes that lie in the first or the last layer."""
    graph = nx.DiGraph()
    graph.add_nodes_from(sizes)
    graph.add_edges_from(dict.fromkeys(edges))
    layer = _layers(graph, set(top), set(bottom))
    chains = {}
    for one, other in list(graph.edges):
        steps = [f"{one}>{other}>{at}" for at in range(layer[one] + 1, layer[other])]
        layer |= {step: at for at, step in enumerate(steps, layer[one] + 1)}
        chains[one, other] = steps
        if steps:
            graph.remove_edge(one, other)
            nx.add_path(graph, [one, *steps, other])
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in nx.lexicographical_topological_sort(graph, key={n: i for i, n in enumerate(graph)}.__getitem__):
        rows[layer[name]].append(name)
    _order(graph, rows)
    widths = {name: sizes[name][0] if name in sizes else 2.0 for name in graph}
    x = _columns(graph, rows, widths)
    y, height = {}, 0.0
    for row in rows:
        tallest = max(sizes[name][1] if name in sizes else 0.0 for name in row)
        y |= {name: height + tallest / 2 for name in row}
        height += tallest + BETWEEN
    left = min((x[n] - widths[n] / 2 for n in x), default=0.0)
    right = max((x[n] + widths[n] / 2 for n in x), default=0.0)
    return Drawing({name: (x[name] - left, y[name]) for name in sizes},
                   {edge: [(x[s] - left, y[s]) for s in steps] for edge, steps in chains.items()},
                   right - left, max(0.0, height - BETWEEN))


def _layers(graph: nx.DiGraph, top: set[str], bottom: set[str]) -> dict[str, int]:
    """The longest path to each node; what nothing leads to comes just above its first reader."""
    layer = {name: at for at, names in enumerate(nx.topological_generations(graph)) for name in names}
    if top:
        layer = {name: 0 if name in top else max(1, at) for name, at in layer.items()}
        for name in nx.topological_sort(graph):
            layer[name] = max([layer[name], *(layer[p] + 1 for p in graph.pred[name])])
    for name in graph:
        if not graph.pred[name] and name not in top and graph.succ[name]:
            layer[name] = min(layer[s] for s in graph.succ[name]) - 1
    last = max(layer.values(), default=0)
    if bottom and any(layer[name] == last for name in graph if name not in bottom):
        last += 1
    return {name: last if name in bottom else at for name, at in layer.items()}


def _order(graph: nx.DiGraph, rows: Sequence[list[str]]) -> None:
    """Sorts each row by the mean place of the neighbours in the row before it, down and up; keeps the best found."""
    best, fewest = [list(row) for row in rows], _crossings(graph, rows)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        pairs = list(zip(rows, rows[1:])) if down else [(below, above) for above, below in zip(rows, rows[1:])][::-1]
        for fixed, row in pairs:
            at = {name: i for i, name in enumerate(fixed)}
            old = {name: i for i, name in enumerate(row)}

            def mean(name: str) -> float:
                near = [at[n] for n in (graph.pred if down else graph.succ)[name] if n in at]
                return sum(near) / len(near) if near else old[name]

            row.sort(key=mean)
        crossings = _crossings(graph, rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, order in zip(rows, best):
        row[:] = order


def _crossings(graph: nx.DiGraph, rows: Sequence[Sequence[str]]) -> int:
    total = 0
    for row, below in zip(rows, rows[1:]):
        at = {name: i for i, name in enumerate(below)}
        ends = [at[n] for name in row for n in sorted((s for s in graph.succ[name] if s in at), key=at.__getitem__)]
        total += sum(one > other for i, one in enumerate(ends) for other in ends[i + 1:])
    return total


def _columns(graph: nx.DiGraph, rows: Sequence[Sequence[str]], widths: Mapping[str, float]) -> dict[str, float]:
    x: dict[str, float] = {}
    for row in rows:
        x |= zip(row, _spread(row, [0.0] * len(row), widths))
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = []
            for name in row:
                around = (graph.pred if down else graph.succ)[name] or (*graph.pred[name], *graph.succ[name])
                near = [x[n] for n in around]
                wanted.append(sum(near) / len(near) if near else x[name])
            x |= zip(row, _spread(row, wanted, widths))
    return x


def _spread(row: Sequence[str], wanted: Sequence[float], widths: Mapping[str, float]) -> list[float]:
    """The centres nearest to the wanted ones, in this order and without overlap (pool adjacent violators)."""
    offsets, offset = [], 0.0
    for i, name in enumerate(row):
        offset += (widths[row[i - 1]] + widths[name]) / 2 + GAP if i else 0.0
        offsets.append(offset)
    pools: list[list[float]] = []  # (sum, count) of neighbours that touch
    for want, shift in zip(wanted, offsets):
        pools.append([want - shift, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    places = [total / count for total, count in pools for _ in range(int(count))]
    return [place + shift for place, shift in zip(places, offsets)]
