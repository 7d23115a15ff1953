"""Convolutions with large windows on the CPU by Fourier transforms of tiles (compiler/ops/fft.py says what is computed).

Lanes are channels throughout. Dense convolutions take three steps for as many images as share the weights well: transforms of
all tiles into V [point][part][C/b][tile][b]; for each point a matrix product of complex numbers, whose weights lie side by
side, into M [point][part][O/b][tile][b]; transforms back. Depthwise ones do all of it tile by tile, in cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ops import fft
from compiler.schedule import cpu_fourier
from compiler.schedule.cpu_band import CYCLES_PER_NS
from compiler.schedule.cpu_blocked import blocked
from compiler.schedule.cpu_loops import ceildiv, i64, loops, share, static
from compiler.schedule.cpu_tile import bound, cut, parts, positions, prefetch
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

TILES = 24            # that share a reading of the weights, where the batch has as many
AHEAD = 4             # weights are fetched half as many points ahead
FLOPS_PER_CYCLE = 1.0  # of transforms, for each lane


def emit_fft_conv(kernel: Kernel, cpu: Cpu, batch: int) -> Work | bool | None:
    """Emits `fft_conv` where the weight is blocked: all of it, or its work where it is depthwise; else None, and nothing."""
    x, u = kernel.operands[:2]
    sizes = [static(extent) for extent in (*x.shape[1:], *kernel.shape[1:])]
    if not all(sizes) or not all(o.computed for o in kernel.operands) or kernel.staged:
        return None
    if u.buffer is None or not blocked(u.layout, cpu, axis=0):
        return None
    conv = _Convolution(kernel, cpu, sizes[0], sizes[3], tuple(sizes[1:3]), tuple(sizes[4:]))
    if kernel.a.groups > 1:
        return conv.depthwise(batch) if kernel.a.groups == sizes[0] == sizes[3] else None
    conv.dense(batch)
    return True


def emit_fft_weight(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `fft_weight`: units are blocks of outputs, whose lanes they are; None where it is not blocked."""
    w, (outputs, inputs, *_), size = kernel.operands[0], [static(extent) for extent in kernel.shape], kernel.a.tile
    if not w.computed or not outputs or not inputs or not blocked(kernel.layout, cpu, axis=0):
        return None
    lanes, window = cpu.lanes, [static(extent) for extent in w.shape[2:]]
    line, plane = _scratch(kernel, cpu, size, lanes), _scratch(kernel, cpu, size, size + 2, lanes)

    def emit(block: Any, slot: Any) -> None:
        with T.serial(0, i64(inputs)) as c:
            def fill(y: Any) -> None:
                with T.serial(0, i64(window[1])) as x, T.vectorized(0, i64(lanes)) as lane:
                    T.buffer_store(line, w(block * lanes + lane, c, y, x) * tirx.const(size ** -2, "float32"), [slot, x, lane])

            def put(ky: int, kx: Any, part: int, lane: Any, value: Any) -> None:
                kernel.store((block * lanes + lane, c, i64(ky), kx * 2 + part), -value if part else value)

            _forward(size, lanes, slot, line, plane, (0, window[0]), (0, window[1]), fill, put)

    ns = outputs // lanes * inputs * fft.transform_flops(size) / FLOPS_PER_CYCLE / CYCLES_PER_NS
    return Work(outputs // lanes, ns, emit)


def _scratch(kernel: Kernel, cpu: Cpu, *extents: int) -> Any:
    """One for each thread."""
    return kernel.scratch(tuple(map(i64, (cpu.llvm.get("num-cores", 1), *extents))), "float32")


# --- transforms of a tile ---------------------------------------------------------------------------------------------


def _forward(size: int, lanes: int, slot: Any, line: Any, plane: Any, rows: tuple[Any, Any], filled: tuple[Any, Any],
             fill: Callable[[Any], None], put: Callable[[int, Any, int, Any, Any], None]) -> None:
    """put(ky, kx, part, lane, value) of a tile that is zero outside of rows [first, last) and columns [first, last).

    fill(row) writes the columns `filled` of a row to line[slot, column, lane]."""
    half = size // 2 + 1
    zero = tirx.const(0.0, "float32")

    def clear(first: Any, last: Any) -> None:
        with T.serial(0, tirx.Max(i64(last) - i64(first), i64(0))) as turn, T.vectorized(0, i64(lanes)) as lane:
            T.buffer_store(line, zero, [slot, turn + first, lane])

    clear(0, filled[0])
    clear(filled[1], size)
    with T.serial(0, i64(size)) as y, T.If(tirx.all(y >= i64(rows[0]), y < i64(rows[1]))):
        with T.Then():
            fill(y)
            cpu_fourier.rows_forward(size).emit(lanes, lambda i, lane: line[slot, i64(i), lane], lambda to, lane, value:
                                                T.buffer_store(plane, value, [slot, y, i64(2 * to[0] + to[1]), lane]))
        with T.Else():
            with T.serial(0, i64(2 * half)) as x, T.vectorized(0, i64(lanes)) as lane:
                T.buffer_store(plane, zero, [slot, y, x, lane])
    with T.serial(0, i64(half)) as kx:
        cpu_fourier.columns(size, -1, size).emit(
            lanes, lambda at, lane: plane[slot, i64(at[0]), kx * 2 + at[1], lane],
            lambda to, lane, value: put(to[0], kx, to[1], lane, value))


def _back(size: int, lanes: int, slot: Any, line: Any, plane: Any, rows: int, columns: int, count: Any,
          read: Callable[[int, Any, int, Any], Any], done: Callable[[Any], None]) -> None:
    """The inverse: done(row) for the first `count` rows, of at most `rows`, when its `columns` stand in line[slot, x, lane].

    read(ky, kx, part, lane) gives the points."""
    half = size // 2 + 1
    with T.serial(0, i64(half)) as kx:
        cpu_fourier.columns(size, 1, rows).emit(
            lanes, lambda at, lane: read(at[0], kx, at[1], lane),
            lambda to, lane, value: T.buffer_store(plane, value, [slot, i64(to[0]), kx * 2 + to[1], lane]))
    with T.serial(0, i64(count)) as y:
        cpu_fourier.rows_back(size, columns).emit(
            lanes, lambda at, lane: plane[slot, y, i64(2 * at[0] + at[1]), lane],
            lambda x, lane, value: T.buffer_store(line, value, [slot, i64(x), lane]))
        done(y)


# --- convolution ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Convolution:
    kernel: Kernel
    cpu: Cpu
    channels: int
    outputs: int
    source: tuple[int, int]
    out: tuple[int, int]

    @property
    def size(self) -> int:
        return self.kernel.a.tile

    @property
    def step(self) -> tuple[int, int]:
        """Results of a tile along each axis."""
        return tuple(self.size - k + 1 for k in self.kernel.a.kernel)

    @property
    def grid(self) -> tuple[int, int]:
        return fft.grid(self.kernel.a, self.out)

    @property
    def half(self) -> int:
        return self.size // 2 + 1

    def transform_ns(self, channels: int) -> float:
        """Of all tiles of an image, one way."""
        blocks = ceildiv(channels, self.cpu.lanes)
        return prod(self.grid) * blocks * fft.transform_flops(self.size) / FLOPS_PER_CYCLE / CYCLES_PER_NS

    def forward(self, n: Any, block: Any, tile: Any, slot: Any, line: Any, plane: Any,
                put: Callable[[int, Any, int, Any, Any], None]) -> None:
        """The transform of one block of channels of one tile."""
        x, lanes, size = self.kernel.operands[0], self.cpu.lanes, self.size
        direct = x.buffer is not None and blocked(x.layout, self.cpu)
        origin = [bound(at * step - lo) for at, step, (lo, _) in zip(
            parts(tile, self.grid[1]), self.step, self.kernel.a.pad)]
        inside = [(bound(tirx.Max(-first, i64(0))), bound(tirx.Min(i64(extent) - first, i64(size))))
                  for first, extent in zip(origin, self.source)]
        whole = self.channels // lanes

        def fill(y: Any) -> None:
            first, last = inside[1]
            with T.serial(0, tirx.Max(last - first, i64(0))) as turn:
                column = bound(turn + first)
                at = bound(y + origin[0]), bound(column + origin[1])
                if direct:
                    with T.vectorized(0, i64(lanes)) as lane:
                        T.buffer_store(line, x.at(n, block, *at, lane), [slot, column, lane])
                    return
                with T.serial(0, i64(lanes) if self.channels % lanes == 0 else tirx.Min(
                        i64(self.channels) - block * lanes, i64(lanes))) as lane:
                    T.buffer_store(line, x(n, block * lanes + lane, *at), [slot, column, lane])

        if whole * lanes < self.channels:  # lanes that stand for no channel
            with T.serial(0, i64(size)) as column, T.vectorized(0, i64(lanes)) as lane:
                T.buffer_store(line, tirx.const(0.0, "float32"), [slot, column, lane])
        _forward(size, lanes, slot, line, plane, *inside, fill, put)

    def back(self, n: Any, block: Any, tile: Any, slot: Any, line: Any, plane: Any,
             read: Callable[[int, Any, int, Any], Any]) -> None:
        """Stores one block of outputs of one tile."""
        lanes, bias = self.cpu.lanes, self.kernel.operands[2:]
        first = [bound(at * step) for at, step in zip(parts(tile, self.grid[1]), self.step)]
        count = [bound(tirx.Min(i64(extent) - at, i64(step))) for at, extent, step in zip(first, self.out, self.step)]

        def done(y: Any) -> None:
            def each(store: Callable) -> None:
                with T.serial(0, count[1]) as x, T.vectorized(0, i64(lanes)) as lane:
                    o = block * lanes + lane
                    value = line[slot, x, lane] + bias[0](o) if bias else line[slot, x, lane]
                    store((n, o, y + first[0], x + first[1]), value)

            self.kernel.each(block * lanes, each)

        _back(self.size, lanes, slot, line, plane, *self.step, count[0], read, done)

    def depthwise(self, batch: int) -> Work:
        """Units are (image, block of channels)."""
        kernel, lanes, size, half = self.kernel, self.cpu.lanes, self.size, self.half
        u = kernel.operands[1].buffer
        blocks = self.outputs // lanes
        line, plane = _scratch(kernel, self.cpu, size, lanes), _scratch(kernel, self.cpu, size, 2 * half, lanes)
        there = _scratch(kernel, self.cpu, size, 2 * half, lanes)

        def emit(unit: Any, slot: Any) -> None:
            n, block = parts(unit, blocks)

            def times(ky: int, kx: Any, part: int, lane: Any) -> Any:
                mine = [there[slot, i64(ky), kx * 2 + i, lane] for i in (0, 1)]
                factor = [u[block, i64(0), i64(ky), kx * 2 + i, lane] for i in (0, 1)]
                return mine[0] * factor[1] + mine[1] * factor[0] if part else mine[0] * factor[0] - mine[1] * factor[1]

            with loops([prod(self.grid)]) as (tile,):
                self.forward(n, block, tile, slot, line, plane, lambda ky, kx, part, lane, value: T.buffer_store(
                    there, value, [slot, i64(ky), kx * 2 + part, lane]))
                self.back(n, block, tile, slot, line, plane, times)

        ns = batch * (2 * self.transform_ns(self.outputs))
        return Work(kernel.shape[0] * blocks, ns, emit)

    def dense(self, batch: int) -> None:
        """Three steps for a few images at a time."""
        kernel, cpu, lanes, half = self.kernel, self.cpu, self.cpu.lanes, self.half
        tiles, points, images = prod(self.grid), fft.points(self.size), kernel.shape[0]
        together = min(batch, ceildiv(TILES, tiles))
        most = together * tiles
        ins, outs = ceildiv(self.channels, lanes), self.outputs // lanes
        # Products of neighbouring points read one stream of weights, as many as keep what they share in L2.
        chunks = min(half, ceildiv(half * 2 * ins * most * lanes * 4, cpu.l2 // 2))
        line, plane = _scratch(kernel, cpu, self.size, lanes), _scratch(kernel, cpu, self.size, 2 * half, lanes)
        v, products = (kernel.scratch(tuple(map(i64, (points, 2, blocks, most * lanes))), "float32") for blocks in (ins, outs))
        with loops([images if together == 1 else tirx.floordiv(images + (together - 1), i64(together))]) as (turn,):
            first = bound(turn * together)
            count = 1 if together == 1 else bound(tirx.Min(images - first, i64(together)))

            def forward(unit: Any, slot: Any) -> None:
                image, tile, block = parts(unit, tiles, ins)
                place = bound((image * tiles + tile) * lanes)
                self.forward(bound(first + image), block, tile, slot, line, plane,
                             lambda ky, kx, part, lane, value: T.buffer_store(
                                 v, value, [kx + ky * half, i64(part), block, place + lane]))

            def multiply(unit: Any, slot: Any) -> None:
                ky, chunk = parts(unit, chunks)
                with loops([outs]) as (block,):
                    low, high = (tirx.floordiv((chunk + more) * half, i64(chunks)) for more in (0, 1))
                    with T.serial(0, high - low) as turn:
                        self._products(v, products, block, ky, bound(low + turn), most, tiles if count == 1 else count * tiles)

            def back(unit: Any, slot: Any) -> None:
                image, tile, block = parts(unit, tiles, outs)
                place = bound((image * tiles + tile) * lanes)
                self.back(bound(first + image), block, tile, slot, line, plane,
                          lambda ky, kx, part, lane: products[kx + ky * half, i64(part), block, place + lane])

            threads = cpu.llvm.get("num-cores", 1)
            macs = 4 * most * points * self.channels * self.outputs
            share([Work(count * (tiles * ins), together * self.transform_ns(self.channels), forward)], threads)
            share([Work(self.size * chunks, macs / (2 * lanes) / CYCLES_PER_NS, multiply)], threads)
            share([Work(count * (tiles * outs), together * self.transform_ns(self.outputs), back)], threads)

    def _products(self, v: Any, products: Any, block: Any, ky: Any, kx: Any, most: int, count: Any) -> None:
        """M of one point and block of outputs for `count` tiles."""
        lanes, u = self.cpu.lanes, self.kernel.operands[1].buffer
        point, whole = bound(ky * self.half + kx), self.channels % lanes == 0
        for run in cut(most, positions(self.cpu, 2)):
            pieces = run.count if static(count) else tirx.Max(i64(0), tirx.Min(i64(run.count), tirx.floordiv(
                count - run.first + (run.size - 1), i64(run.size))))
            with loops([pieces]) as (turn,):
                start = bound(run.piece(turn))
                sums = [T.alloc_buffer((run.size, lanes), "float32") for _ in (0, 1)]
                with T.unroll(0, i64(run.size)) as i:
                    for acc in sums:
                        with T.vectorized(0, i64(lanes)) as lane:
                            T.buffer_store(acc, tirx.const(0.0, "float32"), [i, lane])
                with loops([self.channels // lanes if whole else self.channels]) as (c,):
                    if whole and not run.first:
                        for line in range(0, 2 * lanes, 16 // lanes):
                            part, channel = divmod(line, lanes)
                            prefetch(u[block, c * lanes + channel + AHEAD * self.channels, ky, kx * 2 + part, 0])
                    with loops([lanes if whole else 1]) as (within,):
                        channel = c * lanes + within if whole else c
                        at = (c, within) if whole else (tirx.floordiv(c, i64(lanes)), tirx.floormod(c, i64(lanes)))
                        with T.unroll(0, i64(run.size)) as i:
                            re, im = (v[point, i64(part), at[0], (start + i) * lanes + at[1]] for part in (0, 1))
                            for part, (x, y) in ((0, (re, -im)), (1, (im, re))):
                                with T.vectorized(0, i64(lanes)) as lane:
                                    ur, ui = (u[block, channel, ky, kx * 2 + p, lane] for p in (0, 1))
                                    T.buffer_store(sums[part], sums[part][i, lane] + x * ur + y * ui, [i, lane])
                for part, acc in enumerate(sums):
                    with T.unroll(0, i64(run.size)) as i, T.vectorized(0, i64(lanes)) as lane:
                        T.buffer_store(products, acc[i, lane], [point, i64(part), block, (start + i) * lanes + lane])
