"""Direct convolution on the CPU, NCHW in and out, and its input gradient, which is a convolution too.

One image is copied once into padded rows (columns split by phase where the stride is not 1), so that every vector of
neighbouring results reads a contiguous vector of inputs. A register tile holds m output channels times n vectors of
positions through the whole reduction; weights are read as they are, as m contiguous streams of broadcasts. Pointwise
convolutions treat all positions as one row and read a plain operand in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm, prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.layout import PLAIN
from compiler.schedule.cpu_loops import (PARALLEL_NS, Piece, ceildiv, draft, i64, inside, loops, pieces, rows_per_tile, static,
                                         touched, window_plane)
from compiler.schedule.cpu_tile import prefetch
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

MACS_PER_NS = 25     # of one core, to decide whether threads pay
FEW_UNITS = 8        # tiles of positions below which outputs are the outer loop
FETCH_CYCLES = 300   # from memory to the first cache
UNROLLED_TAPS = 8    # kernel columns up to which the innermost reduction is unrolled


@dataclass(frozen=True)
class Geometry:
    """A stride-`stride` convolution of a source that is spread by `spread` (zeros between) and placed at `place`.

    channels, outputs: of all groups; source, kernel, out: (height, width); place: where source row and column 0 lie in
    the padded image (may be negative: cropped).
    """

    channels: int
    outputs: int
    groups: int
    source: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    place: tuple[int, int]
    spread: tuple[int, int]
    out: tuple[int, int]

    @property
    def pointwise(self) -> bool:
        """One tap: positions have no neighbours, so all rows are one."""
        return self.kernel == (1, 1)

    @property
    def in_place(self) -> bool:
        """The padded image is the source itself."""
        return (self.pointwise and self.stride == (1, 1) and self.place == (0, 0) and self.spread == (1, 1)
                and self.source == self.out)

    @property
    def macs(self) -> int:
        """Per image."""
        return prod(self.out) * self.outputs * (self.channels // self.groups) * prod(self.kernel)


def emit_conv(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `conv`; False (and nothing emitted) where this template does not apply."""
    a, (x, w, *bias) = kernel.a, kernel.operands
    shape, out = known(x.shape), known(kernel.shape)
    if not applies(kernel, shape, out):
        return False
    g = Geometry(shape[0], out[0], a.groups, plane(shape[1:]), plane(a.kernel), plane(a.stride), plane(a.dilation),
                 plane([lo for lo, _ in a.pad], 0), (1, 1), plane(out[1:]))
    flat = len(shape) == 2
    weights = w
    if w.buffer is None:
        packed = kernel.scratch(tuple(i64(extent) for extent in w.shape), "float32")
        with loops(w.shape) as index:
            T.buffer_store(packed, w(*index), index)
        weights = lambda *index: packed[index]  # noqa: E731
    _Convolution(
        kernel, cpu, batch, g,
        read=(lambda n, c, y, x_: x(n, c, x_)) if flat else x,
        plain=x.buffer if x.layout == PLAIN and x.dtype == "float32" else None,
        weight=(lambda o, c, i, j: weights(o, c, j)) if flat else weights,
        bias=bias[0] if bias else None,
    ).emit()
    return True


def emit_conv_input_grad(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `conv_input_grad` as a convolution of the spread gradient with flipped, transposed weights."""
    a, (grad, w) = kernel.a, kernel.operands
    shape, out = known(grad.shape), known(kernel.shape)
    if not applies(kernel, shape, out):
        return False
    flat = len(shape) == 2
    size, dilation = plane(a.kernel), plane(a.dilation)
    before = plane([lo for lo, _ in a.pad], 0)
    place = tuple((k - 1) * d - lo for k, d, lo in zip(size, dilation, before))
    g = Geometry(shape[0], out[0], a.groups, plane(shape[1:]), size, (1, 1), dilation, place, plane(a.stride),
                 plane(out[1:]))
    inputs, outputs = g.outputs // g.groups, g.channels // g.groups  # of the forward convolution, per group
    packed = kernel.scratch(tuple(map(i64, (g.outputs, outputs, *size))), "float32")
    with loops((g.groups, inputs, outputs, *size)) as (group, c, o, i, j):
        tap = [size[1] - 1 - j] if flat else [size[0] - 1 - i, size[1] - 1 - j]
        T.buffer_store(packed, w(group * outputs + o, c, *tap), [group * inputs + c, o, i, j])
    _Convolution(
        kernel, cpu, batch, g,
        read=(lambda n, c, y, x: grad(n, c, x)) if flat else grad,
        plain=grad.buffer if grad.layout == PLAIN and grad.dtype == "float32" else None,
        weight=lambda o, c, i, j: packed[o, c, i, j],
        bias=None,
    ).emit()
    return True


def known(shape: Any) -> list[int | None]:
    """All extents but the batch."""
    return [static(extent) for extent in shape[1:]]


def applies(kernel: Kernel, *shapes: list[int | None]) -> bool:
    known = all(extent for shape in shapes for extent in shape)
    return known and len(kernel.shape) in (3, 4) and all(o.computed for o in kernel.operands)


def plane(sizes: Any, lead: int = 1) -> tuple[int, int]:
    """Sizes of two axes; a 1-D convolution has one row."""
    return (lead, *sizes) if len(sizes) == 1 else tuple(sizes)


class _Convolution:
    """The loops of one convolution. `read` is the source element at (n, c, y, x), `plain` its buffer if it is one."""

    def __init__(self, kernel: Kernel, cpu: Cpu, batch: int, g: Geometry, read: Callable, plain: Any, weight: Callable,
                 bias: Any):
        self.kernel, self.cpu, self.g, self.batch = kernel, cpu, g, batch
        self.read, self.weight, self.bias = read, weight, bias
        lanes = cpu.lanes
        rows, width = g.out if not g.pointwise else (1, prod(g.out))
        self.width, self.outputs = width, g.outputs // g.groups
        self.direct = g.in_place and plain is not None and width >= lanes
        vectors = ceildiv(width, lanes)
        # Rows of a single vector are tiled together, else each by itself. In place nothing may be read behind it.
        self.tall = vectors == 1 and rows > 1
        self.cut = pieces(rows * lanes if self.tall else width, lanes, spare=not self.direct)
        self.lines = 1 if self.tall else rows
        # Every vector may read its taps whole.
        self.plane = window_plane(g.source, g.kernel, g.stride, g.dilation, g.place, g.out, vectors * lanes, g.spread)
        self.row_shape = (1, 1, vectors * lanes) if g.pointwise else self.plane.shape
        self.threads = cpu.llvm.get("num-cores", 1)
        self.parallel = batch * g.macs / MACS_PER_NS > PARALLEL_NS and self.threads > 1
        if self.direct:
            strides = [*plain.strides[:2], i64(1)] if len(plain.strides) else None
            self.plain = T.decl_buffer((kernel.shape[0], i64(g.channels), i64(width)), "float32", data=plain.data,
                                       strides=strides, elem_offset=plain.elem_offset)

    def emit(self) -> None:
        images = self.kernel.shape[0]
        per_image = (self.g.channels, *self.row_shape)
        tasks = self.threads if self.parallel and self.batch > 1 else 1
        if not self.direct:
            self.padded = self.kernel.scratch(tuple(map(i64, (tasks, *per_image))), "float32")
        if tasks > 1:
            # A thread takes every so many-th image, and has a padded image of its own.
            with T.parallel(0, i64(tasks)) as task:
                with T.serial(0, tirx.floordiv(images - task + (tasks - 1), i64(tasks))) as turn:
                    self._image(turn * tasks + task, task, False)
        else:
            with loops([images]) as (n,):
                self._image(n, i64(0), self.parallel)

    # --- one image -------------------------------------------------------------------------------------------------

    def _image(self, n: Any, slot: Any, parallel: bool) -> None:
        if not self.direct:
            big = self.g.channels * prod(self.row_shape) > 8 * PARALLEL_NS
            with (T.parallel if parallel and big else T.serial)(0, i64(self.g.channels)) as c:
                self._pad(n, slot, c)
        groups = self.g.groups
        units = sum(count for _, count, _ in self.cut) * self.lines
        loop = T.parallel if parallel else T.serial
        if units < FEW_UNITS:
            # A small map is read again for every few outputs, whose weights stay in L1.
            step = self._block()
            tiles = ceildiv(self.outputs, step)
            with loop(0, i64(groups * tiles)) as at:
                group, tile = self._split(at, tiles)
                self._either(tile, tiles - 1, self.outputs % step, lambda size: self._all_positions(
                    n, slot, group, tile * step, size or step))
        else:
            # A tile's inputs stay in L1 while the weights stream by.
            with loop(0, i64(groups * units)) as at:
                group, unit = self._split(at, units)
                per_line = units // self.lines
                y, turn = tirx.floordiv(unit, i64(per_line)), tirx.floormod(unit, i64(per_line))
                first = 0
                for piece, count, step in self.cut:
                    if len(self.cut) == 1:
                        self._all_outputs(n, slot, group, y, turn * step, piece)
                    else:
                        with T.If(tirx.all(turn >= i64(first), turn < i64(first + count))), T.Then():
                            self._all_outputs(n, slot, group, y, (turn - first) * step, piece)
                    first += count

    @staticmethod
    def _split(at: Any, size: int) -> tuple[Any, Any]:
        """Group and index in the group."""
        return tirx.floordiv(at, i64(size)), tirx.floormod(at, i64(size))

    @staticmethod
    def _either(tile: Any, whole: int, rest: int, emit: Callable[[int], None]) -> None:
        """emit(0) for the whole tiles, emit(rest) for the last one if there is a rest."""
        if not rest:
            emit(0)
        elif not whole:
            emit(rest)
        else:
            with T.If(tile < whole):
                with T.Then():
                    emit(0)
                with T.Else():
                    emit(rest)

    def _block(self) -> int:
        """Output channels of which every tile height is a divisor, or all there are."""
        heights = {min(rows_per_tile(self.cpu, len(piece.starts)), 12) for piece, _, _ in self.cut}
        return min(lcm(*heights) if lcm(*heights) <= 24 else max(heights), self.outputs)

    def _all_positions(self, n: Any, slot: Any, group: Any, o: Any, outputs: int) -> None:
        """All positions of so many output channels from `o` (of the group) on."""
        with T.serial(0, i64(self.lines)) as y:
            for piece, count, step in self.cut:
                with loops([count]) as (turn,):
                    for m, first, repeated in self._heights(outputs, piece):
                        with loops([repeated]) as (row,):
                            self._tile(n, slot, group, o + first + row * m, m, y, turn * step, piece)

    def _all_outputs(self, n: Any, slot: Any, group: Any, y: Any, x: Any, piece: Piece) -> None:
        """All output channels of a group at the positions of one piece."""
        for m, first, repeated in self._heights(self.outputs, piece):
            with loops([repeated]) as (row,):
                self._tile(n, slot, group, row * m + first, m, y, x, piece)

    def _heights(self, outputs: int, piece: Piece) -> list[tuple[int, int, int]]:
        """Output channels cut into tiles whose heights differ by at most one: (height, first, how often)."""
        tiles = ceildiv(outputs, rows_per_tile(self.cpu, len(piece.starts)))
        low, more = divmod(outputs, tiles)
        cut = [(low + 1, 0, more), (low, more * (low + 1), tiles - more)]
        return [(m, first, repeated) for m, first, repeated in cut if repeated]

    # --- the register tile -----------------------------------------------------------------------------------------

    def _tile(self, n: Any, slot: Any, group: Any, o: Any, m: int, y: Any, x: Any, piece: Piece) -> None:
        g, lanes = self.g, i64(self.cpu.lanes)
        channels = g.channels // g.groups
        first_output, first_channel = group * (g.outputs // g.groups) + o, group * channels
        sums = [T.alloc_buffer((m, self.cpu.lanes), "float32") for _ in piece.starts]
        with T.unroll(0, i64(m)) as i:
            start = self.bias(first_output + i) if self.bias is not None else tirx.const(0.0, "float32")
            for acc in sums:
                with T.vectorized(0, lanes) as lane:
                    T.buffer_store(acc, start, [i, lane])
        if g.pointwise and not self.tall and not self.kernel.segments:
            self._fetch(n, first_output + self._ahead(m, piece) * m, m, y, x, piece)
        unroll = g.kernel[1] <= UNROLLED_TAPS
        with loops([channels, g.kernel[0]]) as (c, ky):
            with loops([g.kernel[1]], T.unroll if unroll else T.serial) as (kx,):
                with T.unroll(0, i64(m)) as i:
                    for acc, start in zip(sums, piece.starts):
                        with T.vectorized(0, lanes) as lane:
                            row, column = self._place(y, x + start, lane)
                            value = self._input(n, slot, first_channel + c, row, ky, kx, column)
                            weight = self.weight(first_output + i, c, ky, kx)
                            T.buffer_store(acc, acc[i, lane] + value * weight, [i, lane])

        def finish(i: Any, store: Callable) -> None:
            for acc, start, (skip, count) in zip(sums, piece.starts, piece.stored):
                with T.vectorized(0, i64(self.width if self.tall else count)) as lane:
                    row, column = self._place(y, x + start, lane + skip)
                    store(self._result(n, first_output + i, row, column), acc[i, lane + skip])

        with T.unroll(0, i64(m)) as i:
            self.kernel.each(first_output + i, lambda store: finish(i, store))

    def _ahead(self, m: int, piece: Piece) -> int:
        """How many tiles ahead what results need is fetched."""
        steps = self.g.channels // self.g.groups * prod(self.g.kernel)
        return ceildiv(2 * FETCH_CYCLES, steps * m * len(piece.starts))

    def _fetch(self, n: Any, o: Any, m: int, y: Any, x: Any, piece: Piece) -> None:
        """Brings near what storing a tile reads and writes: as many rows of memory as it has outputs, one after the other,
        are too many for the hardware to foresee."""
        first, last = piece.starts[0], piece.starts[-1] + self.cpu.lanes
        for at in range(first, last, 16):
            with T.unroll(0, i64(m)) as i:
                row, column = self._place(y, x + at, i64(0))
                index = self._result(n, o + i, row, column)
                for element in touched(draft(lambda: self.kernel.store(index, tirx.const(0.0, "float32")))):
                    prefetch(element)

    def _place(self, y: Any, x: Any, lane: Any) -> tuple[Any, Any]:
        """Row and column of a lane; where rows are tiled together, `x` counts their lanes."""
        return (tirx.floordiv(x, i64(self.cpu.lanes)), lane) if self.tall else (y, x + lane)

    def _result(self, n: Any, o: Any, y: Any, x: Any) -> tuple[Any, ...]:
        if len(self.kernel.shape) == 3:
            return n, o, x
        if self.g.pointwise:
            return n, o, tirx.floordiv(x, i64(self.g.out[1])), tirx.floormod(x, i64(self.g.out[1]))
        return n, o, y, x

    def _input(self, n: Any, slot: Any, c: Any, y: Any, ky: Any, kx: Any, x: Any) -> Any:
        g = self.g
        if self.direct:
            return self.plain[n, c, x]
        if g.pointwise:
            return self.padded[slot, c, 0, 0, x]
        return self.padded[slot, c, *self.plane.at(y * g.stride[0] + ky * g.dilation[0], kx * g.dilation[1], x)]

    # --- the padded image ------------------------------------------------------------------------------------------

    def _pad(self, n: Any, slot: Any, c: Any) -> None:
        """Copies channel `c` into its padded rows."""
        if self.g.pointwise:
            self._gather(n, slot, c)
        else:
            self.plane.fill(lambda at, value: T.buffer_store(self.padded, value, [slot, c, *at]),
                            lambda y, x: self.read(n, c, y, x), tirx.const(0.0, "float32"))

    def _gather(self, n: Any, slot: Any, c: Any) -> None:
        """One tap: the source elements that are read, as one row."""
        g = self.g
        zero = tirx.const(0.0, "float32")
        if self.row_shape[2] != self.width or g.place != (0, 0) or g.spread != (1, 1) or not self._covers():
            with T.serial(0, i64(self.row_shape[2])) as x:
                T.buffer_store(self.padded, zero, [slot, c, i64(0), i64(0), x])
        spans = []
        for size, place, spread, stride, out in zip(g.source, g.place, g.spread, g.stride, g.out):
            if stride == 1:
                first, count = inside(size, place, spread, out)
                spans.append((count, lambda s, f=first: s + f, lambda s, f=first, p=place, u=spread: (s + f) * u + p))
            else:
                # Result t reads source t*stride - place.
                low = ceildiv(max(place, 0), stride)
                high = min(out, (size - 1 + place) // stride + 1)
                spans.append((max(high - low, 0), lambda s, f=low, p=place, d=stride: (s + f) * d - p,
                              lambda s, f=low: s + f))
        (rows, source_y, target_y), (columns, source_x, target_x) = spans
        with T.serial(0, i64(rows)) as row, T.serial(0, i64(columns)) as column:
            T.buffer_store(self.padded, self.read(n, c, source_y(row), source_x(column)),
                           [slot, c, i64(0), i64(0), target_y(row) * g.out[1] + target_x(column)])

    def _covers(self) -> bool:
        """Every result of a pointwise convolution has a source element."""
        return all((out - 1) * stride < size for size, stride, out in zip(self.g.source, self.g.stride, self.g.out))
