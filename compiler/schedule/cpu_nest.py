"""The generic CPU schedule: a loop nest for any op, with the innermost loop contiguous where the op allows it.

Element-wise work runs over as many trailing axes at once as every access stays contiguous for. A reduction keeps a
vector of partial results, either along the last result axis (one lane a result) or along the reduced axes (summed
across lanes at the end). The order of every sum is fixed by the shapes alone, so results do not depend on the number
of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import scalar
from compiler.ops.base import Operand, Reduce
from compiler.schedule.cpu_loops import (PARALLEL_NS, ceildiv, cost_ns, draft, dtype_of, fused, i64, known, loops,
                                         static, strides, unflatten)
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

BLOCK = 1 << 14  # elements of a parallel piece where there is only one long axis
WINDOW = 32      # reductions of at most this many steps are unrolled


def emit_nest(kernel: Kernel, cpu: Cpu, batch: int) -> None:
    """Emits the kernel as one loop nest. `batch` stands for unknown extents where a choice needs a number."""
    zero = [i64(0)] * len(kernel.shape)
    if isinstance(_value(kernel, zero), Reduce):
        _Reduction(kernel, cpu, batch).emit()
    elif kernel.layout.block > 1:
        _emit_elements(replace(kernel.layout, halo=(0, 0, 0, 0)).extents(kernel.shape), lambda at: kernel.store(
            idx := kernel.layout.logical(at), _value(kernel, idx)), batch)
    else:
        _emit_elements(kernel.shape, lambda idx: kernel.store(tuple(idx), _value(kernel, idx)), batch)


def _value(kernel: Kernel, idx: Sequence[Any]) -> Any:
    result = Operand(kernel.out, kernel.shape, None)
    return kernel.op.compute(scalar, kernel.a, result, list(idx), *kernel.operands)


def emit_concat(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Concatenation as one copy an operand, none of which asks where it is."""
    start = 0
    for x in kernel.operands:
        if static(x.shape[kernel.a.axis]) is None:
            return False
    for x in kernel.operands:
        _emit_elements(x.shape, lambda idx: kernel.store(
            tuple(i + start if axis == kernel.a.axis else i for axis, i in enumerate(idx)), x(*idx)), batch)
        start += static(x.shape[kernel.a.axis])
    return True


def _emit_elements(extents: Sequence[Any], put: Callable[[Sequence[Any]], None], batch: int) -> None:
    """Loops over `extents`, in which `put(idx)` stores one element."""
    shape = list(extents)
    axes = _contiguous(shape, lambda idx: draft(lambda: put(idx)))
    outer, inner = shape[:len(shape) - axes], shape[len(shape) - axes:]
    size = prod(static(extent) for extent in inner)
    body = draft(lambda: put([tirx.Var("i", "int64") for _ in shape]))
    parallel = known(shape, batch) * cost_ns(body) > PARALLEL_NS

    if parallel and known(outer, batch) < 2 and size >= 2 * BLOCK:
        with fused([*outer, i64(ceildiv(size, BLOCK))], True) as (*index, block):
            with T.serial(0, tirx.Min(i64(BLOCK), i64(size) - block * BLOCK)) as i:
                put([*index, *unflatten(block * BLOCK + i, inner)])
        return
    with fused(outer, parallel) as index, T.serial(0, i64(size)) as i:
        put([*index, *unflatten(i, inner)])


def _contiguous(shape: Sequence[Any], make: Callable[[list[Any]], Any]) -> int:
    """How many trailing axes of known size can be walked as one, every access in `make(idx)` moving by 0 or by 1."""
    best = 1 if shape and static(shape[-1]) is not None else 0
    index = [tirx.Var(f"i{axis}", "int64") for axis in range(len(shape))]
    for axes in range(2, len(shape) + 1):
        inner = shape[len(shape) - axes:]
        if any(static(extent) is None for extent in inner):
            break
        if not strides(lambda f: make([*index[:-axes], *unflatten(f, inner)])) <= {0, 1}:
            break
        best = axes
    return best


class _Reduction:
    """A kernel whose result elements are reductions."""

    def __init__(self, kernel: Kernel, cpu: Cpu, batch: int):
        self.kernel, self.cpu, self.batch = kernel, cpu, batch
        self.shape = list(kernel.shape)
        self.index = [tirx.Var(f"i{axis}", "int64") for axis in range(len(self.shape))]
        reduce = _value(kernel, self.index)
        self.kind, self.extents = reduce.kind, list(reduce.extents)
        self.steps = [tirx.Var(f"r{axis}", "int64") for axis in range(len(self.extents))]
        element = reduce.value(*self.steps)
        self.dtype = dtype_of(element)
        self.work = known(self.shape, batch) * known(self.extents, batch) * (cost_ns(element) + 0.2)

    def emit(self) -> None:
        """Chooses by the strides of the reads where the vector lies."""
        parallel = self.work > PARALLEL_NS
        if self.kind == "argmax":
            with fused(self.shape, parallel) as index:
                self._scalar(index)
            return
        axis = max((a for a, extent in enumerate(self.shape) if static(extent) != 1), default=None)
        across = axis is not None and static(self.shape[axis]) is not None and self._moves_result(axis) <= {0, 1}
        inner = self._inner_axes()
        width = static(self.shape[axis]) if across else 0
        if across and (width >= self.cpu.lanes or not inner):
            self._across(axis, parallel)
        elif inner and known(self.extents[len(self.extents) - inner:], self.batch) >= self.cpu.lanes:
            with fused(self.shape, parallel) as index:
                self._along(index, inner)
        else:
            with fused(self.shape, parallel) as index:
                self._scalar(index)

    # --- where reads move ------------------------------------------------------------------------------------------

    def _moves_result(self, axis: int) -> set[int | None]:
        def make(i: Any) -> Any:
            index = [i if a == axis else var for a, var in enumerate(self.index)]
            return self._element(_value(self.kernel, index), self.steps)

        return strides(make)

    def _inner_axes(self) -> int:
        """How many trailing reduced axes are contiguous as one; 0 if not even the last."""
        reduce = _value(self.kernel, self.index)
        last = strides(lambda r: self._element(reduce, [*self.steps[:-1], r])) if self.extents else {None}
        if not last <= {0, 1} or static(self.extents[-1]) is None:
            return 0
        return _contiguous(self.extents, lambda steps: self._element(reduce, steps))

    # --- one element -----------------------------------------------------------------------------------------------

    def _element(self, reduce: Reduce, steps: Sequence[Any]) -> Any:
        """The reduced value at `steps`, the identity where it does not count."""
        value = reduce.value(*steps)
        if reduce.where is None:
            return value
        return T.if_then_else(reduce.where(*steps), value, self._identity())

    def _identity(self) -> Any:
        if self.kind == "sum":
            return tirx.const(0, self.dtype)
        lowest = self.kind in ("max", "argmax")
        if self.dtype.startswith("float"):
            return tirx.const(float("-inf") if lowest else float("inf"), self.dtype)
        return tirx.min_value(self.dtype) if lowest else tirx.max_value(self.dtype)

    def _combine(self, a: Any, b: Any) -> Any:
        return {"sum": tirx.Add, "max": tirx.Max, "argmax": tirx.Max, "min": tirx.Min}[self.kind](a, b)

    def _finish(self, index: Sequence[Any], value: Any) -> None:
        reduce = _value(self.kernel, index)
        self.kernel.store(tuple(index), value if reduce.finish is None else reduce.finish(value))

    @contextmanager
    def _steps(self, extents: Sequence[Any]) -> Iterator[list[Any]]:
        """Loops over reduced axes, unrolled where they are a small window."""
        small = all(static(extent) is not None for extent in extents) and known(extents, 1) <= WINDOW
        with loops(extents, T.unroll if small else T.serial) as steps:
            yield steps

    # --- three nests -----------------------------------------------------------------------------------------------

    def _scalar(self, index: Sequence[Any]) -> None:
        """One result after the other, one value after the other."""
        reduce = _value(self.kernel, index)
        best = T.alloc_buffer((1,), self.dtype)
        T.buffer_store(best, self._identity(), [0])
        where = None
        if self.kind == "argmax":
            where = T.alloc_buffer((1,), "int32")
            T.buffer_store(where, tirx.const(0, "int32"), [0])
        with self._steps(self.extents) as steps:
            value = self._element(reduce, steps)
            if where is not None:
                flat = i64(0)
                for step, extent in zip(steps, self.extents):
                    flat = flat * i64(extent) + step
                T.buffer_store(where, tirx.Select(value > best[0], tirx.Cast("int32", flat), where[0]), [0])
            T.buffer_store(best, self._combine(best[0], value), [0])
        self._finish(index, best[0] if where is None else where[0])

    def _across(self, axis: int, parallel: bool) -> None:
        """A vector of neighbouring results along `axis`; all axes behind it have size 1."""
        width, lanes = static(self.shape[axis]), self.cpu.lanes
        after = [i64(0)] * (len(self.shape) - axis - 1)
        blocks = ceildiv(width, 4 * lanes) if parallel and known(self.shape[:axis], self.batch) < 8 else 1
        with fused([*self.shape[:axis], blocks], parallel) as index:
            *outer, block = index
            if blocks > 1:
                start = block * (4 * lanes)
                with T.If(start + 4 * lanes <= width):
                    with T.Then():
                        self._vector([*outer, start], after, 4 * lanes)
                    if width % (4 * lanes):
                        with T.Else():
                            self._pieces(outer, after, width - width % (4 * lanes), width)
            else:
                full = width // (4 * lanes)
                if full:
                    with T.serial(0, i64(full)) as piece:
                        self._vector([*outer, piece * (4 * lanes)], after, 4 * lanes)
                self._pieces(outer, after, full * 4 * lanes, width)

    def _pieces(self, outer: list[Any], after: list[Any], start: int, end: int) -> None:
        """The results from `start` to `end` in vectors of falling size."""
        size = 2 * self.cpu.lanes
        while start < end:
            while size > end - start:
                size //= 2
            self._vector([*outer, i64(start)], after, size)
            start += size

    def _vector(self, index: list[Any], after: list[Any], size: int) -> None:
        *outer, start = index
        at = lambda lane: [*outer, start + lane, *after]  # noqa: E731
        best = T.alloc_buffer((size,), self.dtype)
        with T.vectorized(0, i64(size)) as lane:
            T.buffer_store(best, self._identity(), [lane])
        with self._steps(self.extents) as steps, T.vectorized(0, i64(size)) as lane:
            value = self._element(_value(self.kernel, at(lane)), steps)
            T.buffer_store(best, self._combine(best[lane], value), [lane])
        with T.vectorized(0, i64(size)) as lane:
            self._finish(at(lane), best[lane])

    def _along(self, index: Sequence[Any], axes: int) -> None:
        """One result from vectors along the last `axes` reduced axes."""
        reduce = _value(self.kernel, index)
        outer, inner = self.extents[:len(self.extents) - axes], self.extents[len(self.extents) - axes:]
        size = prod(static(extent) for extent in inner)
        vector = min(4 * self.cpu.lanes, 1 << (size.bit_length() - 1))
        partial = T.alloc_buffer((vector,), self.dtype)
        best = T.alloc_buffer((1,), self.dtype)
        with T.vectorized(0, i64(vector)) as lane:
            T.buffer_store(partial, self._identity(), [lane])
        T.buffer_store(best, self._identity(), [0])
        with loops(outer) as steps:
            with T.serial(0, i64(size // vector)) as piece, T.vectorized(0, i64(vector)) as lane:
                value = self._element(reduce, [*steps, *unflatten(piece * vector + lane, inner)])
                T.buffer_store(partial, self._combine(partial[lane], value), [lane])
            if size % vector:
                with T.serial(0, i64(size % vector)) as rest:
                    value = self._element(reduce, [*steps, *unflatten(size // vector * vector + rest, inner)])
                    T.buffer_store(best, self._combine(best[0], value), [0])
        half = vector // 2
        while half:
            with T.vectorized(0, i64(half)) as lane:
                T.buffer_store(partial, self._combine(partial[lane], partial[lane + half]), [lane])
            half //= 2
        self._finish(index, self._combine(partial[0], best[0]))
