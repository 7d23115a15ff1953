"""Two kernels in one on the CPU: bands of rows of the first, finished by its tail, are in cache for the second.

pool -> conv (1x1 as a rule) and conv -> conv: a unit is a band of result rows; all channels of the rows it reads are
made, then all output blocks. conv -> pool: a unit is one group of channel blocks and a band of pooled rows.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import LOW
from compiler.schedule.cpu_band import (CYCLES_PER_NS, Source, band_rows, banded, padded, scratch, source_of, stretch,
                                        threads_of)
from compiler.schedule.cpu_blocked import Direct, blocked, direct
from compiler.schedule.cpu_blocked_pool import Pooling, pooling
from compiler.schedule.cpu_loops import ceildiv, i64, loops
from compiler.schedule.cpu_tile import Run, bound, choose, parts
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu


def emit_staged(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of a kernel whose first operand is staged, else None (and nothing emitted)."""
    if 0 not in kernel.staged:
        return None
    first = kernel.staged[0]
    if kernel.op.name == "conv":
        conv = direct(kernel, cpu)
        if conv is None or conv.depthwise or conv.inputs % cpu.lanes:
            return None
        rows = band_rows(conv, cpu.l2 // 2, batch)
        if first.op.name == "conv":
            inner = direct(first, cpu)
            return None if inner is None or inner.depthwise else banded(
                conv, batch, rows, _convolved(conv, inner, rows), inner.groups * _cycles(inner))
        pool = pooling(first, cpu)
        return None if pool is None else banded(conv, batch, rows, _pooled(conv, pool, rows), pool.cycles)
    pool, inner = pooling(kernel, cpu), direct(first, cpu) if first.op.name == "conv" else None
    return None if pool is None or inner is None or inner.depthwise else _conv_pool(pool, inner, batch)


def _cycles(conv: Direct) -> float:
    return conv.tiling(1, conv.window.out[1]).cycles * conv.window.out[0]


def _band(conv: Direct, rows: int) -> Any:
    """Scratch for the padded source rows of bands of result rows: (slots, blocks, rows, columns, lanes)."""
    view, lanes = conv.window, conv.cpu.lanes
    return scratch(conv.kernel, threads_of(conv.cpu), conv.channels // lanes, view.span(rows), view.columns, lanes)


def _pooled(conv: Direct, pool: Pooling, rows: int) -> Source:
    """Bands of a convolution's source that pooling makes."""
    view, lanes, x = conv.window, conv.cpu.lanes, pool.kernel.operands[0]
    band = _band(conv, rows)
    direct_read = x.buffer is not None and blocked(x.layout, conv.cpu)

    def make(n: Any, slot: Any, y0: Any, count: Any) -> Any:
        first = bound(y0 * view.stride[0] - view.pad[0])

        def read(block: Any, lane: Any, y: Any, x_: Any) -> Any:
            return band[slot, block, y - first, x_ + view.pad[1], lane]

        with T.serial(0, i64(conv.channels // lanes)) as block:
            def store(idx: Any, value: Any) -> None:
                T.buffer_store(band, pool.kernel.finish(idx, value), [
                    slot, block, idx[2] - first, idx[3] + view.pad[1], idx[1] - block * lanes])

            def element(y: Any, x_: Any, lane: Any) -> Any:
                return x.at(n, block, y, x_, lane) if direct_read else x(n, block * lanes + lane, y, x_)

            padded(view, first, view.span(count),
                   lambda y: pool.rows(n, block, y, 1, element, lambda at, emit: emit(store)),
                   lambda y, x_: _zero(band, lanes, slot, block, y - first, x_ + view.pad[1]))
        return read

    return make


def _convolved(conv: Direct, inner: Direct, rows: int) -> Source:
    """Bands of a convolution's source that another convolution makes."""
    view, lanes = conv.window, conv.cpu.lanes
    band = _band(conv, rows)
    source = source_of(inner, view.span(rows))
    tiles = inner.tiling(1, inner.window.out[1])

    def make(n: Any, slot: Any, y0: Any, count: Any) -> Any:
        first = bound(y0 * view.stride[0] - view.pad[0])
        start = bound(tirx.Max(first, i64(0)))
        inside = bound(tirx.Min(first + view.span(count), i64(view.source[0])) - start)

        def store(idx: Any, value: Any) -> None:
            lane = idx[1] - tirx.floordiv(idx[1], i64(lanes)) * lanes
            T.buffer_store(band, inner.kernel.finish(idx, value), [
                slot, tirx.floordiv(idx[1], i64(lanes)), idx[2] - first, idx[3] + view.pad[1], lane])

        if view.columns > view.source[1] or view.pad[0] or view.beyond[0]:
            with T.serial(0, i64(conv.channels // lanes)) as block:
                padded(view, first, view.span(count), lambda y: T.evaluate(0),
                       lambda y, x_: _zero(band, lanes, slot, block, y - first, x_ + view.pad[1]))
        read = source(n, slot, start, inside)
        inner.each_group(tiles, lambda group: inner.rows(
            n, group, (Run(1, start, inside),), lambda run: (None, None), tiles.columns[group[0]], read,
            lambda block, emit: emit(store)))
        return lambda block, lane, y, x_: band[slot, block, y - first, x_ + view.pad[1], lane]

    return make


def _zero(band: Any, lanes: int, *place: Any) -> None:
    with T.vectorized(0, i64(lanes)) as lane:
        T.buffer_store(band, tirx.const(0.0, "float32"), [*place, lane])


def _conv_pool(pool: Pooling, conv: Direct, batch: int) -> Work:
    """A convolution within the pooling that reads it."""
    view, cpu, lanes = pool.window, conv.cpu, conv.cpu.lanes
    tiles = conv.tiling(1, conv.window.out[1])
    largest = max(run.size for run in tiles.groups)
    row = 4 * largest * lanes * view.source[1]
    rows = max(1, min(view.out[0], (cpu.l2 // 2 // row - view.span(1)) // view.stride[0] + 1))
    in_place = conv.reads(conv.kernel.operands[0]) and conv.kernel.operands[0].type.dtype not in LOW
    groups = conv.groups * tiles.units if in_place else 1
    if groups * batch < threads_of(cpu):
        rows = min(rows, max(1, view.out[0] // ceildiv(threads_of(cpu), groups * batch)))
    bands, span = ceildiv(view.out[0], rows), view.span(rows)
    source = source_of(conv, min(span, view.source[0]))
    band = scratch(conv.kernel, threads_of(cpu), largest, span, view.source[1], lanes)

    def one(n: Any, slot: Any, size: int, block: Any, place: tuple[Any, Any], made: tuple[Any, Any], read: Any) -> None:
        """One group of blocks: its rows `made`, then the pooled ones."""
        def store(idx: Any, value: Any) -> None:
            at = idx[1] - block * lanes
            T.buffer_store(band, conv.kernel.finish(idx, value), [
                slot, tirx.floordiv(at, i64(lanes)), idx[2] - made[0], idx[3], tirx.floormod(at, i64(lanes))])

        conv.rows(n, (size, block), (Run(1, *made),), lambda run: (None, None), tiles.columns[size], read,
                  lambda at, emit: emit(store))
        with loops([size]) as (j,):
            pool.rows(n, bound(block + j), *place, lambda y, x, lane: band[slot, j, y - made[0], x, lane],
                      lambda at, emit: pool.kernel.each(at * lanes, emit))

    def emit(unit: Any, slot: Any) -> None:
        n, number, group = parts(unit, bands, groups)
        y0, count = stretch(number, bands, view.out[0])
        first = bound(tirx.Max(y0 * view.stride[0] - view.pad[0], i64(0)))
        last = tirx.Min(y0 * view.stride[0] - view.pad[0] + view.span(count), i64(view.source[0]))
        made = first, bound(last - first)
        read = source(n, slot, *made)
        if in_place:
            of, turn = parts(group, tiles.units)
            choose(turn, tiles.groups, lambda run, block: one(
                n, slot, run.size, bound(block + of * conv.blocks), (y0, count), made, read))
        else:
            conv.each_group(tiles, lambda group: one(n, slot, *group, (y0, count), made, read))

    cycles = conv.groups * _cycles(conv) + pool.cycles
    return Work(pool.kernel.shape[0] * (bands * groups), batch * cycles / CYCLES_PER_NS, emit)
