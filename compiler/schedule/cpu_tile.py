"""The register tile that convolutions in blocked layout are made of, and how results are cut into tiles.

A tile is m positions times n blocks of output channels, a block being one vector. Its m*n sums stay in registers
through the whole reduction; a step of it loads n vectors of weights and broadcasts m scalars of input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_loops import ceildiv, i64, loops, static, unflatten
from compiler.target import Cpu

LATENCY = 4        # cycles of an FMA; two start in each
UNROLLED = 128     # FMAs that a loop body is unrolled to


@dataclass(frozen=True)
class Run:
    """`count` pieces of `size`, the first of which begins at `first`."""

    size: int
    first: int
    count: int

    def piece(self, index: Any) -> Any:
        """Where a piece begins."""
        return index * self.size + self.first


def cut(total: int, most: int) -> tuple[Run, ...]:
    """`total` in as few pieces of at most `most` as possible, whose sizes differ by at most 1."""
    low, more = divmod(total, ceildiv(total, most))
    runs = Run(low + 1, 0, more), Run(low, more * (low + 1), ceildiv(total, most) - more)
    return tuple(run for run in runs if run.count)


def place_of(i: Any, first: Sequence[Any], shape: tuple[int, int]) -> tuple[Any, Any]:
    """Row and column of position i of a tile of `shape` that begins at `first`."""
    (y, x), (rows, columns) = first, shape
    if rows == 1:
        return y, x + i
    if columns == 1:
        return y + i, x
    return y + tirx.floordiv(i, i64(columns)), x + tirx.floormod(i, i64(columns))


def positions(cpu: Cpu, n: int) -> int:
    """How many positions a tile of n vectors may have: m*n sums, n weights and one broadcast are registers.

    A buffer of sums must stay under 1 KiB: only then TVM keeps it on the stack and LLVM in registers.
    """
    return max(1, min((cpu.registers - 1 - n) // n, 1023 // (4 * cpu.lanes)))


def cycles(m: int, n: int, steps: int) -> float:
    """Of one tile: two FMAs or two loads start in a cycle, and a sum waits for its predecessor."""
    return steps * max(m * n / 2, (m + n) / 2, LATENCY) + 15 + 3 * m * n


@dataclass(frozen=True)
class Tiling:
    """groups: runs of output blocks that share tiles, by size n. rows, columns: for each n, how a map is cut."""

    groups: tuple[Run, ...]
    rows: dict[int, tuple[Run, ...]]
    columns: dict[int, tuple[Run, ...]]
    cycles: float

    @property
    def units(self) -> int:
        """How many groups there are."""
        return sum(run.count for run in self.groups)


@cache
def tiling(registers: int, lanes: int, blocks: int, height: int, width: int, steps: int) -> Tiling:
    """The tiles of `blocks` output blocks on a map, chosen for the fewest cycles: pairs or triples of blocks, what is
    left by one size less. Rows of which several fit into a tile are tiled together."""
    cpu = Cpu("", lanes, registers, {})
    found = []
    for most in (3, 2, 1):
        runs = _groups(blocks, most)
        rows, columns, total = {}, {}, 0.0
        for n in {run.size for run in runs}:
            m = positions(cpu, n)
            rows[n] = cut(height, min(height, max(1, m // width)))
            columns[n] = cut(width, m)
        for run in runs:
            total += run.count * sum(r.count * c.count * cycles(r.size * c.size, run.size, steps)
                                     for r in rows[run.size] for c in columns[run.size])
        found.append(Tiling(runs, rows, columns, total))
    return min(found, key=lambda t: t.cycles)


def _groups(blocks: int, most: int) -> tuple[Run, ...]:
    """Blocks in groups of `most`; an odd one is spread so that no group is of one where that can be helped."""
    whole, rest = divmod(blocks, most)
    if most == 3 and rest == 1 and whole:
        runs = Run(3, 0, whole - 1), Run(2, 3 * (whole - 1), 2)
    elif most == 2 and rest and whole:
        runs = Run(2, 0, whole - 1), Run(3, 2 * (whole - 1), 1)
    else:
        runs = Run(most, 0, whole), Run(rest, most * whole, 1 if rest else 0)
    return tuple(run for run in runs if run.count)


@contextmanager
def ranged(run: Run, low: Any, high: Any) -> Iterator[Any]:
    """A loop over those pieces of a run whose index counted over all runs (`low` to `high`) falls into it; gives where
    each begins. The run's first index is subtracted by the caller. low and high None: all of them."""
    if low is None:
        with loops([run.count]) as (index,):
            yield bound(run.piece(index))
        return
    low = bound(tirx.Max(low, i64(0)))
    with T.serial(0, tirx.Max(tirx.Min(high, i64(run.count)) - low, i64(0))) as index:
        yield bound(run.piece(index + low))


def bound(value: Any) -> Any:
    """A variable of that value: what is written many times over is worked out, and simplified, once."""
    return value if static(value) is not None else T.bind(value)


def parts(unit: Any, *sizes: Any) -> list[Any]:
    """The index along each axis of a row-major one; the first axis may be of any size."""
    return [bound(index) for index in unflatten(bound(unit), [None, *sizes])]


def choose(index: Any, runs: Sequence[Run], emit: Callable[[Run, Any], None]) -> None:
    """emit(run, where the piece begins) for piece number `index` counted over all runs."""
    before = 0
    for run in runs:
        if len(runs) == 1:
            emit(run, bound(run.piece(index)))
        else:
            with T.If(tirx.all(index >= i64(before), index < i64(before + run.count))), T.Then():
                emit(run, bound(run.piece(index - before)))
        before += run.count


@contextmanager
def reduction(extents: Sequence[int], work: int) -> Iterator[list[Any]]:
    """Nested loops over `extents`; the innermost are unrolled as long as their bodies of `work` FMAs stay small."""
    rolled = len(extents)
    while rolled and work * extents[rolled - 1] <= UNROLLED:
        rolled -= 1
        work *= extents[rolled]
    with loops(extents[:rolled]) as outer, loops(extents[rolled:], T.unroll) as inner:
        yield [*outer, *inner]


def register_tile(lanes: int, m: int, n: int, start: Callable[[int, Any], Any], extents: Sequence[int],
                  x: Callable[[Sequence[Any], Any], Any], w: Callable[[Sequence[Any], int, Any], Any],
                  ahead: Sequence[Callable[[Sequence[Any]], Any]] = ()) -> list[Any]:
    """Emits sums of x * w over `extents`; returns n buffers of (m, lanes).

    start(j, lane): what a sum of block j begins with; x(step, i): the scalar of position i; w(step, j, lane). ahead:
    elements whose cache lines are fetched once for all steps of the last extent.
    """
    sums = [T.alloc_buffer((m, lanes), "float32") for _ in range(n)]
    with T.unroll(0, i64(m)) as i:
        for j, acc in enumerate(sums):
            with T.vectorized(0, i64(lanes)) as lane:
                T.buffer_store(acc, start(j, lane), [i, lane])
    with loops(extents[:-1]) as outer:
        for element in ahead:
            prefetch(element(outer))
        with reduction(extents[-1:], m * n) as last, T.unroll(0, i64(m)) as i:
            step = [*outer, *last]
            for j, acc in enumerate(sums):
                with T.vectorized(0, i64(lanes)) as lane:
                    T.buffer_store(acc, acc[i, lane] + x(step, i) * w(step, j, lane), [i, lane])
    return sums


def prefetch(element: Any) -> None:
    """Brings the cache line of a buffer's element near, without waiting for it."""
    read, near, data = (tirx.const(value, "int32") for value in (0, 3, 1))
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", T.address_of(element), read, near, data))
