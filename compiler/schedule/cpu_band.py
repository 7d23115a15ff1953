"""Bands of rows in a thread's own scratch: what a convolution reads where its input does not lie as it needs it.

A band holds all channels of the source rows that a few rows of results read, with zeros for the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import LOW
from compiler.schedule.cpu_loops import ceildiv, i64, loops
from compiler.schedule.cpu_tile import Run, bound, parts
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

if TYPE_CHECKING:
    from compiler.schedule.cpu_blocked import Direct, Read, Window

CYCLES_PER_NS = 3.3  # to decide whether threads pay

Source = Callable[[Any, Any, Any, Any], "Read"]  # (n, slot, first result row, how many) -> how to read what they need


def banded(conv: Direct, batch: int, rows: int, source: Source, more: float = 0.0) -> Work:
    """Work whose units are (image, band of at most `rows` result rows): the source's rows, then all output blocks.

    more: cycles that the source takes for an image."""
    kernel, view = conv.kernel, conv.window
    tiles = conv.tiling(1, view.out[1])
    bands = ceildiv(view.out[0], rows)
    ns = batch * (conv.groups * tiles.cycles * view.out[0] + more) / CYCLES_PER_NS

    def emit(unit: Any, slot: Any) -> None:
        n, number = parts(unit, bands)
        y0, count = stretch(number, bands, view.out[0])
        read = source(n, slot, y0, count)
        conv.each_group(tiles, lambda group: conv.rows(
            n, group, (Run(1, y0, count),), lambda run: (None, None), tiles.columns[group[0]], read, conv.put))

    return Work(kernel.shape[0] * bands, ns, emit)


def stretch(number: Any, pieces: int, total: int) -> tuple[Any, Any]:
    """Where piece `number` of `total` rows in so many pieces begins, and how many rows it has."""
    first = bound(tirx.floordiv(number * total, i64(pieces)))
    return first, bound(tirx.floordiv((number + 1) * total, i64(pieces)) - first)


def band_rows(conv: Direct, room: int, batch: int) -> int:
    """Result rows of a band: as many as `room` bytes of source rows allow, and few enough for all threads."""
    view, threads = conv.window, threads_of(conv.cpu)
    row = 4 * view.columns * conv.channels
    rows = 1
    while rows < view.out[0] and view.span(rows + 1) * row <= room:
        rows += 1
    return min(rows, max(1, view.out[0] // ceildiv(threads, batch)))


def threads_of(cpu: Cpu) -> int:
    return cpu.llvm.get("num-cores", 1)


def in_memory(conv: Direct) -> Source:
    """The operand where it lies (see `Direct.reads`)."""
    at = conv.kernel.operands[0].at
    return lambda n, slot, y0, count: lambda block, lane, y, x: at(n, block, y, x, lane)


def copied(conv: Direct, rows: int) -> Source:
    """A padded copy of what bands of at most `rows` result rows read, channel by channel."""
    view, x, lanes = conv.window, conv.kernel.operands[0], conv.cpu.lanes
    buffer = scratch(conv.kernel, threads_of(conv.cpu), conv.channels, view.span(rows), view.columns)

    def make(n: Any, slot: Any, y0: Any, count: Any) -> Read:
        first = bound(y0 * view.stride[0] - view.pad[0])

        def store(c: Any, y: Any, x_: Any, value: Any) -> None:
            T.buffer_store(buffer, value, [slot, c, y - first, x_ + view.pad[1]])

        with T.serial(0, i64(conv.channels)) as c:
            def row(y: Any) -> None:
                with T.serial(0, i64(view.source[1])) as x_:
                    store(c, y, x_, x(n, c, y, x_))

            padded(view, first, view.span(count), row, lambda y, x_: store(c, y, x_, tirx.const(0.0, "float32")))
        return lambda block, lane, y, x_: buffer[
            slot, lane if block is None else block * lanes + lane, y - first, x_ + view.pad[1]]

    return make


def widened(conv: Direct, rows: int) -> Source:
    """A padded copy in f32 of a blocked operand of 16 bits: a widened vector is one load and one or two cheap operations, a
    widened scalar would be four for each time it is read."""
    view, x, lanes = conv.window, conv.kernel.operands[0], conv.cpu.lanes
    band = scratch(conv.kernel, threads_of(conv.cpu), conv.channels // lanes, view.span(rows), view.columns, lanes)

    def make(n: Any, slot: Any, y0: Any, count: Any) -> Read:
        first = bound(y0 * view.stride[0] - view.pad[0])

        def store(block: Any, y: Any, x_: Any, value: Callable[[Any], Any]) -> None:
            with T.vectorized(0, i64(lanes)) as lane:
                T.buffer_store(band, value(lane), [slot, block, y - first, x_ + view.pad[1], lane])

        with T.serial(0, i64(conv.channels // lanes)) as block:
            def row(y: Any) -> None:
                with T.serial(0, i64(view.source[1])) as x_:
                    store(block, y, x_, lambda lane: x.at(n, block, y, x_, lane))

            padded(view, first, view.span(count), row,
                   lambda y, x_: store(block, y, x_, lambda lane: tirx.const(0.0, "float32")))
        return lambda block, lane, y, x_: band[slot, block, y - first, x_ + view.pad[1], lane]

    return make


def source_of(conv: Direct, rows: int) -> Source:
    """Where the tiles of a convolution read its operand, in bands of at most `rows` result rows."""
    x = conv.kernel.operands[0]
    if not conv.reads(x):
        return copied(conv, rows)
    return widened(conv, rows) if x.type.dtype in LOW else in_memory(conv)


def padded(view: Window, first: Any, rows: Any, row: Callable[[Any], Any], zero: Callable[[Any, Any], None]) -> None:
    """For `rows` rows from `first` on: row(y) if the source has it, zero(y, x) for what is padding."""
    with T.serial(0, i64(rows)) as turn:
        y = bound(turn + first)
        with T.If(tirx.all(y >= 0, y < i64(view.source[0]))):
            with T.Then():
                for start, count in ((-view.pad[1], view.pad[1]), (view.source[1], view.beyond[1])):
                    if count:
                        with loops([count]) as (x,):
                            zero(y, x + start)
                row(y)
            with T.Else():
                with T.serial(0, i64(view.columns)) as x:
                    zero(y, x - view.pad[1])


def scratch(kernel: Kernel, *extents: int) -> Any:
    assert prod(extents)
    return kernel.scratch(tuple(map(i64, extents)), "float32")
