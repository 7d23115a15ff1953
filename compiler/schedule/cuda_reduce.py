"""Reductions on CUDA: a block of threads makes a few neighbouring results, always combined in the same order.

Where neighbouring results read neighbours in memory (sums over positions, channels innermost), a warp takes 32 of them side
by side; else a block works on one result, whose elements lie side by side. Long reductions into few results are cut into
parts, blocks of their own, and the last block combines them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import scalar
from compiler.gpus import WARP, Gpu
from compiler.ops.base import Operand, Reduce
from compiler.schedule.cuda_index import Grid, Room, assumed, bind, i32, i64, product, static, unflatten
from compiler.schedule.kernel import COUNTERS, Kernel

THREADS = 256
FEW = 1 << 14  # results; more fill a GPU with one thread each
SHORT = 32  # elements of a result; fewer are left to one thread
STEPS = 4  # that a thread of a part makes at least


def emit_reduce(kernel: Kernel, batch: int, room: Room) -> Grid | None:
    """The blocks of an op that is a reduction, where its results are few and long; else None."""
    element = compute(kernel, [i64(0) for _ in kernel.shape])
    if not isinstance(element, Reduce):
        return None
    threads = room.threads or THREADS
    results, long = (assumed(product(extents), batch) for extents in (kernel.shape, element.extents))
    width = WARP if _neighbours(kernel) and results >= WARP else 1
    if results > FEW or long < (SHORT if width > 1 else threads):
        return None
    return _Blocks(kernel, element, threads, width, results, long, room.gpu).grid


def compute(kernel: Kernel, index: Sequence[Any]) -> Any:
    """The result element of the kernel's op."""
    return kernel.op.compute(scalar, kernel.a, Operand(kernel.out, kernel.shape, None), index, *kernel.operands)


def _neighbours(kernel: Kernel) -> bool:
    """Whether results that follow each other are made of elements that do so in memory: the innermost axis is kept."""
    axes, x = getattr(kernel.a, "axes", None), kernel.operands[0]
    if axes is None or not x.shape:
        return False
    innermost = x.layout.order[-1] if x.layout.order else len(x.shape) - 1
    last = max((axis for axis in range(len(x.shape)) if axis not in axes), default=None)
    return last == innermost


class _Blocks:
    """width: results of a block; results, long: how many there are and elements of each, at the design batch."""

    def __init__(self, kernel: Kernel, reduce: Reduce, threads: int, width: int, results: int, long: int, gpu: Gpu):
        self.kernel, self.threads, self.width, self.rows = kernel, threads, width, threads // width
        self.results, self.extent = product(kernel.shape), product(reduce.extents)
        known = static(self.results)
        self.blocks = -(-known // width) if known is not None else tirx.truncdiv(self.results + (width - 1), i32(width))
        wanted = min(2 * gpu.sms // max(1, -(-results // width)), long // (self.rows * STEPS), 64)
        can = known is not None and kernel.counters is not None and reduce.kind != "argmax" and self.blocks <= COUNTERS // 4
        self.parts = max(1, wanted) if can else 1

    @property
    def grid(self) -> Grid:
        return Grid(self.blocks * self.parts, self.threads, self.emit, counters=self.blocks if self.parts > 1 else 0)

    def emit(self, block: Any, thread: Any, shared: Any, counter: int) -> None:
        kernel, width, rows, parts = self.kernel, self.width, self.rows, self.parts
        group, part = (block, i32(0)) if parts == 1 else (bind(tirx.truncdiv(block, i32(parts))), bind(
            tirx.truncmod(block, i32(parts))))
        lane, row = (i32(0), thread) if width == 1 else (bind(tirx.truncmod(thread, i32(width))), bind(
            tirx.truncdiv(thread, i32(width))))
        at = bind(group * width + lane)
        # What is no result is made twice, so that all threads come to the barriers.
        last = tirx.min(at, i32(self.results) - 1)
        index = [bind(i) for i in unflatten(i64(last), kernel.shape)]
        reduce = compute(kernel, index)
        sums = Accumulator(reduce)
        sums.clear()
        extent = i32(self.extent)
        per = tirx.truncdiv(extent + (parts - 1), i32(parts))
        begin = bind(part * per)
        end = bind(tirx.min(begin + per, extent))
        with T.serial(0, tirx.truncdiv(tirx.max(end - begin, i32(0)) + (rows - 1), i32(rows))) as step:
            flat = bind(begin + step * rows + row)
            with T.If(flat < end), T.Then():
                sums.add(flat)
        # After each exchange a thread holds the result of twice as many rows.
        exchanged = Accumulator(reduce, self.threads, "shared")
        apart = rows // 2
        while apart:
            exchanged.copy(thread, sums)
            T.evaluate(T.tvm_storage_sync("shared"))
            sums.merge(exchanged, thread ^ (apart * width))
            T.evaluate(T.tvm_storage_sync("shared"))
            apart //= 2
        if parts > 1:
            self._combine(sums, group, part, thread, index, at, counter)
            return
        with T.If(tirx.all(thread < width, at < i32(self.results))), T.Then():
            kernel.store(tuple(index), sums.finish())

    def _combine(self, sums: Accumulator, group: Any, part: Any, thread: Any, index: Sequence[Any], at: Any, counter: int) -> None:
        """Parts go to memory; the block that comes last combines them in their order."""
        memory = self.kernel.scratch((i64(self.blocks * self.parts * self.width),), sums.dtype)
        with T.If(thread < self.width), T.Then():
            T.buffer_store(memory, sums.value[0], [(group * self.parts + part) * self.width + thread])
        last = T.alloc_buffer((1,), "int32", scope="local")
        counters = self.kernel.counters()
        mine = T.address_of(counters[group + counter])
        T.buffer_store(last, T.call_extern("int32", "netc_last_block", mine, i32(self.parts)), [0])
        with T.If(tirx.all(last[0] != 0, thread < self.width, at < i32(self.results))), T.Then():
            sums.add_parts(i32(self.parts), lambda other: memory[(group * self.parts + other) * self.width + thread])
            self.kernel.store(tuple(index), sums.finish())


class Accumulator:
    """Partial results of one reduction: a value each and, for argmax, the flat index it was found at."""

    def __init__(self, reduce: Reduce, size: int = 1, scope: str = "local"):
        self.reduce = reduce
        self.dtype = dtype_of(reduce.value(*[i64(0) for _ in reduce.extents]))
        self.value = T.alloc_buffer((size,), self.dtype, scope=scope)
        self.where = T.alloc_buffer((size,), "int32", scope=scope) if reduce.kind == "argmax" else None

    def clear(self) -> None:
        T.buffer_store(self.value, _neutral(self.reduce.kind, self.dtype), [0])
        if self.where is not None:
            T.buffer_store(self.where, tirx.const(0, "int32"), [0])

    def add(self, flat: Any) -> None:
        """Combine the value at the flat reduction index into slot 0; indices must come in rising order."""
        self.add_at(flat, [bind(i) for i in unflatten(flat, self.reduce.extents)])

    def add_at(self, flat: Any, index: Sequence[Any]) -> None:
        """Combine the value at a reduction index, flat and by axes."""
        if self.reduce.where is None:
            self._add(flat, self.reduce.value(*index))
        else:
            with T.If(self.reduce.where(*index)), T.Then():
                self._add(flat, self.reduce.value(*index))

    def _add(self, flat: Any, value: Any) -> None:
        if self.where is not None:
            found = tirx.Select(value > self.value[0], tirx.Cast("int32", flat), self.where[0])
            T.buffer_store(self.where, found, [0])
        T.buffer_store(self.value, self._combine(self.value[0], value), [0])

    def copy(self, slot: Any, other: Accumulator) -> None:
        """Slot `slot` becomes slot 0 of `other`."""
        T.buffer_store(self.value, other.value[0], [slot])
        if self.where is not None:
            T.buffer_store(self.where, other.where[0], [slot])

    def merge(self, other: Accumulator, slot: Any) -> None:
        """Combine slot `slot` of `other` into slot 0."""
        mine, theirs = self.value[0], other.value[slot]
        if self.where is not None:
            i, j = self.where[0], other.where[slot]
            first = tirx.Select(theirs == mine, tirx.Min(i, j), tirx.Select(theirs > mine, j, i))
            T.buffer_store(self.where, first, [0])
        T.buffer_store(self.value, self._combine(mine, theirs), [0])

    def finish(self) -> Any:
        """The result element, from slot 0."""
        result = self.value[0] if self.where is None else self.where[0]
        return result if self.reduce.finish is None else self.reduce.finish(result)

    def _combine(self, a: Any, b: Any) -> Any:
        return {"sum": tirx.Add, "max": tirx.Max, "argmax": tirx.Max, "min": tirx.Min}[self.reduce.kind](a, b)

    def add_parts(self, parts: Any, read: Callable[[Any], Any]) -> None:
        """Combine slot 0 anew from values read(0), read(1), …, in this order."""
        self.clear()
        with T.serial(0, parts) as part:
            T.buffer_store(self.value, self._combine(self.value[0], read(part)), [0])


def dtype_of(value: Any) -> str:
    return str(value.ty.dtype)


def _neutral(kind: str, dtype: str) -> Any:
    if kind == "sum":
        return tirx.const(0, dtype)
    if dtype.startswith(("float", "bfloat")):
        return tirx.const(float("inf") if kind == "min" else float("-inf"), dtype)
    return tirx.max_value(dtype) if kind == "min" else tirx.min_value(dtype)
