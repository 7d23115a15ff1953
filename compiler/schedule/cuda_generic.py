"""The generic CUDA schedule: any op becomes one correct kernel, without tiles or tuning.

One thread makes one output element. Long reductions into few outputs get one block an output and a butterfly through
shared memory, always combined in the same order, so that results do not depend on timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.sym import Analyzer

from compiler import scalar
from compiler.ops.base import Operand, Reduce
from compiler.schedule.cuda_index import Grid, bind
from compiler.schedule.kernel import Kernel

THREADS = 256

# A block per output pays when there are too few outputs to fill a GPU with threads, and each has work for a block.
FEW_OUTPUTS = 4096


def emit_generic(kernel: Kernel, batch: int, threads: int | None) -> Grid:
    """The blocks of any kernel. batch: what a symbolic extent counts for where a choice needs a number; it changes speed
    and rounding only."""
    threads = threads or THREADS
    if _is_long(kernel, batch):
        return Grid(_product(kernel.shape), threads, lambda block, thread, *_: _emit_block_per_output(
            kernel, block, thread, threads))
    blocks = tirx.ceildiv(_product(kernel.shape), threads)

    def emit(block: Any, thread: Any, *_: Any) -> None:
        flat = _index(block) * threads + _index(thread)
        with T.If(flat < _product(kernel.shape)), T.Then():
            _emit_element(kernel, flat)

    return Grid(blocks, threads, emit)


def _is_long(kernel: Kernel, batch: int) -> bool:
    """Whether each of a few outputs has work for a block."""
    element = _compute(kernel, [_index(0) for _ in kernel.shape])
    return (isinstance(element, Reduce) and _assumed(element.extents, batch) >= THREADS
            and _assumed(kernel.shape, batch) <= FEW_OUTPUTS)


def _emit_element(kernel: Kernel, flat: Expr) -> None:
    # Neighbouring threads store neighbours in memory.
    index = [bind(i) for i in kernel.layout.logical(_unflatten(flat, kernel.layout.physical(kernel.shape)))]
    element = _compute(kernel, index)
    if isinstance(element, Reduce):
        best = _Accumulator(element)
        best.clear()
        with T.serial(0, _product(element.extents)) as step:
            best.add(step)
        element = best.finish()
    kernel.store(tuple(index), element)


def _emit_block_per_output(kernel: Kernel, block: Any, thread: Any, threads: int) -> None:
    index = _unflatten(_index(block), kernel.shape)
    reduce = _compute(kernel, index)
    best = _Accumulator(reduce)
    extent = _product(reduce.extents)
    best.clear()
    with T.serial(0, tirx.ceildiv(extent, _index(threads))) as step:
        flat = step * threads + _index(thread)
        with T.If(flat < extent), T.Then():
            best.add(flat)
    # A butterfly: after each exchange a thread holds the result of twice as many.
    shared = _Accumulator(reduce, threads, "shared")
    width = threads // 2
    while width:
        shared.copy(thread, best)
        T.evaluate(T.tvm_storage_sync("shared"))
        best.merge(shared, thread ^ width)
        T.evaluate(T.tvm_storage_sync("shared"))
        width //= 2
    with T.If(thread == 0), T.Then():
        kernel.store(tuple(index), best.finish())


class _Accumulator:
    """Partial results of one reduction: a value each and, for argmax, the flat index it was found at."""

    def __init__(self, reduce: Reduce, size: int = 1, scope: str = "local"):
        self.reduce = reduce
        self.dtype = _dtype(reduce.value(*[_index(0) for _ in reduce.extents]))
        self.value = T.alloc_buffer((size,), self.dtype, scope=scope)
        self.where = T.alloc_buffer((size,), "int32", scope=scope) if reduce.kind == "argmax" else None

    def clear(self) -> None:
        T.buffer_store(self.value, _neutral(self.reduce.kind, self.dtype), [0])
        if self.where is not None:
            T.buffer_store(self.where, tirx.const(0, "int32"), [0])

    def add(self, flat: Expr) -> None:
        """Combine the value at the flat reduction index into slot 0; indices must come in rising order."""
        index = [bind(i) for i in _unflatten(flat, self.reduce.extents)]
        if self.reduce.where is None:
            self._add(flat, self.reduce.value(*index))
        else:
            with T.If(self.reduce.where(*index)), T.Then():
                self._add(flat, self.reduce.value(*index))

    def _add(self, flat: Expr, value: Expr) -> None:
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

    def finish(self) -> Expr:
        """The result element, from slot 0."""
        result = self.value[0] if self.where is None else self.where[0]
        return result if self.reduce.finish is None else self.reduce.finish(result)

    def _combine(self, a: Expr, b: Expr) -> Expr:
        return {"sum": tirx.Add, "max": tirx.Max, "argmax": tirx.Max, "min": tirx.Min}[self.reduce.kind](a, b)


def _compute(kernel: Kernel, index: list[Expr]) -> Expr | Reduce:
    out = Operand(kernel.out, kernel.shape, None)
    return kernel.op.compute(scalar, kernel.a, out, index, *kernel.operands)


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
    return prod((_index(extent) for extent in extents), start=_index(1))


def _assumed(extents: Sequence[Expr | int], batch: int) -> int:
    """The product of the extents with `batch` for each symbolic variable."""
    size, analyzer = _product(extents), Analyzer()
    for symbol in tirx.analysis.undefined_vars(size):
        analyzer.bind(symbol, _index(batch))
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
