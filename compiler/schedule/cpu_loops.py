"""Pieces that all CPU schedules are made of: loops, strides, work estimates, accumulators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.ir import Call, TensorLoad
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.sym import Analyzer

from compiler.target import Cpu

if TYPE_CHECKING:
    from compiler.schedule.kernel import Work

# Below this many nanoseconds of estimated work, waking the other threads costs more than they save.
PARALLEL_NS = 8000


def i64(value: Any) -> Any:
    """An index expression of 64 bits."""
    if isinstance(value, int):
        return tirx.const(value, "int64")
    return value if dtype_of(value) == "int64" else tirx.Cast("int64", value)


def dtype_of(value: Any) -> str:
    return str(value.ty.dtype)


def static(extent: Any) -> int | None:
    """The value of an extent that is known, else None."""
    if isinstance(extent, int):
        return extent
    extent = Analyzer().simplify(extent)
    return int(extent) if isinstance(extent, tirx.IntImm) else None


def known(extents: Sequence[Any], batch: int) -> int:
    """The product of extents, where an unknown one counts for `batch`."""
    return prod(batch if static(e) is None else static(e) for e in extents)


def ceildiv(a: int, b: int) -> int:
    return -(-a // b)


def inside(size: int, place: int, spread: int, extent: int) -> tuple[int, int]:
    """Which of `size` elements, put at place + i*spread, fall into [0, extent): the first and how many."""
    first = max(0, ceildiv(-place, spread))
    last = min(size, ceildiv(extent - place, spread))
    return first, max(last - first, 0)



@dataclass(frozen=True)
class Plane:
    """One channel of an image in padded rows, columns apart by phase, so that strided windows read contiguous vectors.

    source: its (height, width); place: where its row and column 0 lie (negative: cropped); spread: distance
    between neighbours (1, or more for zeros between); stride: of the windows' columns; phases: column
    remainders that are kept; height, columns: of the padded plane, columns per phase.
    """

    source: tuple[int, int]
    place: tuple[int, int]
    spread: tuple[int, int]
    stride: int
    phases: tuple[int, ...]
    height: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, len(self.phases), self.columns

    def at(self, y: Any, column: Any, x: Any) -> tuple[Any, Any, Any]:
        """Where the tap at row `y` and column `column` of window `x` is."""
        if self.stride == 1:
            return y, i64(0), x + column
        phase, column = tirx.floormod(column, i64(self.stride)), tirx.floordiv(column, i64(self.stride))
        slot = sum((tirx.Cast("int64", phase >= i64(p)) for p in self.phases[1:]), start=i64(0)) \
            if len(self.phases) < self.stride else phase
        return y, slot, x + column

    def fill(self, put: Callable, read: Callable, outside: Any) -> None:
        """put((row, phase, column), value) for the whole plane; read(y, x) gives source elements."""
        with loops(self.shape) as index:
            put(tuple(index), outside)
        self.each(lambda at, y, x: put(at, read(y, x)))

    def each(self, visit: Callable) -> None:
        """visit((row, phase, column), y, x) for every source element (y, x) that lies in the plane."""
        first, rows = inside(self.source[0], self.place[0], self.spread[0], self.height)
        with T.serial(0, i64(rows)) as row:
            y = row + first
            for slot, phase in enumerate(self.phases):
                # Source columns x with place + x*spread ≡ phase modulo the stride; one of stride and spread is 1.
                x0 = (phase - self.place[1]) % self.stride
                begin = (self.place[1] + x0) // self.stride
                skip, wanted = inside(ceildiv(self.source[1] - x0, self.stride), begin, self.spread[1], self.columns)
                with T.serial(0, i64(wanted)) as step:
                    x = step + skip
                    visit((y * self.spread[0] + self.place[0], i64(slot), x * self.spread[1] + begin),
                          y, x * self.stride + x0)


def window_plane(source: Any, kernel: Any, stride: Any, dilation: Any, place: Any, out: Any, columns: int,
                 spread: tuple[int, int] = (1, 1)) -> Plane:
    """The plane that `out` windows need; `columns` of them are read in each row."""
    return Plane(tuple(source), tuple(place), spread, stride[1],
                 tuple(sorted({j * dilation[1] % stride[1] for j in range(kernel[1])})),
                 (out[0] - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1,
                 columns + (kernel[1] - 1) * dilation[1] // stride[1])


def rows_per_tile(cpu: Cpu, vectors: int) -> int:
    """How many rows a register tile of so many vectors may have: rows·vectors sums, the vectors, and one broadcast.

    A buffer of sums must stay under 1 KiB: only then TVM keeps it on the stack and LLVM in registers.
    """
    return max(1, min((cpu.registers - 1 - vectors) // vectors, 1023 // (4 * cpu.lanes)))


@dataclass(frozen=True)
class Piece:
    """A register tile's vectors along a row: where each starts, and which of its lanes are stored (first, count)."""

    lanes: int
    starts: tuple[int, ...]
    stored: tuple[tuple[int, int], ...]


def pieces(width: int, lanes: int, spare: bool) -> list[tuple[Piece, int, int]]:
    """A row of `width` elements cut into tiles of three and two vectors: (piece, how often, by how much it moves).

    A last vector that is not full reads behind the row if there is `spare` room, else it starts earlier and stores only
    what is left; a row shorter than a vector without spare room is one short vector.
    """
    if width < lanes and not spare:
        return [(Piece(width, (0,), ((0, width),)), 1, 0)]
    vectors, whole = ceildiv(width, lanes), width // lanes
    threes, rest = divmod(vectors, 3)
    tail = [rest] if rest else []
    if rest == 1 and threes:
        threes, tail = threes - 1, [2, 2]
    repeated = min(threes, whole // 3)

    def piece(first: int, count: int) -> Piece:
        starts, stored = [], []
        for vector in range(first, first + count):
            start, end = vector * lanes, min((vector + 1) * lanes, width)
            begin = start if spare or end - start == lanes else width - lanes
            starts.append(begin)
            stored.append((start - begin, end - start))
        return Piece(lanes, tuple(starts), tuple(stored))

    out = [(piece(0, 3), repeated, 3 * lanes)] if repeated else []
    at = 3 * repeated
    for count in [3] * (threes - repeated) + tail:
        out.append((piece(at, count), 1, 0))
        at += count
    return out


@contextmanager
def loops(extents: Sequence[Any], kind: Callable = T.serial) -> Iterator[list[Any]]:
    """Nested loops, the first outermost; a loop of one iteration is left out."""
    with ExitStack() as stack:
        yield [tirx.const(0, "int64") if static(e) == 1 else stack.enter_context(kind(0, i64(e))) for e in extents]


@contextmanager
def fused(extents: Sequence[Any], parallel: bool) -> Iterator[list[Any]]:
    """One loop over all of `extents`, on all threads if `parallel`; serial loops stay nested."""
    if not parallel:
        with loops(extents) as index:
            yield index
        return
    total = i64(1)
    for extent in extents:
        total = total * i64(extent)
    with T.parallel(0, Analyzer().simplify(total)) as flat:
        yield unflatten(flat, extents)


def unflatten(flat: Any, extents: Sequence[Any]) -> list[Any]:
    """Row-major index of each axis from the flat one, which is in range."""
    if not extents:
        return []
    index = []
    for extent in reversed(extents[1:]):
        if static(extent) == 1:
            index.append(i64(0))
            continue
        index.append(tirx.floormod(flat, i64(extent)))
        flat = tirx.floordiv(flat, i64(extent))
    return [flat, *reversed(index)]


def share(works: Sequence[Work], threads: int) -> None:
    """All pieces of all works: one region in which every thread takes its part of each, or loops where that pays not."""
    if threads == 1 or sum(work.ns for work in works) <= PARALLEL_NS:
        for work in works:
            with loops([work.units]) as (unit,):
                work.emit(unit, i64(0))
        return
    with T.parallel(0, i64(threads)) as thread:
        for work in works:
            units = i64(work.units)
            first = tirx.floordiv(units * thread, i64(threads))
            last = tirx.floordiv(units * (thread + 1), i64(threads))
            with T.serial(0, last - first) as turn:
                work.emit(first + turn, thread)


CHILDREN = ("a", "b", "args", "value", "condition", "true_value", "false_value", "indices", "seq", "body", "then_case",
            "else_case")


def walk(node: Any) -> Iterator[Any]:
    """All nodes of an expression or statement, the same way for the same structure."""
    if isinstance(node, tirx.IntImm | tirx.FloatImm | tirx.Var):
        return
    yield node
    for field in CHILDREN:
        child = getattr(node, field, None)
        if child is None:
            continue
        for one in child if hasattr(child, "__len__") else (child,):
            yield from walk(one)


def flat_index(buffer: Any, indices: Sequence[Any]) -> Any:
    """The position of an access in a buffer."""
    flat = i64(0)
    if len(buffer.strides):
        for index, stride in zip(indices, buffer.strides):
            flat = flat + i64(index) * i64(stride)
        return flat
    for index, extent in zip(indices, buffer.shape):
        flat = flat * i64(extent) + i64(index)
    return flat


def accesses(node: Any) -> list[Any]:
    """The position of every load and store below `node`."""
    out = []
    for one in walk(node):
        if isinstance(one, TensorLoad):
            out.append(flat_index(one.source, one.indices))
        elif isinstance(one, tirx.BufferStore):
            out.append(flat_index(one.buffer, one.indices))
    return out


def touched(node: Any) -> list[Any]:
    """The elements of buffers that a statement loads or stores, each once."""
    found = []
    for one in walk(node):
        if isinstance(one, TensorLoad):
            found.append(one)
        elif isinstance(one, tirx.BufferStore):
            found.append(one.buffer[tuple(one.indices)])
    kept: dict[Any, Any] = {}
    for one in found:
        kept.setdefault(one.source.data, one)
    return list(kept.values())


def strides(make: Callable[[Any], Any]) -> set[int | None]:
    """By how much the accesses in `make(i)` move when i grows by one; None stands for: not by one number."""
    i = tirx.Var("i", "int64")
    analyzer = Analyzer()
    out: set[int | None] = set()
    for here, there in zip(accesses(make(i)), accesses(make(i + 1))):
        step = analyzer.simplify(there - here)
        out.add(int(step) if isinstance(step, tirx.IntImm) else None)
    return out


def draft(emit: Callable[[], None]) -> Any:
    """The statement `emit` makes, outside of the function that is being built: to look at, not to keep."""
    with IRBuilder() as builder:
        with T.prim_func(is_private=True):
            emit()
    return builder.get().body


SLOW_CALLS = ("exp", "log", "tanh", "pow", "erf", "sin", "cos", "sigmoid")


def cost_ns(expr: Any) -> float:
    """A rough time for one evaluation of `expr` in a vectorized loop."""
    total = 0.0
    for node in walk(expr):
        if isinstance(node, TensorLoad):
            total += 0.2
        elif isinstance(node, Call):
            total += 5.0 if any(name in str(node.op) for name in SLOW_CALLS) else 0.5
        else:
            total += 0.03
    return total
