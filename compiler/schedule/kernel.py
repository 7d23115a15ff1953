"""What a schedule gets: one kernel to emit into the current IRBuilder frame, free of graphs and memory plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from compiler.ir import TensorType
from compiler.ops.base import Op, Operand


@dataclass(frozen=True)
class Kernel:
    """One anchor op with everything around it that is element-wise.

    op, a: the anchor and its attributes. operands: how to read each of its operands (a buffer, or an expression where a
    cheap producer was inlined: then every read computes it again, so a template reads each element once, into scratch).
    out: the anchor's result type; shape: its shape as TVM expressions (the batch may be symbolic).
    store(idx, value): emits the element-wise tail of `value`, the anchor's result at `idx`, and the stores of all
    results; it may be called inside vectorized and parallel loops, exactly once for every index.
    scratch(shape, dtype): a private 64-byte-aligned buffer of the program's arena (shape may be symbolic).
    """

    name: str
    op: Op
    a: SimpleNamespace
    operands: Sequence[Operand]
    out: TensorType
    shape: tuple[Any, ...]
    store: Callable[[tuple[Any, ...], Any], None]
    scratch: Callable[[tuple[Any, ...], str], Any]
