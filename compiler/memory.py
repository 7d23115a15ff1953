"""Where tensors live while a program runs: one arena, shared by tensors whose lifetimes do not meet.

Sizes depend on the batch, so tensors are put into classes of one growth (all that is proportional to N, all that is
constant, …). The largest growing class is packed from the bottom of the arena upwards, constants from its top
downwards; the arena is as large as it must be for the two never to meet, which is a maximum of a few sizes linear in N.
Other classes get a stretch of their own below. So the arena is near the smallest possible at every batch, not at one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from compiler import dims
from compiler.dims import Dim, Poly

ALIGNMENT = 64
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # values of a growth that a packing is judged at
NEAR = 1.03  # a packing that near the bound is not improved any further
MANY = 1000  # tensors from which on only two orders are tried
EFFORT = 200_000  # what improving a packing may take: tries, times the square of the number of tensors

Item = tuple[int, int, int]  # first step, last step, units
Placed = tuple[int, int, int, int]  # start, end, first step, last step


@dataclass(frozen=True)
class Part:
    """`bytes` of a tensor from its byte `start` on (a multiple of ALIGNMENT), alive from `first` to `last`."""

    start: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Lifetime:
    """A tensor of `bytes`, alive from the step `first` that writes it to the step `last` that reads it, both included.

    parts: where a tensor of constant size comes to life piece by piece, its pieces; what is between them is never used. Such
    tensors lie at the top of the arena, the smallest first.
    """

    name: str
    bytes: Dim
    first: int
    last: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Offsets into the arena, and its size."""

    offsets: Mapping[str, Dim]
    size: Dim


# The orders in which tensors are placed, each into the lowest gap that is free while it lives; none is best for all.
ORDERS: tuple[Callable[[Item], tuple[int, ...]], ...] = (
    lambda item: (item[0] - item[1], -item[2]),  # the longest life
    lambda item: (-item[2], item[0]),  # the largest
    lambda item: (item[0], -item[2]),  # the first
    lambda item: (-item[1], -item[2]),  # the last
    lambda item: ((item[0] - item[1] - 1) * item[2],),  # the largest times the longest
)


def max_live(lifetimes: Sequence[Lifetime], env: Mapping[str, int]) -> int:
    """Bytes of tensors alive together, at the step where these are most: no arena can be smaller."""
    change = [0] * (max((life.last for life in lifetimes), default=-1) + 2)
    for one in [one for life in lifetimes for one in life.parts or (life,)]:
        size = dims.evaluate(one.bytes, env)
        change[one.first] += size
        change[one.last + 1] -= size
    most = live = 0
    for bytes in change:
        live += bytes
        most = max(most, live)
    return most


def plan(lifetimes: Sequence[Lifetime]) -> Plan:
    """Packs every class in several orders and takes those that fit together best: whose arena is nearest the max-live
    bound at the batch where it is farthest from it."""
    classes: dict[Dim, dict[str, Item]] = {1: {}}
    pieces = sorted((life for life in lifetimes if life.parts), key=lambda life: life.bytes)
    for life in lifetimes:
        if life.parts:
            continue
        growth, units = _split(life.bytes)
        classes.setdefault(growth, {})[life.name] = (life.first, life.last, units)
    constant = classes.pop(1)
    growths = sorted(classes, key=lambda g: sum(item[2] for item in classes[g].values()) * dims.evaluate(
        g, dict.fromkeys(dims.symbols(g), SAMPLES[4])))
    main = growths.pop() if growths else 1
    growing = classes.pop(main, {})
    offsets: dict[str, Dim] = {}
    base: Dim = 0
    for growth in growths:
        stack = _fit(list(classes[growth].values()), [])[0]
        offsets |= {name: base + growth * at for name, at in zip(classes[growth], stack.starts)}
        base = base + growth * int(stack.heights.max())
    tops = dict(zip((life.name for life in pieces), accumulate((_aligned(life.bytes) for life in pieces))))
    # Small tensors that outlive the first pieces would lie below them all: what is little lies above.
    above = int(_fit([], list(constant.values()))[1].heights.max()) if pieces else 0
    if above <= (NEAR - 1) * max(tops.values(), default=0):
        tops = {name: top + above for name, top in tops.items()}
    fixed = [place for life in pieces for place in _pieces(life, tops[life.name])]
    up, down = _fit(list(growing.values()), list(constant.values()), fixed)
    size = base + dims.maximum(*(main * a + b for a, b in _envelope(up.heights.tolist(), down.heights.tolist())))
    offsets |= {name: base + main * at for name, at in zip(growing, up.starts)}
    offsets |= {name: size - (at + item[2]) for (name, item), at in zip(constant.items(), down.starts)}
    offsets |= {name: size - top for name, top in tops.items()}
    return Plan(offsets, size)


def _pieces(life: Lifetime, end: int) -> list[Placed]:
    """The parts of a tensor that begins `end` units below the top of the arena, as they are placed in the stack of constants."""
    return [(end - part.start - _aligned(part.bytes), end - part.start, part.first, part.last) for part in life.parts]


class _Stack:
    """Items packed in an order, each in the lowest gap that is free while it lives; `fixed` is there before them."""

    def __init__(self, items: Sequence[Item], order: Sequence[int], steps: int, fixed: Sequence[Placed] = ()):
        self.items, self.order, self.steps, self.fixed = items, order, steps, fixed
        self.starts = [0] * len(items)
        # What is placed, lowest first, a row each: start, end, first and last step.
        placed = np.zeros((len(fixed) + len(items), 4), np.int64)
        placed[:len(fixed)] = np.array(sorted(fixed), np.int64).reshape(-1, 4)
        for count, i in enumerate(order, len(fixed)):
            first, last, units = items[i]
            near = placed[:count][(placed[:count, 2] <= last) & (placed[:count, 3] >= first), :2]
            below = np.maximum.accumulate(np.append(0, near[:, 1]))  # where what lies below each of these ends, and all of it
            free = np.flatnonzero(near[:, 0] - below[:-1] >= units)
            at = self.starts[i] = int(below[free[0] if len(free) else -1])
            place = int(placed[:count, 0].searchsorted(at))
            placed[place + 1:count + 1] = placed[place:count]
            placed[place] = at, at + units, first, last

        # For each step, where the highest item that is alive ends.
        self.heights = np.zeros(steps, np.int64)
        for _, end, first, last in placed.tolist():
            alive = self.heights[first:last + 1]
            np.maximum(alive, end, out=alive)

    def moved(self, step: int, stream: random.Random) -> _Stack:
        """Packed anew, one of the items alive at `step` before others that it came behind."""
        alive = [place for place, i in enumerate(self.order) if self.items[i][0] <= step <= self.items[i][1]]
        if not alive:
            return self
        place = stream.choice(alive)
        rest = [i for i in self.order if i != self.order[place]]
        to = stream.randrange(place + 1)
        return _Stack(self.items, [*rest[:to], self.order[place], *rest[to:]], self.steps, self.fixed)


def _fit(low: Sequence[Item], high: Sequence[Item], fixed: Sequence[Placed] = ()) -> tuple[_Stack, _Stack]:
    """Packings of two classes that share an arena, one from each end; `fixed` is at the upper end before them."""
    there = [(first, last, end - start) for start, end, first, last in fixed]
    steps = 1 + max((item[1] for item in [*low, *high, *there]), default=0)
    bound = np.maximum(1, _together(_live(low, steps), _live([*high, *there], steps)).max(axis=1, keepdims=True))

    def ratio(up: _Stack, down: _Stack) -> float:
        """How much larger than the bound the arena has to be, at the batch where it is worst."""
        return float((_together(up.heights, down.heights) / bound).max())

    ups: list[_Stack] = []
    downs: list[_Stack] = []
    best = np.inf
    for order in ORDERS[:None if len(low) + len(high) < MANY else 2]:
        ups.append(_Stack(low, sorted(range(len(low)), key=lambda i: order(low[i])), steps))
        downs.append(_Stack(high, sorted(range(len(high)), key=lambda i: order(high[i])), steps, fixed))
        for one, other in [(u, downs[-1]) for u in ups] + [(ups[-1], d) for d in downs[:-1]]:
            if ratio(one, other) < best:
                best, up, down = ratio(one, other), one, other
        if best <= NEAR:
            return up, down
    stream = random.Random(len(low) + len(high))
    for _ in range(EFFORT // (20 + len(low) + len(high)) ** 2):
        if best <= NEAR:
            break
        step = int((_together(up.heights, down.heights) / bound).argmax()) % steps
        if stream.random() * (up.heights[step] + down.heights[step]) < up.heights[step]:
            tried = up.moved(step, stream), down
        else:
            tried = up, down.moved(step, stream)
        if ratio(*tried) <= best:
            best, (up, down) = ratio(*tried), tried
    return up, down


def _together(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Bytes of a growing and a constant class together, by batch and step."""
    return np.array(SAMPLES)[:, None] * low + high


def _live(items: Sequence[Item], steps: int) -> np.ndarray:
    live = np.zeros(steps, np.int64)
    for first, last, units in items:
        live[first:last + 1] += units
    return live


def _envelope(low: Sequence[int], high: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs (a, b) of the given ones for which n * a + b is the largest at some n from 1 on."""
    lines: list[tuple[int, int]] = []
    for a, b in sorted(set(zip(low, high)), reverse=True):  # from the steepest, best at the largest n, to the flattest
        if not lines or a + b > lines[-1][0] + lines[-1][1]:
            while len(lines) > 1 and _crossing(lines[-2], (a, b)) >= _crossing(lines[-2], lines[-1]):
                lines.pop()
            lines.append((a, b))
    return lines


def _crossing(steep: tuple[int, int], flat: tuple[int, int]) -> float:
    """The n at which both are equal."""
    return (flat[1] - steep[1]) / (steep[0] - flat[0])


def _split(size: Dim) -> tuple[Dim, int]:
    """`size` as growth × units, the units a multiple of the alignment: N*100 is N × 128."""
    if isinstance(size, int):
        return 1, _aligned(size)
    if len(size.terms) == 1:
        (monomial, factor), = size.terms
        return Poly(((monomial, 1),)), _aligned(factor)
    return (size + (ALIGNMENT - 1)) // ALIGNMENT, ALIGNMENT


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
