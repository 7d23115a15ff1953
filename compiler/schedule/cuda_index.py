"""What CUDA schedules share: 32-bit indices, what is known of sizes, and where elements lie side by side.

Positions (images x rows x columns) and what is reduced over are counted in 32 bits: with 2^31 of them, one f32 channel
alone would be 8 GiB. Offsets into buffers are 64 bits wide, as buffers' strides are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.sym import Analyzer

from compiler.gpus import Gpu
from compiler.ops.base import Operand
from compiler.scalar import widened


@dataclass(frozen=True)
class Grid:
    """One kernel's blocks. blocks: how many; threads: of each; words: f32 of shared memory that a block uses.

    counters: how many counters they share. emit(block, thread, shared, counter): the statements of one block; `shared` is a
    buffer of at least `words`, `counter` the number of the first counter. seconds: predicted, of what is predicted at all.
    """

    blocks: Any
    threads: int
    emit: Callable[[Any, Any, Any, int], None]
    words: int = 0
    counters: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Room:
    """What a kernel may take of a GPU: threads of a block where kernels of one launch have to agree, None for any; sms: how
    many it can count on, None for all."""

    gpu: Gpu
    threads: int | None = None
    sms: int | None = None


def i32(value: Any) -> Any:
    """A number or an expression as int32."""
    if isinstance(value, int):
        return tirx.const(value, "int32")
    return value if str(value.ty.dtype) == "int32" else tirx.Cast("int32", value)


def i64(value: Any) -> Any:
    if isinstance(value, int):
        return tirx.const(value, "int64")
    return value if str(value.ty.dtype) == "int64" else tirx.Cast("int64", value)


def static(extent: Any) -> int | None:
    """The value of a known extent, None for a symbolic one."""
    if isinstance(extent, int):
        return extent
    return int(extent.value) if isinstance(extent, tirx.IntImm) else None


def product(extents: Sequence[Any]) -> Any:
    """int where all are known, else an int32 expression."""
    sizes = [static(extent) for extent in extents]
    if None not in sizes:
        return prod(sizes)
    known = prod(size for size in sizes if size is not None)
    symbols = [i32(extent) for extent, size in zip(extents, sizes) if size is None]
    return prod(symbols[1:], start=symbols[0]) * i32(known)


def ceildiv(a: Any, b: int) -> Any:
    return -(-a // b) if isinstance(a, int) else tirx.truncdiv(a + i32(b - 1), i32(b))


def truncdiv(a: Any, b: int) -> Any:
    """a / b of what is not negative."""
    return tirx.truncdiv(a, i32(b))


def assumed(extent: Any, batch: int) -> int:
    """An extent with `batch` for every symbol."""
    if isinstance(extent, int):
        return extent
    analyzer = Analyzer()
    for symbol in tirx.analysis.undefined_vars(extent):
        analyzer.bind(symbol, tirx.const(batch, str(symbol.ty.dtype)))
    return int(analyzer.simplify(extent))


def split(flat: Any, extents: Sequence[int]) -> list[Any]:
    """The row-major index of a flat int32 one, which is not negative; the outermost may be of any size."""
    index = []
    for extent in reversed(extents[1:]):
        if extent == 1:
            index.append(i32(0))
            continue
        index.append(tirx.truncmod(flat, i32(extent)))
        flat = tirx.truncdiv(flat, i32(extent))
    return [flat, *reversed(index)]


def unflatten(flat: Any, extents: Sequence[Any]) -> list[Any]:
    """The row-major index, in 64 bits, of a flat one: one 64-bit division, and 32-bit ones within the first axis."""
    sizes = [static(extent) for extent in extents[1:]]
    if not extents:
        return []
    if None in sizes or prod(sizes) >= 1 << 30:
        index = []
        flat = i64(flat)
        for extent in reversed(extents[1:]):
            index.append(tirx.truncmod(flat, i64(extent)))
            flat = tirx.truncdiv(flat, i64(extent))
        return [flat, *reversed(index)]
    size = prod(sizes)
    if size == 1:
        return [i64(flat), *[i64(0)] * len(sizes)]
    whole = tirx.const(size, str(flat.ty.dtype))
    inner = bind(i32(tirx.truncmod(flat, whole)))
    return [i64(tirx.truncdiv(flat, whole)), *map(i64, split(inner, sizes))]


def both(*conditions: Any) -> Any:
    """All of them, None standing for what always holds."""
    there = [condition for condition in conditions if condition is not None]
    return tirx.all(*there) if len(there) > 1 else there[0] if there else None


def bind(value: Any) -> Any:
    """A register that holds `value`; a constant stays one. (What is bound by T.bind, TVM writes out again at each use.)"""
    if isinstance(value, int | tirx.IntImm | tirx.FloatImm):
        return value
    register = T.alloc_buffer((1,), str(value.ty.dtype), scope="local")
    T.buffer_store(register, value, [0])
    return register[0]


# --- memory ----------------------------------------------------------------------------------------------------------


def strides(x: Operand) -> list[Any] | None:
    """By how many elements a step along each logical axis moves, all but the first known; None where no memory holds the
    operand, where an axis is cut into blocks, and where offsets within an image need 64 bits."""
    if x.buffer is None or x.layout.block > 1 or not x.shape:
        return None
    sizes = [static(extent) for extent in x.shape[1:]]
    if None in sizes or prod(sizes) >= 1 << 30:
        return None
    steps = list(x.buffer.strides)
    if not steps:
        steps = [i64(1)]
        for extent in reversed(x.buffer.shape[1:]):
            steps.insert(0, steps[0] * extent)
    where = x.layout.physical(range(len(x.shape)))
    return [steps[where.index(axis)] for axis in range(len(x.shape))]


def vector(x: Operand, axis: int, extent: int | None = None, widths: Sequence[int] = (4, 2)) -> int:
    """How many neighbours along `axis` one aligned load may take, so that they divide `extent` (default: all there are); 1
    where they do not lie side by side."""
    steps = strides(x)
    extent = static(x.shape[axis]) if extent is None else extent
    if steps is None or x.dtype not in ("float32", "float16", "uint16") or static(steps[axis]) != 1 or extent is None:
        return 1
    analyzer = Analyzer()
    others = [step for at, step in enumerate(steps) if at != axis and static(x.shape[at]) != 1]
    offset = [x.buffer.elem_offset] if x.buffer.elem_offset is not None else []

    def fits(width: int) -> bool:
        return extent % width == 0 and all(_multiple(analyzer, step, width) for step in [*others, *offset])

    return next((width for width in widths if fits(width)), 1)


class Reader:
    """Elements of an operand whose index is known in two parts: one early, and kept in registers, the other where an
    element is read. Where memory holds the operand, the parts are offsets: a 64-bit one, and a 32-bit one that is the same
    for all threads as a rule. Both count vectors of `width`: so it is plain that they are aligned."""

    def __init__(self, x: Operand, width: int = 1):
        self.x, self.steps, self.width = x, strides(x), width
        if self.steps is not None:
            self.view = T.decl_buffer((x.buffer.shape[0] * self.steps[0],), x.buffer.dtype, data=x.buffer.data)

    def start(self, index: Sequence[Any]) -> list[Any]:
        """What is kept of the early part of an index."""
        if self.steps is None:
            return list(index)
        offset = i64(0) if self.x.buffer.elem_offset is None else self.x.buffer.elem_offset
        for i, step in zip(index, self.steps):
            offset = offset + i64(i) * step
        return [self._vectors(offset)]

    def read(self, start: Sequence[Any], index: Sequence[Any], lane: Any) -> Any:
        """The element at the sum of both parts, and `lane` neighbours on."""
        if self.steps is None:
            return self.x(*(i if j is None else i + j for i, j in zip(start, index)))
        within = sum((i32(i) * i32(static(step)) for i, step in zip(index[1:], self.steps[1:]) if i is not None), start=i32(0))
        at = start[0] + i64(self._vectors(within))
        if index[0] is not None:
            at = at + self._vectors(i64(index[0]) * self.steps[0])
        return widened(self.view[at * self.width + lane], self.x.type.dtype)

    def _vectors(self, offset: Any) -> Any:
        return offset if self.width == 1 else tirx.shift_right(offset, tirx.const(self.width.bit_length() - 1, offset.ty.dtype))


def _multiple(analyzer: Analyzer, value: Any, width: int) -> bool:
    known = static(value)
    if known is not None:
        return known % width == 0
    return bool(analyzer.can_prove(tirx.floormod(value, i64(width)) == 0))


def side_by_side(x: Operand, outer: int, inner: int) -> bool:
    """Whether the last element along axis `inner` lies before the first of the next along `outer`: the two are as one."""
    steps = strides(x)
    return steps is not None and bool(Analyzer().can_prove(steps[outer] == steps[inner] * x.shape[inner]))
