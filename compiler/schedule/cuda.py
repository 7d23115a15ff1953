"""The generic CUDA schedule: any fused group becomes one correct kernel, without tiles or tuning.

One thread makes one output element. Long reductions into few outputs get one block an output and a tree through shared
memory, always combined in the same order, so that results do not depend on timing.
"""

from collections.abc import Callable, Sequence
from math import prod

import tvm.script.ir_builder.tirx as T
from tvm import tirx
from tvm.ir import Expr
from tvm.sym import Analyzer

from compiler.schedule.reduce import Reduce

THREADS = 256

# What a symbolic dimension counts for where a choice needs a number; the choice changes speed, never results.
ASSUMED_BATCH = 64
# A block per output pays when there are too few outputs to fill a GPU with threads, and each has work for a block.
FEW_OUTPUTS = 4096

Body = Callable[[list[Expr]], Expr | Reduce]


def emit(out: tirx.Buffer, shape: Sequence[Expr], body: Body) -> None:
    """Emit into the current function of the IR builder the kernel that computes `out[i] = body(i)` for all i in `shape`.

    The function must have no other statements but declarations: the kernel's grid is its whole body.
    """
    shape = [_index(extent) for extent in shape]
    origin = body([tirx.const(0, "int64") for _ in shape])
    if isinstance(origin, Reduce) and _assumed(shape) <= FEW_OUTPUTS and _assumed(origin.extents) >= THREADS:
        _emit_block_per_output(out, shape, body)
    else:
        _emit_thread_per_output(out, shape, body)


def _emit_thread_per_output(out: tirx.Buffer, shape: list[Expr], body: Body) -> None:
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


def _emit_block_per_output(out: tirx.Buffer, shape: list[Expr], body: Body) -> None:
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
            # A butterfly: after each exchange a thread holds the result of twice as many. Every thread takes part, as
            # TVM's ThreadSync pass allows no barrier inside a condition.
            shared = _Accumulator(reduce, THREADS, "shared")
            width = THREADS // 2
            while width:
                shared.copy(thread, best)
                T.evaluate(T.tvm_storage_sync("shared"))
                best.merge(shared, thread ^ width)
                T.evaluate(T.tvm_storage_sync("shared"))
                width //= 2
            with T.If(thread == 0), T.Then():
                T.buffer_store(out, reduce.finish(best.result()), index)


class _Accumulator:
    """Partial results of one reduction: a value each and, for argmax, the index it was found at."""

    def __init__(self, reduce: Reduce, size: int = 1, scope: str = "local"):
        self.reduce = reduce
        self.dtype = _dtype(reduce.value([tirx.const(0, "int64") for _ in reduce.extents]))
        self.value = T.alloc_buffer((size,), self.dtype, scope=scope)
        self.where = T.alloc_buffer((size,), "int32", scope=scope) if reduce.kind == "argmax" else None

    def clear(self) -> None:
        T.buffer_store(self.value, _neutral(self.reduce.kind, self.dtype), [0])
        if self.where is not None:
            T.buffer_store(self.where, tirx.const(0, "int32"), [0])

    def add(self, flat: Expr) -> None:
        """Combine the value at the flat reduction index into slot 0; indices must come in rising order."""
        value = self.reduce.value(_unflatten(flat, self.reduce.extents))
        if self.where is not None:
            found = tirx.Select(value > self.value[0], tirx.Cast("int32", flat), self.where[0])
            T.buffer_store(self.where, found, [0])
        T.buffer_store(self.value, self._combine(self.value[0], value), [0])

    def copy(self, slot: Expr, other: "_Accumulator") -> None:
        """Slot `slot` becomes slot 0 of `other`."""
        T.buffer_store(self.value, other.value[0], [slot])
        if self.where is not None:
            T.buffer_store(self.where, other.where[0], [slot])

    def merge(self, other: "_Accumulator", slot: Expr) -> None:
        """Combine slot `slot` of `other` into slot 0."""
        mine, theirs = self.value[0], other.value[slot]
        if self.where is not None:
            i, j = self.where[0], other.where[slot]
            first = tirx.Select(theirs == mine, tirx.Min(i, j), tirx.Select(theirs > mine, j, i))
            T.buffer_store(self.where, first, [0])
        T.buffer_store(self.value, self._combine(mine, theirs), [0])

    def result(self) -> Expr:
        return self.value[0] if self.where is None else self.where[0]

    def _combine(self, a: Expr, b: Expr) -> Expr:
        return {"sum": tirx.Add, "max": tirx.Max, "argmax": tirx.Max, "min": tirx.Min}[self.reduce.kind](a, b)


def _neutral(kind: str, dtype: str) -> Expr:
    if kind == "sum":
        return tirx.const(0, dtype)
    if dtype.startswith(("float", "bfloat")):
        return tirx.const(float("inf") if kind == "min" else float("-inf"), dtype)
    return tirx.max_value(dtype) if kind == "min" else tirx.min_value(dtype)


def _dtype(value: Expr) -> str:
    return str(value.ty.dtype)


def _index(value: Expr | int) -> Expr:
    if isinstance(value, int):
        return tirx.const(value, "int64")
    return value if _dtype(value) == "int64" else tirx.Cast("int64", value)


def _product(extents: Sequence[Expr | int]) -> Expr:
    return prod((_index(extent) for extent in extents), start=tirx.const(1, "int64"))


def _assumed(extents: Sequence[Expr | int]) -> int:
    """The product of the extents with ASSUMED_BATCH for each symbolic variable."""
    size, analyzer = _product(extents), Analyzer()
    for symbol in tirx.analysis.undefined_vars(size):
        analyzer.bind(symbol, tirx.const(ASSUMED_BATCH, "int64"))
    return int(analyzer.simplify(size))


def _unflatten(flat: Expr, extents: Sequence[Expr | int]) -> list[Expr]:
    """Row-major index of each axis from the flat one. The outermost needs no modulus: `flat` is in range."""
    if not extents:
        return []
    index = []
    for extent in reversed(extents[1:]):
        index.append(tirx.floormod(flat, _index(extent)))
        flat = tirx.floordiv(flat, _index(extent))
    return [flat, *reversed(index)]
