"""What a schedule gets: one kernel to emit into the current IRBuilder frame, free of graphs and memory plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import TensorType
from compiler.layout import Layout
from compiler.ops.base import Op, Operand


COUNTERS = 4096  # that blocks of a GPU's launch may count with


@dataclass(frozen=True)
class Kernel:
    """One anchor op with everything around it that is element-wise.

    op, a: the anchor and its attributes. operands: how to read each of its operands (a buffer, or an expression where a
    cheap producer was inlined: then every read computes it again, so a template reads each element once, into scratch).
    out: the anchor's result type; shape: its shape as TVM expressions (the batch may be symbolic); layout: of the memory
    that results go to. segments: the ranges [start, stop) of channels that go to different tensors, empty as a rule.
    store(idx, value): emits the element-wise tail of `value`, the anchor's result at `idx`, and the stores of all
    results; it may be called inside vectorized and parallel loops, exactly once for every index. A third argument says
    which segment `idx` is in (see `each`).
    finish(idx, value): the tail's value alone, nothing stored.
    scratch(shape, dtype): a private 64-byte-aligned buffer of the program's arena (shape may be symbolic).
    staged: for operands that no memory holds, by position, the kernel that makes them: its bands are computed just
    before they are read, by `finish`.
    counters: gives a buffer of COUNTERS uint32 that are zero when the kernel starts, and have to be when it ends; None where
    the target has none.
    arithmetic: whether the tail is f32 sums, products and maxima alone, which CUDA's compilers take of vectors too.
    """

    name: str
    op: Op
    a: SimpleNamespace
    operands: Sequence[Operand]
    out: TensorType
    shape: tuple[Any, ...]
    layout: Layout
    segments: Sequence[tuple[int, int]]
    store: Callable[..., None]
    finish: Callable[[tuple[Any, ...], Any], Any]
    scratch: Callable[[tuple[Any, ...], str], Any]
    staged: Mapping[int, Kernel]
    arithmetic: bool = False
    counters: Callable[[], Any] | None = None

    def each(self, channel: Any, emit: Callable[[Callable], None]) -> None:
        """emit(store) where `store(idx, value)` knows the segment: `channel` is a scalar, the first of the channels that
        are stored, which lie in one segment."""
        if not self.segments:
            emit(self.store)
            return
        for number, (start, stop) in enumerate(self.segments):
            with T.If(tirx.all(channel >= start, channel < stop)), T.Then():
                emit(lambda idx, value, number=number: self.store(idx, value, number))


@dataclass(frozen=True)
class Work:
    """Independent pieces of a kernel, which threads may share.

    units: how many there are. ns: predicted time of all of them on one core, at the design batch. emit(unit, slot): the
    statements of one; `slot` says which of the threads' scratch it may use.
    """

    units: Any
    ns: float
    emit: Callable[[Any, Any], None]
