"""The generic CUDA schedule: any fused group becomes one correct kernel, without tiles or tuning.

One thread makes one output element. Long reductions into few outputs get one block an output and a tree in shared
memory, always combined in the same order, so that results do not depend on timing.
"""

from collections.abc import Callable, Sequence
from math import prod

import tvm.script.ir_builder.tirx as T
from tvm import tirx
from tvm.tirx import PrimExpr

from compiler.schedule.reduce import Reduce

THREADS = 256

# What a symbolic dimension counts for where a choice needs a number; the choice changes speed, never results.
ASSUMED_BATCH = 64
# A block per output pays when there are too few outputs to fill a GPU with threads, and each has work for a block.
FEW_OUTPUTS = 4096

Body = Callable[[list[PrimExpr]], PrimExpr | Reduce]


def emit(out: tirx.Buffer, shape: Sequence[PrimExpr], body: Body) -> None:
    """Emit into the current function of the IR builder the kernel that computes `out[i] = body(i)` for all i in `shape`.

    The function must have no other statements but declarations: the kernel's grid is its whole body.
    """
    shape = [_index(extent) for extent in shape]
    origin = body([tirx.const(0, "int64") for _ in shape])
    if isinstance(origin, Reduce) and _assumed(shape) <= FEW_OUTPUTS and _assumed(origin.extents) >= THREADS:
        _emit_block_per_output(out, shape, body)
    else:
        _emit_thread_per_output(out, shape, body)


def _emit_thread_per_output(out: tirx.Buffer, shape: list[PrimExpr], body: Body) -> None:
    total = _product(shape)
    with T.launch_thread("blockIdx.x", tirx.ceildiv(total, THREADS)) as block:
        with T.launch_thread("threadIdx.x", THREADS) as thread:
            flat = _index(block) * THREADS + _index(thread)
            with T.If(flat < total), T.Then():
                index = _unflatten(flat, shape)
                element = body(index)
                if isinstance(element, Reduce):
                    best = _Accumulator(element)
                    best.clear()
                    with T.serial(0, _product(element.extents)) as step:
                        best.add(step)
                    element = element.finish(best.result())
                T.buffer_store(out, element, index)


def _emit_block_per_output(out: tirx.Buffer, shape: list[PrimExpr], body: Body) -> None:
    with T.launch_thread("blockIdx.x", _product(shape)) as block:
        with T.launch_thread("threadIdx.x", THREADS) as thread:
            index = _unflatten(_index(block), shape)
            reduce = body(index)
            best = _Accumulator(reduce)
            extent = _product(reduce.extents)
            best.clear()
            with T.serial(0, tirx.ceildiv(extent, THREADS)) as step:
                flat = step * THREADS + _index(thread)
                with T.If(flat < extent), T.Then():
                    best.add(flat)
            shared = best.twin(THREADS, "shared")
            shared.copy(thread, best, 0)
            T.evaluate(T.tvm_storage_sync("shared"))
            width = THREADS // 2
            while width:
                with T.If(thread < width), T.Then():
                    shared.merge(thread, thread + width)
                T.evaluate(T.tvm_storage_sync("shared"))
                width //= 2
            with T.If(thread == 0), T.Then():
                T.buffer_store(out, reduce.finish(shared.result()), index)


class _Accumulator:
    """Partial results of one reduction: a value each and, for argmax, the index it was found at."""

    def __init__(self, reduce: Reduce, size: int = 1, scope: str = "local"):
        self.reduce = reduce
        dtype = str(reduce.value([tirx.const(0, "int64") for _ in reduce.extents]).dtype)
        self.value = T.alloc_buffer((size,), dtype, scope=scope)
        self.where = T.alloc_buffer((size,), "int32", scope=scope) if reduce.kind == "argmax" else None

    def twin(self, size: int, scope: str) -> "_Accumulator":
        return _Accumulator(self.reduce, size, scope)

    def clear(self) -> None:
        T.buffer_store(self.value, _neutral(self.reduce.kind, str(self.value.dtype)), [0])
        if self.where is not None:
            T.buffer_store(self.where, tirx.const(0, "int32"), [0])

    def add(self, flat: PrimExpr) -> None:
        """Combine the value at the flat reduction index into slot 0; indices must come in rising order."""
        value = self.reduce.value(_unflatten(flat, self.reduce.extents))
        if self.where is None:
            T.buffer_store(self.value, self._combine(self.value[0], value), [0])
            return
        with T.If(value > self.value[0]), T.Then():
            T.buffer_store(self.value, value, [0])
            T.buffer_store(self.where, tirx.Cast("int32", flat), [0])

    def copy(self, slot: PrimExpr, other: "_Accumulator", other_slot: int) -> None:
        T.buffer_store(self.value, other.value[other_slot], [slot])
        if self.where is not None:
            T.buffer_store(self.where, other.where[other_slot], [slot])

    def merge(self, slot: PrimExpr, other: PrimExpr) -> None:
        """Combine slot `other` into `slot`."""
        value, where = self.value, self.where
        if where is None:
            T.buffer_store(value, self._combine(value[slot], value[other]), [slot])
            return
        earlier = tirx.And(value[other] == value[slot], where[other] < where[slot])
        with T.If(tirx.Or(value[other] > value[slot], earlier)), T.Then():
            T.buffer_store(value, value[other], [slot])
            T.buffer_store(where, where[other], [slot])

    def result(self) -> PrimExpr:
        return self.value[0] if self.where is None else self.where[0]

    def _combine(self, a: PrimExpr, b: PrimExpr) -> PrimExpr:
        return {"sum": tirx.Add, "max": tirx.Max, "min": tirx.Min}[self.reduce.kind](a, b)


def _neutral(kind: str, dtype: str) -> PrimExpr:
    if kind == "sum":
        return tirx.const(0, dtype)
    if dtype.startswith(("float", "bfloat")):
        return tirx.const(float("inf") if kind == "min" else float("-inf"), dtype)
    return tirx.max_value(dtype) if kind == "min" else tirx.min_value(dtype)


def _index(value: PrimExpr | int) -> PrimExpr:
    if isinstance(value, int):
        return tirx.const(value, "int64")
    return value if str(value.dtype) == "int64" else tirx.Cast("int64", value)


def _product(extents: Sequence[PrimExpr]) -> PrimExpr:
    return prod((_index(extent) for extent in extents), start=tirx.const(1, "int64"))


def _assumed(extents: Sequence[PrimExpr]) -> int:
    """The product of the extents with ASSUMED_BATCH for each symbolic variable."""
    def number(extent: PrimExpr | int) -> int:
        if isinstance(extent, int):
            return extent
        symbols = tirx.analysis.undefined_vars(extent)
        batch = tirx.const(ASSUMED_BATCH, "int64")
        return int(tirx.stmt_functor.substitute(extent, {symbol: batch for symbol in symbols}))
    return prod(number(extent) for extent in extents)


def _unflatten(flat: PrimExpr, extents: Sequence[PrimExpr]) -> list[PrimExpr]:
    """Row-major index of each axis from the flat one."""
    index = []
    for extent in reversed(extents):
        extent = _index(extent)
        index.append(tirx.floormod(flat, extent))
        flat = tirx.floordiv(flat, extent)
    if index:
        # The outermost quotient is in range already; without this a symbolic extent costs a division.
        index[-1] = _outermost(index[-1])
    return index[::-1]


def _outermost(remainder: PrimExpr) -> PrimExpr:
    return remainder.a
