"""The gradient of max pooling on the CPU: every element gathers from the windows that hold it, a vector at a time.

Gradients and indices (as floats: they are compared a vector at a time) of one channel are copied into planes with zeros
around them, so that no window is asked whether it exists. Elements are taken by phase of the stride: those of one phase have the same taps, and their windows are neighbours.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_conv import known, plane
from compiler.schedule.cpu_loops import PARALLEL_NS, ceildiv, i64, loops
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

MOST_TAPS = 64    # of a window; more are scattered
NS_PER_TAP = 0.1  # and element


def emit_max_pool_grad(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `max_pool_grad`; False (and nothing emitted) where this template does not apply."""
    a, g = kernel.a, kernel.operands[0]
    sizes = [*known(kernel.shape), *known(g.shape)]
    if g.dtype != "float32" or not all(sizes) or len(kernel.shape) not in (3, 4):
        return False
    if prod(a.kernel) > MOST_TAPS or any(d != 1 for d in a.dilation):
        return False
    _Gather(kernel, cpu, batch).emit()
    return True


class _Gather:
    def __init__(self, kernel: Kernel, cpu: Cpu, batch: int):
        a = kernel.a
        self.kernel, self.cpu, self.flat = kernel, cpu, len(kernel.shape) == 3
        self.g, self.index = kernel.operands
        self.channels, *sizes = known(kernel.shape)
        self.size, self.out = plane(sizes), plane(known(self.g.shape)[1:])
        self.window, self.stride = plane(a.kernel), plane(a.stride)
        self.pad = plane([lo for lo, _ in a.pad], 0)
        # Windows before the first that an element may be thought to lie in, and how many of them there are with those.
        self.lead = tuple(ceildiv(k, s) - 1 for k, s in zip(self.window, self.stride))
        rows, columns = ((size - 1 + lo) // s + 1 for size, lo, s in zip(self.size, self.pad, self.stride))
        self.columns = ceildiv(columns, cpu.lanes) * cpu.lanes
        self.plane = (self.lead[0] + max(rows, self.out[0]), self.lead[1] + max(self.columns + self.pad[1], self.out[1]))
        work = self.channels * prod(self.size) * prod(n + 1 for n in self.lead) * NS_PER_TAP
        threads = cpu.llvm.get("num-cores", 1)
        self.tasks = threads if threads > 1 and batch * work > PARALLEL_NS else 1

    def emit(self) -> None:
        shape = (self.tasks, *self.plane)
        self.gs = self.kernel.scratch(tuple(map(i64, shape)), "float32")
        self.places = self.kernel.scratch(tuple(map(i64, shape)), "float32")
        self.row = self.kernel.scratch(tuple(map(i64, (self.tasks, self.stride[1], self.columns))), "float32")
        total = self.kernel.shape[0] * i64(self.channels)
        with (T.parallel if self.tasks > 1 else T.serial)(0, i64(self.tasks)) as task:
            with loops(self.plane) as (y, x):
                T.buffer_store(self.gs, tirx.const(0.0, "float32"), [task, y, x])
                T.buffer_store(self.places, tirx.const(0.0, "float32"), [task, y, x])
            with T.serial(0, tirx.floordiv(total - task + (self.tasks - 1), i64(self.tasks))) as turn:
                at = turn * self.tasks + task
                self._channel(task, tirx.floordiv(at, i64(self.channels)), tirx.floormod(at, i64(self.channels)))

    def _at(self, n: Any, c: Any, y: Any, x: Any) -> tuple[Any, ...]:
        return (n, c, x) if self.flat else (n, c, y, x)

    def _channel(self, task: Any, n: Any, c: Any) -> None:
        with loops(self.out) as (y, x):
            where = [task, y + self.lead[0], x + self.lead[1]]
            T.buffer_store(self.gs, self.g(*self._at(n, c, y, x)), where)
            T.buffer_store(self.places, tirx.Cast("float32", self.index(*self._at(n, c, y, x))), where)
        for phase in range(self.stride[0]):
            # Rows y of the windows' grid whose element row y * stride + phase - pad exists.
            first = ceildiv(self.pad[0] - phase, self.stride[0])
            last = (self.size[0] - 1 + self.pad[0] - phase) // self.stride[0]
            with loops([last - first + 1]) as (step,):
                y = step + first
                self._elements(task, n, c, y, y * self.stride[0] + (phase - self.pad[0]), phase)

    def _elements(self, task: Any, n: Any, c: Any, y: Any, row: Any, phase: int) -> None:
        """One row of elements: each phase of its columns into a row of its own, then all of them out."""
        lanes = self.cpu.lanes
        if self.stride[1] == 1:
            whole, rest = divmod(self.size[1], lanes)
            with loops([whole]) as (vector,):
                self._vector(task, y, vector * lanes + self.pad[1], (phase, 0), lambda lane, value: self.kernel.store(
                    self._at(n, c, row, vector * lanes + lane), value), lanes)
            if rest:
                self._vector(task, y, i64(whole * lanes + self.pad[1]), (phase, 0), lambda lane, value: self.kernel.store(
                    self._at(n, c, row, i64(whole * lanes) + lane), value), rest)
            return
        for column in range(self.stride[1]):
            with loops([self.columns // lanes]) as (vector,):
                self._vector(task, y, vector * lanes, (phase, column), lambda lane, value: T.buffer_store(
                    self.row, value, [task, i64(column), vector * lanes + lane]), lanes)
        self._interleave(task, n, c, row)

    def _vector(self, task: Any, y: Any, x: Any, phase: tuple[int, int], put: Any, count: int) -> None:
        """put(lane, value) for `count` elements of a phase, in row y and from column x of the windows' grid on."""
        with T.vectorized(0, i64(count)) as lane:
            total = tirx.const(0.0, "float32")
            for i in range(phase[0], self.window[0], self.stride[0]):
                for j in range(phase[1], self.window[1], self.stride[1]):
                    at = [task, y + (self.lead[0] - i // self.stride[0]), x + (self.lead[1] - j // self.stride[1]) + lane]
                    mine = self.places[*at] == tirx.const(float(i * self.window[1] + j), "float32")
                    total = total + tirx.Select(mine, self.gs[*at], tirx.const(0.0, "float32"))
            put(lane, total)

    def _interleave(self, task: Any, n: Any, c: Any, row: Any) -> None:
        """The phases of one row as neighbours. Whole groups of them are one loop, which LLVM makes vectors of."""
        stride, pad = self.stride[1], self.pad[1]

        def put(x: Any, column: int) -> None:
            self.kernel.store(self._at(n, c, row, x * stride + (column - pad)), self.row[task, i64(column), x])

        first, end = ceildiv(pad, stride), (self.size[1] + pad) // stride
        for column in range(stride):
            low, high = ceildiv(pad - column, stride), (self.size[1] - 1 + pad - column) // stride + 1
            for x in [*range(low, min(first, high)), *range(max(end, low), high)]:
                put(i64(x), column)
        with T.serial(0, i64(end - first)) as step:
            for column in range(stride):
                put(step + first, column)
