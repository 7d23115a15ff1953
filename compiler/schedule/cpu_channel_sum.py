"""Sums over neighbouring channels (local response normalization) on the CPU in blocked layout.

A few positions of a row are copied so that all their channels are contiguous, zeros before and behind: then every
vector of sums adds vectors that start one element apart.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_band import CYCLES_PER_NS
from compiler.schedule.cpu_blocked import blocked
from compiler.schedule.cpu_loops import ceildiv, i64, static
from compiler.schedule.cpu_tile import bound, parts
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

POSITION_BYTES = 8 << 10  # of the positions that are copied together
CYCLES = 8                # of a vector of sums, one way and the other


def emit_channel_sum(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `channel_sum` where the result is blocked, else None (and nothing emitted); by rows of images."""
    x, lanes = kernel.operands[0], cpu.lanes
    sizes = [static(extent) for extent in kernel.shape[1:]]
    if len(sizes) != 3 or not all(sizes) or not blocked(kernel.layout, cpu) or not x.computed:
        return None
    channels, height, width = sizes
    reach = kernel.a.size // 2
    before = ceildiv(reach, lanes) * lanes
    length = before + channels + before
    most = max(1, min(width, POSITION_BYTES // (4 * length)))
    spread = kernel.scratch(tuple(map(i64, (cpu.llvm.get("num-cores", 1), most, length))), "float32")

    def emit(unit: Any, slot: Any) -> None:
        n, y = parts(unit, height)
        with T.serial(0, i64(most)) as at, T.serial(0, i64(before // lanes)) as block:
            for start in (0, before + channels):
                with T.vectorized(0, i64(lanes)) as lane:
                    T.buffer_store(spread, tirx.const(0.0, "float32"), [slot, at, start + block * lanes + lane])
        with T.serial(0, i64(ceildiv(width, most))) as turn:
            x0 = bound(turn * most)
            count = tirx.Min(i64(most), width - x0)
            with T.serial(0, i64(channels // lanes)) as block, T.serial(0, count) as at:
                with T.vectorized(0, i64(lanes)) as lane:
                    c = block * lanes + lane
                    T.buffer_store(spread, x(n, c, y, x0 + at), [slot, at, before + c])
            with T.serial(0, i64(channels // lanes)) as block, T.serial(0, count) as at:
                with T.vectorized(0, i64(lanes)) as lane:
                    total = spread[slot, at, before - reach + block * lanes + lane]
                    for step in range(1, kernel.a.size):
                        total = total + spread[slot, at, before - reach + step + block * lanes + lane]
                    kernel.store((n, block * lanes + lane, y, x0 + at), total)

    cycles = batch * channels // lanes * height * width * (CYCLES + kernel.a.size)
    return Work(kernel.shape[0] * height, cycles / CYCLES_PER_NS, emit)
