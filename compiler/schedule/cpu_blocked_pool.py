"""Pooling on the CPU in blocked layout: lanes are channels, a window is a maximum or sum of vectors.

Windows that reach over a border take fewer taps, so that a halo of zeros is never part of a maximum; the others are
worked through several at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import scalar
from compiler.ops.pool import divisor
from compiler.schedule.cpu_band import CYCLES_PER_NS
from compiler.schedule.cpu_blocked import Put, Window, blocked, window
from compiler.schedule.cpu_loops import PARALLEL_NS, ceildiv, i64, loops, static
from compiler.schedule.cpu_tile import bound, cut, parts, reduction
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

TOGETHER = 8  # windows of a row that are worked through at once

Read = Callable[[Any, Any, Any], Any]


def emit_blocked_pool(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `max_pool` or `avg_pool` where source and result are blocked, else None (and nothing emitted). Units
    are (image, block of channels, chunk of rows)."""
    pool, x = pooling(kernel, cpu), kernel.operands[0]
    inside = x.buffer is not None and blocked(x.layout, cpu)
    if pool is None or kernel.staged or not inside and not blocked(kernel.layout, cpu):
        return None
    lanes, height = cpu.lanes, pool.window.out[0]
    blocks, threads = pool.channels // lanes, cpu.llvm.get("num-cores", 1)
    ns = batch * pool.cycles / CYCLES_PER_NS
    chunks = min(height, ceildiv(2 * threads, batch * blocks)) if threads > 1 and ns > PARALLEL_NS else 1

    def emit(unit: Any, slot: Any) -> None:
        n, block, chunk = parts(unit, blocks, chunks)
        first = bound(tirx.floordiv(chunk * height, i64(chunks)))
        count = bound(tirx.floordiv((chunk + 1) * height, i64(chunks)) - first)

        def read(y: Any, x_: Any, lane: Any) -> Any:
            if inside:
                return x.at(n, block, y, x_, lane)
            return x(n, block * lanes + lane, y, x_)

        pool.rows(n, block, first, count, read, lambda at, store: kernel.each(at * lanes, store))

    return Work(kernel.shape[0] * (blocks * chunks), ns, emit)


def pooling(kernel: Kernel, cpu: Cpu) -> Pooling | None:
    """The pooling of a kernel whose channels are a multiple of the lanes of `cpu`, else None."""
    x = kernel.operands[0]
    if len(kernel.shape) != 4 or not x.computed or kernel.op.name not in ("max_pool", "avg_pool"):
        return None
    view, channels = window(kernel.a, x.shape[2:], kernel.shape[2:]), static(kernel.shape[1])
    if view is None or not channels or channels % cpu.lanes:
        return None
    return Pooling(kernel, cpu, view, channels)


@dataclass(frozen=True)
class Pooling:
    """A pooling, and the loops over its windows."""

    kernel: Kernel
    cpu: Cpu
    window: Window
    channels: int

    @property
    def mean(self) -> bool:
        return self.kernel.op.name == "avg_pool"

    @property
    def cycles(self) -> float:
        """Per image: two loads a cycle."""
        return self.channels // self.cpu.lanes * prod(self.window.out) * (prod(self.window.kernel) / 2 + 3)

    def rows(self, n: Any, block: Any, first: Any, count: Any, read: Read, put: Put) -> None:
        """All windows of `count` rows from `first` on, of one block of channels. read(y, x, lane) gives elements of the
        source, none in its padding; put(block, emit) as a convolution's."""
        view = self.window
        with loops([count]) as (row,):
            y = bound(first + row)
            up, down = map(bound, self._taps(y, 0))
            left = min(view.out[1], ceildiv(view.pad[1], view.stride[1]))
            whole = (view.source[1] + view.pad[1] - (view.kernel[1] - 1) * view.dilation[1] - 1) // view.stride[1] + 1
            right = max(left, min(view.out[1], whole))
            for start, end in ((0, left), (right, view.out[1])):
                if end > start:
                    with T.serial(0, i64(end - start)) as turn:
                        x = bound(turn + start)
                        self._windows(n, block, y, x, 1, (up, down), self._taps(x, 1), read, put)
            if right > left:
                for run in cut(right - left, TOGETHER):
                    with loops([run.count]) as (turn,):
                        x = bound(run.piece(turn) + left)
                        self._windows(n, block, y, x, run.size, (up, down), (0, view.kernel[1]), read, put)

    def _taps(self, at: Any, axis: int) -> tuple[Any, Any]:
        """The first tap of window number `at` along an axis that is inside the source, and the end of those."""
        view = self.window
        size, kernel, stride, dilation, pad = (
            sizes[axis] for sizes in (view.source, view.kernel, view.stride, view.dilation, view.pad))
        if not pad and not view.beyond[axis]:
            return 0, kernel
        place = at * stride - pad
        low = tirx.Max(i64(0), tirx.floordiv(dilation - 1 - place, i64(dilation)))
        return low, tirx.Max(low, tirx.Min(i64(kernel), tirx.floordiv(size - place + (dilation - 1), i64(dilation))))

    def _windows(self, n: Any, block: Any, y: Any, x: Any, m: int, rows: tuple[Any, Any], columns: tuple[Any, Any],
                 read: Read, put: Put) -> None:
        """`m` windows from (y, x) on, with the taps of `rows` and `columns`."""
        view, lanes = self.window, self.cpu.lanes
        start = tirx.const(0.0 if self.mean else float("-inf"), "float32")
        best = T.alloc_buffer((m, lanes), "float32")
        with T.unroll(0, i64(m)) as i, T.vectorized(0, i64(lanes)) as lane:
            T.buffer_store(best, start, [i, lane])

        def tap(ky: Any, kx: Any) -> None:
            with T.unroll(0, i64(m)) as i, T.vectorized(0, i64(lanes)) as lane:
                value = read(y * view.stride[0] + ky * view.dilation[0] - view.pad[0],
                             (x + i) * view.stride[1] + kx * view.dilation[1] - view.pad[1], lane)
                T.buffer_store(best, best[i, lane] + value if self.mean else tirx.Max(best[i, lane], value), [i, lane])

        if all(isinstance(end, int) for end in (*rows, *columns)):
            with reduction(view.kernel, m) as (ky, kx):
                tap(ky, kx)
        else:
            (top, bottom), (left, right) = rows, columns
            with T.serial(0, i64(bottom - top)) as ky:
                if isinstance(right, int):
                    with reduction([right], m) as (kx,):
                        tap(top + ky, kx)
                else:
                    with T.serial(0, right - left) as kx:
                        tap(top + ky, left + kx)

        def emit(store: Callable) -> None:
            with T.unroll(0, i64(m)) as i, T.vectorized(0, i64(lanes)) as lane:
                value, at = best[i, lane], (y, x + i)
                if self.mean:
                    value = value * divisor(scalar, self.kernel.a, at, self.kernel.operands[0].shape[2:], "f32")
                store((n, block * lanes + lane, *at), value)

        put(block, emit)
