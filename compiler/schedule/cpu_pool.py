"""Pooling and its gradients on the CPU, one channel of an image at a time.

Forward, the channel is copied into padded rows, columns apart by phase of the stride, so that a vector of
neighbouring windows reads contiguous vectors and nothing is tested at borders. Backward, windows add what they owe
into such rows, window after window in a fixed order, and the rows are copied out.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import scalar
from compiler.ir import DTYPES
from compiler.ops.base import Operand
from compiler.ops.pool import divisor
from compiler.schedule.cpu_conv import known, plane
from compiler.schedule.cpu_loops import PARALLEL_NS, ceildiv, i64, loops, window_plane
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

NS_PER_TAP = 0.15


def emit_pool(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `max_pool`, `max_pool_index` or `avg_pool`; False (and nothing emitted) where this does not apply."""
    if not _applies(kernel, kernel.operands[:1]):
        return False
    _Pool(kernel, cpu, batch).forward()
    return True


def emit_pool_and_index(kernel: Kernel, index: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `max_pool` and `max_pool_index` of one operand; False (and nothing emitted) where this does not apply."""
    if not _applies(kernel, kernel.operands[:1]) or kernel.operands[0].buffer is None:
        return False
    _Pool(kernel, cpu, batch, index).forward()
    return True


def emit_pool_grad(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `max_pool_grad` or `avg_pool_grad`; False (and nothing emitted) where this does not apply."""
    if not _applies(kernel, kernel.operands):
        return False
    _Pool(kernel, cpu, batch).backward()
    return True


def _applies(kernel: Kernel, operands: Any) -> bool:
    sizes = [*known(kernel.shape), *(extent for o in operands for extent in known(o.shape))]
    return operands[0].computed and all(sizes) and len(kernel.shape) in (3, 4)


class _Pool:
    """One kernel, or a maximum and the kernel of its `index`."""

    def __init__(self, kernel: Kernel, cpu: Cpu, batch: int, index: Kernel | None = None):
        a = kernel.a
        self.index = kernel if kernel.op.name == "max_pool_index" else index
        self.kernel, self.cpu, self.flat = kernel, cpu, len(kernel.shape) == 3
        self.x = kernel.operands[0]
        backward = hasattr(a, "size")
        self.channels, *x = known(self.x.shape)
        out = known(kernel.shape)[1:]
        self.out, self.source = (plane(x), plane(out)) if backward else (plane(out), plane(x))
        self.size, self.stride = plane(a.kernel), plane(a.stride)
        self.dilation = plane(getattr(a, "dilation", (1,) * len(a.kernel)))
        columns = ceildiv(self.out[1], cpu.lanes) * cpu.lanes
        self.plane = window_plane(self.source, self.size, self.stride, self.dilation, plane([lo for lo, _ in a.pad], 0),
                                  self.out, columns)
        work = self.channels * prod(self.out) * prod(self.size) * NS_PER_TAP
        threads = cpu.llvm.get("num-cores", 1)
        self.tasks = threads if threads > 1 and batch * work > PARALLEL_NS else 1

    def forward(self) -> None:
        self._channels(self._windows)

    def backward(self) -> None:
        self._channels(self._gradient)

    def _channels(self, emit: Any) -> None:
        """emit(rows of this thread, image, channel) for all of them."""
        rows = self.kernel.scratch(tuple(map(i64, (self.tasks, *self.plane.shape))), "float32")
        total = self.kernel.shape[0] * i64(self.channels)
        with (T.parallel if self.tasks > 1 else T.serial)(0, i64(self.tasks)) as task:
            with T.serial(0, tirx.floordiv(total - task + (self.tasks - 1), i64(self.tasks))) as turn:
                at = turn * self.tasks + task
                emit(lambda index: (rows, [task, *index]), tirx.floordiv(at, i64(self.channels)),
                     tirx.floormod(at, i64(self.channels)))

    def _index(self, n: Any, c: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (n, c, x) if self.flat else (n, c, y, x)

    def _tap(self, y: Any, x: Any, i: Any, j: Any) -> tuple[Any, ...]:
        """Where element (i, j) of window (y, x) lies in the padded rows."""
        return self.plane.at(y * self.stride[0] + i * self.dilation[0], j * self.dilation[1], x)

    # --- forward ---------------------------------------------------------------------------------------------------

    def _windows(self, rows: Any, n: Any, c: Any) -> None:
        outside = tirx.const(0.0 if self.kernel.op.name == "avg_pool" else float("-inf"), "float32")

        def put(at: Any, value: Any) -> None:
            buffer, index = rows(at)
            T.buffer_store(buffer, value, index)

        self.plane.fill(put, lambda y, x: self.x(*self._index(n, c, y, x)), outside)
        lanes = self.cpu.lanes
        whole, rest = divmod(self.out[1], lanes)
        with T.serial(0, i64(self.out[0])) as y:
            if whole:
                with loops([whole]) as (vector,):
                    self._vector(rows, n, c, y, vector * lanes, lanes, outside)
            if rest:
                self._vector(rows, n, c, y, i64(whole * lanes), rest, outside)

    def _vector(self, rows: Any, n: Any, c: Any, y: Any, x: Any, count: int, outside: Any) -> None:
        """A vector of windows, of which `count` are stored."""
        lanes, search = i64(self.cpu.lanes), self.index is not None
        best = T.alloc_buffer((self.cpu.lanes,), "float32")
        # As a float, so that all vectors of the loop are of one width.
        where = T.alloc_buffer((self.cpu.lanes,), "float32") if search else None
        with T.vectorized(0, lanes) as lane:
            T.buffer_store(best, outside, [lane])
        if search:
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(where, tirx.const(0.0, "float32"), [lane])
        with loops(self.size, T.unroll if prod(self.size) <= 32 else T.serial) as (i, j):
            with T.vectorized(0, lanes) as lane:
                buffer, index = rows(self._tap(y, x + lane, i, j))
                value = buffer[*index]
                if search:
                    place = tirx.Cast("float32", i * self.size[1] + j)
                    T.buffer_store(where, tirx.Select(value > best[lane], place, where[lane]), [lane])
            with T.vectorized(0, lanes) as lane:
                buffer, index = rows(self._tap(y, x + lane, i, j))
                value = buffer[*index]
                T.buffer_store(best, best[lane] + value if self.kernel.op.name == "avg_pool" else
                               tirx.Max(best[lane], value), [lane])
        with T.vectorized(0, i64(count)) as lane:
            at = self._index(n, c, y, x + lane)
            result = best[lane]
            if self.kernel.op.name == "avg_pool":
                result = result * divisor(scalar, self.kernel.a, at[2:], self.x.shape[2:], "f32")
            if self.kernel is not self.index:
                self.kernel.store(at, result)
        if search:
            with T.vectorized(0, i64(count)) as lane:
                self.index.store(self._index(n, c, y, x + lane), tirx.Cast(DTYPES[self.index.out.dtype], where[lane]))

    # --- backward --------------------------------------------------------------------------------------------------

    def _gradient(self, rows: Any, n: Any, c: Any) -> None:
        with loops(self.plane.shape) as at:
            buffer, index = rows(at)
            T.buffer_store(buffer, tirx.const(0.0, "float32"), index)
        if self.kernel.op.name == "max_pool_grad":
            self._scatter(rows, n, c)
        else:
            self._spread(rows, n, c)
        # Elements that no window holds have no place in the rows.
        reached = (self.plane.height - self.plane.place[0],
                   self.plane.columns * self.plane.stride - self.plane.place[1])
        complete = len(self.plane.phases) == self.plane.stride and all(r >= s for r, s in zip(reached, self.source))
        if complete:
            def put(at: Any, y: Any, x: Any) -> None:
                buffer, index = rows(at)
                self.kernel.store(self._index(n, c, y, x), buffer[*index])

            self.plane.each(put)
        else:
            with loops(self.source) as (y, x):
                self.kernel.store(self._index(n, c, y, x), self._where(rows, y, x))

    def _where(self, rows: Any, y: Any, x: Any) -> Any:
        """What has come together at element (y, x), 0 where no window reads."""
        row, column = y + self.plane.place[0], x + self.plane.place[1]
        stride = i64(self.plane.stride)
        phase, at = tirx.floormod(column, stride), tirx.floordiv(column, stride)
        kept = tirx.any(*[phase == p for p in self.plane.phases])
        slot = sum((tirx.Cast("int64", phase >= i64(p)) for p in self.plane.phases[1:]), start=i64(0))
        buffer, index = rows((row, slot, at))
        return T.if_then_else(tirx.all(kept, row < self.plane.height, at < self.plane.columns), buffer[*index],
                              tirx.const(0.0, "float32"))

    def _scatter(self, rows: Any, n: Any, c: Any) -> None:
        """Each window's gradient to its largest element."""
        chosen = self.kernel.operands[1]
        with loops(self.out) as (y, x):
            at = self._index(n, c, y, x)
            place = T.bind(tirx.Cast("int64", chosen(*at)))
            buffer, index = rows(self._tap(y, x, tirx.floordiv(place, i64(self.size[1])),
                                           tirx.floormod(place, i64(self.size[1]))))
            T.buffer_store(buffer, buffer[*index] + self.x(*at), index)

    def _spread(self, rows: Any, n: Any, c: Any) -> None:
        """Each window's gradient in equal parts to its elements."""
        result = Operand(self.kernel.out, self.kernel.shape, None)
        with T.serial(0, i64(self.out[0])) as y, loops(self.size) as (i, j), T.serial(0, i64(self.out[1])) as x:
            at = self._index(n, c, y, x)
            share = self.x(*at) * divisor(scalar, self.kernel.a, at[2:], result.shape[2:], "f32")
            buffer, index = rows(self._tap(y, x, i, j))
            T.buffer_store(buffer, buffer[*index] + share, index)
