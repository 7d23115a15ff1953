"""Direct convolution on the CPU in blocked layout: [N, C/b, H, W, b] activations, [O/b, kh, kw, I, b] weights, b lanes.

A unit of work is one group of output blocks (two or three) on a chunk of rows of one image; its register tiles read a
blocked input where it lies, borders being zeros of its halo. Any other input is copied band by band into padded rows.
Depthwise convolutions have a kernel of their own: lanes are channels, and taps are products of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_band import CYCLES_PER_NS, band_rows, banded, copied
from compiler.schedule.cpu_loops import PARALLEL_NS, ceildiv, i64, loops, static
from compiler.schedule.cpu_tile import (
    Run,
    Tiling,
    bound,
    choose,
    cut,
    parts,
    place_of,
    ranged,
    reduction,
    register_tile,
    tiling,
)
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu


Read = Callable[[Any, Any, Any, Any], Any]
Put = Callable[[Any, Callable], None]


@dataclass(frozen=True)
class Window:
    """A convolution or pooling of maps: sizes are (rows, columns), pad the zeros above and left."""

    source: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    out: tuple[int, int]

    @property
    def columns(self) -> int:
        """Of a padded row that all windows can read."""
        return self.pad[1] + self.source[1] + self.beyond[1]

    @property
    def beyond(self) -> tuple[int, int]:
        """How many zeros below and right of the source the windows reach."""
        return tuple(max(0, (o - 1) * s + (k - 1) * d + 1 - p - size) for o, s, k, d, p, size in zip(
            self.out, self.stride, self.kernel, self.dilation, self.pad, self.source))

    def span(self, rows: Any) -> Any:
        """How many source rows the windows of so many rows reach over."""
        return (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1


def window(a: Any, source: Sequence[Any], out: Sequence[Any]) -> Window | None:
    """The window of a node's attributes on maps of known size; None where a size is a symbol."""
    sizes = [static(extent) for extent in (*source, *out)]
    if len(sizes) != 4 or not all(sizes):
        return None
    return Window(tuple(sizes[:2]), tuple(a.kernel), tuple(a.stride), tuple(getattr(a, "dilation", (1, 1))),
                  tuple(lo for lo, _ in a.pad), tuple(sizes[2:]))


def blocked(layout: Any, cpu: Cpu, axis: int = 1, pair: int = 1) -> bool:
    return layout.block == cpu.lanes and layout.axis == axis and layout.pair == pair


def emit_blocked_conv(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `conv` where the weight is blocked, else None (and nothing emitted)."""
    conv = direct(kernel, cpu)
    if conv is None or 0 in kernel.staged:
        return None
    x = kernel.operands[0]
    if conv.depthwise:
        return Depthwise(conv).work(batch) if conv.reads(x) else None
    if conv.reads(x):
        return in_place(conv, batch)
    rows = band_rows(conv, cpu.l2 // 4, batch)
    return banded(conv, batch, rows, copied(conv, rows))


def direct(kernel: Kernel, cpu: Cpu, pair: int = 1, make: Callable[..., Direct] | None = None) -> Direct | None:
    """The convolution of a kernel whose weight is blocked by the lanes of `cpu` (and by pairs of inputs), else None."""
    x, w = kernel.operands[:2]
    if len(kernel.shape) != 4 or not all(o.computed for o in kernel.operands):
        return None
    if w.buffer is None or not blocked(w.layout, cpu, 0, pair) or any(start % cpu.lanes for start, _ in kernel.segments):
        return None
    view = window(kernel.a, x.shape[2:], kernel.shape[2:])
    channels, outputs = static(x.shape[1]), static(kernel.shape[1])
    if view is None or not channels or outputs // kernel.a.groups % cpu.lanes and kernel.a.groups < outputs:
        return None
    return (make or Direct)(kernel, cpu, view, channels, outputs)


@dataclass(frozen=True)
class Direct:
    """A convolution, and the loops over its tiles."""

    kernel: Kernel
    cpu: Cpu
    window: Window
    channels: int
    outputs: int

    @property
    def groups(self) -> int:
        return self.kernel.a.groups

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels == self.outputs > 1

    @property
    def inputs(self) -> int:
        """Channels that an output reads."""
        return self.channels // self.groups

    @property
    def blocks(self) -> int:
        """Of outputs, in a group."""
        return self.outputs // self.groups // self.cpu.lanes

    @property
    def macs(self) -> int:
        """Per image."""
        return prod(self.window.out) * self.outputs * self.inputs * prod(self.window.kernel)

    @property
    def steps(self) -> int:
        """Of a reduction."""
        return self.inputs * prod(self.window.kernel)

    def element(self, n: Any, block: Any, y: Any, x: Any, lane: Any) -> Any:
        """Of the blocked operand, as `read` of `tile` gives it."""
        return self.kernel.operands[0].at(n, block, y, x, lane)

    def reads(self, x: Any) -> bool:
        """Whether tiles can read operand `x` where it lies: blocked, its groups too, with a halo for all windows."""
        if x.buffer is None or not blocked(x.layout, self.cpu) or not self.depthwise and self.inputs % self.cpu.lanes:
            return False
        return all(h >= need for h, need in zip(x.layout.halo, (*self.window.pad, *self.window.beyond)))

    def flat(self, x: Any) -> bool:
        """Whether all rows of `x` and of the result are one: no window, and nothing between rows."""
        w = self.window
        return w.kernel == w.stride == (1, 1) and w.pad == (0, 0) and w.source == w.out and not any(x.layout.halo)

    def tiling(self, rows: int, columns: int) -> Tiling:
        return tiling(self.cpu.registers, self.cpu.lanes, self.blocks, rows, columns, self.steps)

    @property
    def put(self) -> Put:
        """Stores of the kernel: put(output block, emit), where emit gets a `store(idx, value)`."""
        return lambda block, emit: self.kernel.each(block * self.cpu.lanes, emit)

    def tile(self, n: Any, first: Any, size: int, place: Sequence[Any], shape: tuple[int, int], read: Read, put: Put,
             index: Callable[[Any, Any], tuple[Any, Any]] = lambda y, x: (y, x)) -> None:
        """One tile: `size` output blocks from block `first` (of all groups) on, at `shape` positions from `place` on.

        read(block, lane, y, x): an input element, (y, x) counted from the source's first, negative in the padding;
        block None: `lane` counts all channels. index(y, x): the result's row and column of a position.
        """
        lanes, view, w = self.cpu.lanes, self.window, self.kernel.operands[1].at
        group = 0 if self.groups == 1 else tirx.floordiv(first, i64(self.blocks))
        whole = self.inputs % lanes == 0
        extents = (*view.kernel, self.inputs // lanes, lanes) if whole else (*view.kernel, self.inputs)

        def x(step: Sequence[Any], i: Any) -> Any:
            ky, kx, *c = step
            y, x_ = place_of(i, place, shape)
            y = y * view.stride[0] + ky * view.dilation[0] - view.pad[0]
            x_ = x_ * view.stride[1] + kx * view.dilation[1] - view.pad[1]
            if not whole:
                return read(None, c[0] + group * self.inputs, y, x_)
            return read(c[0] + group * (self.inputs // lanes), c[1], y, x_)

        def weight(step: Sequence[Any], j: int, lane: Any) -> Any:
            ky, kx, *c = step
            return w(first + j, c[0] * lanes + c[1] if whole else c[0], ky, kx, lane)

        sums = register_tile(lanes, prod(shape), size, lambda j, lane: self.start(first + j, lane), extents, x, weight)
        self.finish(n, first, sums, place, shape, put, index)

    def start(self, block: Any, lane: Any) -> Any:
        """What a sum begins with."""
        bias = self.kernel.operands[2:]
        return bias[0](block * self.cpu.lanes + lane) if bias else tirx.const(0.0, "float32")

    def finish(self, n: Any, first: Any, sums: Sequence[Any], place: Sequence[Any], shape: tuple[int, int], put: Put,
               index: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        """Hands over the sums of a tile, a block at a time."""
        lanes = self.cpu.lanes
        for j, acc in enumerate(sums):
            def emit(store: Callable, j: int = j, acc: Any = acc) -> None:
                with T.unroll(0, i64(prod(shape))) as i, T.vectorized(0, i64(lanes)) as lane:
                    store((n, (first + j) * lanes + lane, *index(*place_of(i, place, shape))), acc[i, lane])

            put(first + j, emit)

    def rows(self, n: Any, group: tuple[int, Any], rows: Sequence[Run], bounds: Callable[[Run], tuple[Any, Any]],
             columns: Sequence[Run], read: Read, put: Put, index: Callable = lambda y, x: (y, x)) -> None:
        """All tiles of one group of output blocks (size, first) in the rows that `bounds(run)` picks of each run."""
        size, first = group
        for row in rows:
            with ranged(row, *bounds(row)) as y:
                for column in columns:
                    with loops([column.count]) as (turn,):
                        place = y, bound(column.piece(turn))
                        self.tile(n, first, size, place, (row.size, column.size), read, put, index)

    def each_group(self, tiles: Tiling, emit: Callable[[tuple[int, Any]], None]) -> None:
        """emit((size, first block)) for all groups of output blocks, one after the other."""
        with loops([self.groups]) as (group,):
            for run in tiles.groups:
                with loops([run.count]) as (turn,):
                    emit((run.size, bound(run.piece(turn) + group * self.blocks)))


# --- a blocked input -------------------------------------------------------------------------------------------------


def in_place(conv: Direct, batch: int) -> Work:
    """Units are (image, chunk of rows, group of output blocks)."""
    kernel, view, (x, *_) = conv.kernel, conv.window, conv.kernel.operands
    flat = conv.flat(x)
    height, width = (prod(view.out), 1) if flat else view.out
    tiles = conv.tiling(height, width)
    chunks = _chunks(conv, tiles, batch)
    ns = batch * conv.groups * tiles.cycles / CYCLES_PER_NS

    def index(y: Any, x_: Any) -> tuple[Any, Any]:
        return (tirx.floordiv(y, i64(view.out[1])), tirx.floormod(y, i64(view.out[1]))) if flat else (y, x_)

    def emit(unit: Any, slot: Any) -> None:
        n, chunk, group, turn = parts(unit, chunks, conv.groups, tiles.units)

        def read(block: Any, lane: Any, y: Any, x_: Any) -> Any:
            return conv.element(n, block, i64(0), y, lane) if flat else conv.element(n, block, y, x_, lane)

        def bounds(run: Run) -> tuple[Any, Any]:
            if chunks == 1:
                return None, None
            return (tirx.floordiv(chunk * run.count, i64(chunks)), tirx.floordiv((chunk + 1) * run.count, i64(chunks)))

        choose(turn, tiles.groups, lambda run, first: conv.rows(
            n, (run.size, bound(first + group * conv.blocks)), tiles.rows[run.size], bounds, tiles.columns[run.size],
            read, conv.put, index))

    return Work(kernel.shape[0] * (chunks * conv.groups * tiles.units), ns, emit)


def _chunks(conv: Direct, tiles: Tiling, batch: int) -> int:
    """In how many chunks the rows of an image are taken: so that what comes from beyond L2 is least, and there are
    units for all threads."""
    image = 4 * prod(conv.window.source) * conv.inputs
    weights = 4 * conv.steps * conv.outputs // conv.groups
    fitting = ceildiv(image, conv.cpu.l2 // 2)
    chunks = fitting if image + fitting * weights < tiles.units * image + weights else 1
    threads = conv.cpu.llvm.get("num-cores", 1)
    if threads > 1 and batch * conv.groups * tiles.cycles / CYCLES_PER_NS > PARALLEL_NS:
        chunks = max(chunks, ceildiv(2 * threads, tiles.units * conv.groups * batch))
    return min(chunks, *(run.count for runs in tiles.rows.values() for run in runs))


# --- depthwise -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Depthwise:
    """Lanes are channels: a tap is a product of vectors, and a tile a run of positions of one block."""

    conv: Direct

    def work(self, batch: int) -> Work:
        """Units are (image, block of channels)."""
        conv, view = self.conv, self.conv.window
        blocks = conv.channels // conv.cpu.lanes
        at = conv.kernel.operands[0].at

        def emit(unit: Any, slot: Any) -> None:
            n, block = parts(unit, blocks)
            self.rows(n, block, Run(1, 0, view.out[0]), lambda y, x, lane: at(n, block, y, x, lane), conv.put)

        return Work(conv.kernel.shape[0] * blocks, batch * conv.macs / conv.cpu.lanes / CYCLES_PER_NS, emit)

    def rows(self, n: Any, block: Any, rows: Run, read: Callable[[Any, Any, Any], Any], put: Put) -> None:
        """All positions of some rows; read(y, x, lane) gives source elements."""
        view, cpu = self.conv.window, self.conv.cpu
        with ranged(rows, None, None) as y:
            for column in cut(view.out[1], min(8, cpu.registers - 2)):
                with loops([column.count]) as (turn,):
                    self.tile(n, block, y, bound(column.piece(turn)), column.size, read, put)

    def tile(self, n: Any, block: Any, y: Any, x: Any, m: int, read: Callable[[Any, Any, Any], Any], put: Put) -> None:
        view, lanes, (_, w, *bias) = self.conv.window, self.conv.cpu.lanes, self.conv.kernel.operands
        sums = T.alloc_buffer((m, lanes), "float32")
        with T.unroll(0, i64(m)) as i, T.vectorized(0, i64(lanes)) as lane:
            start = bias[0](block * lanes + lane) if bias else tirx.const(0.0, "float32")
            T.buffer_store(sums, start, [i, lane])
        with reduction(view.kernel, m) as (ky, kx), T.unroll(0, i64(m)) as i:
            with T.vectorized(0, i64(lanes)) as lane:
                value = read(y * view.stride[0] + ky * view.dilation[0] - view.pad[0],
                             (x + i) * view.stride[1] + kx * view.dilation[1] - view.pad[1], lane)
                T.buffer_store(sums, sums[i, lane] + value * w.at(block, 0, ky, kx, lane), [i, lane])

        def emit(store: Callable) -> None:
            with T.unroll(0, i64(m)) as i, T.vectorized(0, i64(lanes)) as lane:
                store((n, block * lanes + lane, y, x + i), sums[i, lane])

        put(block, emit)
