"""Convolutions of 16-bit activations on CPUs that multiply in f32: an image, or rows of it, is widened once into a
thread's scratch, from which all blocks of outputs read it; weights are widened as they are loaded.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import LOW
from compiler.schedule.cpu_band import CYCLES_PER_NS, band_rows, scratch, stretch, threads_of, widened
from compiler.schedule.cpu_blocked import Direct, direct
from compiler.schedule.cpu_loops import ceildiv, i64, loops
from compiler.schedule.cpu_tile import Run, bound, cut, parts
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu


def emit_widened_conv(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `conv` of a blocked 16-bit input where the weight is blocked, else None (and nothing emitted)."""
    conv = direct(kernel, cpu)
    if conv is None or kernel.staged or conv.depthwise or kernel.operands[0].type.dtype not in LOW \
            or not conv.reads(kernel.operands[0]):
        return None
    return _flat(conv, batch) if conv.flat(kernel.operands[0]) else _rows(conv, batch)


def _flat(conv: Direct, batch: int) -> Work:
    """All positions of a map are one row. Units are (image, stretch of positions)."""
    total, (_, width) = prod(conv.window.out), conv.window.out
    lanes, blocks, threads = conv.cpu.lanes, conv.channels // conv.cpu.lanes, threads_of(conv.cpu)
    fitting = max(1, conv.cpu.l2 // 2 // (4 * conv.channels))
    pieces = max(ceildiv(total, fitting), min(ceildiv(threads, batch), total) if threads > 1 else 1)
    runs = cut(total, ceildiv(total, pieces))
    most = runs[0].size
    wide = scratch(conv.kernel, threads, blocks, most, lanes)
    at = conv.kernel.operands[0].at
    cycles = conv.groups * sum(run.count * conv.tiling(run.size, 1).cycles for run in runs)

    def one(run: Run, n: Any, slot: Any, first: Any) -> None:
        with loops([blocks, run.size]) as (block, position), T.vectorized(0, i64(lanes)) as lane:
            T.buffer_store(wide, at(n, block, i64(0), first + position, lane), [slot, block, position, lane])
        tiles = conv.tiling(run.size, 1)
        conv.each_group(tiles, lambda group: conv.rows(
            n, group, tiles.rows[group[0]], lambda run: (None, None), tiles.columns[group[0]],
            lambda block, lane, y, x: wide[slot, block, y, lane], conv.put,
            lambda y, x: (tirx.floordiv(first + y, i64(width)), tirx.floormod(first + y, i64(width)))))

    def emit(unit: Any, slot: Any) -> None:
        n, number = parts(unit, sum(run.count for run in runs))
        before = 0
        for run in runs:
            with T.If(tirx.all(number >= i64(before), number < i64(before + run.count))), T.Then():
                one(run, n, slot, bound(run.piece(number - before)))
            before += run.count

    return Work(conv.kernel.shape[0] * sum(run.count for run in runs), batch * cycles / CYCLES_PER_NS, emit)


def _rows(conv: Direct, batch: int) -> Work:
    """Units are (image, band of rows), of which a few are tiled together where a map is narrow."""
    view, height = conv.window, conv.window.out[0]
    most = band_rows(conv, conv.cpu.l2 // 2, batch)
    bands = ceildiv(height, most)
    whole = bands == 1
    tiles = conv.tiling(height if whole else 1, view.out[1])
    source = widened(conv, most)

    def emit(unit: Any, slot: Any) -> None:
        n, number = parts(unit, bands)
        y0, count = (i64(0), height) if whole else stretch(number, bands, height)
        read = source(n, slot, y0, count)
        conv.each_group(tiles, lambda group: conv.rows(
            n, group, tiles.rows[group[0]] if whole else (Run(1, y0, count),), lambda run: (None, None),
            tiles.columns[group[0]], read, conv.put))

    cycles = conv.groups * (tiles.cycles if whole else tiles.cycles * height)
    return Work(conv.kernel.shape[0] * bands, batch * cycles / CYCLES_PER_NS, emit)
