"""Convolutions on CPUs that sum two products of bf16 in each lane (AVX512-BF16, `vdpbf16ps`): the register tile of
direct convolutions, whose steps are pairs of inputs.

A step loads n vectors of 32 weights and broadcasts m pairs of inputs, 32 bits each, from memory. A blocked input is
read where it lies; any other is copied band by band, by pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import scalar
from compiler.schedule.cpu_band import Source, band_rows, banded, padded, threads_of
from compiler.schedule.cpu_blocked import Direct, Put, Read, direct, in_place
from compiler.schedule.cpu_loops import i64, loops
from compiler.schedule.cpu_tile import bound, place_of, reduction
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

# TVM has no vectors of LLVM's bfloat, so this is linked in and inlined: c + a[even] * b[even] + a[odd] * b[odd].
DOT = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)

define linkonce_odr <16 x float> @netc_dot(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %sum = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %sum
}
"""


def emit_dot_conv(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `conv` by pairs of inputs on a CPU that sums their products, else None (and nothing emitted)."""
    conv = pairs(kernel, cpu, Dot) if cpu.bf16 == "dot" else None
    if conv is None:
        return None
    if conv.reads(kernel.operands[0]):
        work = in_place(conv, batch)
    else:
        rows = band_rows(conv, cpu.l2 // 2, batch)
        work = banded(conv, batch, rows, _by_pairs(conv, rows))

    def emit(unit: Any, slot: Any) -> None:
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", DOT):
            work.emit(unit, slot)

    return Work(work.units, work.ns / 2, emit)


def pairs(kernel: Kernel, cpu: Cpu, make: Callable[..., Direct] = Direct) -> Direct | None:
    """The convolution of a kernel whose weight keeps pairs of inputs together, else None."""
    return None if kernel.staged else direct(kernel, cpu, 2, make)


def weights(conv: Direct) -> Any:
    """The weight as [block of outputs, rows, columns, pair of inputs, 2 * outputs of a block]."""
    w, lanes = conv.kernel.operands[1].buffer, conv.cpu.lanes
    shape = (conv.outputs // lanes, *conv.window.kernel, conv.inputs // 2, 2 * lanes)
    return T.decl_buffer(tuple(map(i64, shape)), "uint16", data=w.data, elem_offset=w.elem_offset)


def ramp(start: Any, count: int) -> Any:
    return tirx.Ramp(i64(start), i64(1), count)


@dataclass(frozen=True)
class Dot(Direct):
    """A convolution whose tiles read pairs: `lane` of what `read` takes counts them."""

    @property
    def chunk(self) -> int:
        """Inputs that lie together where tiles read them."""
        return self.cpu.lanes if self.inputs % self.cpu.lanes == 0 else self.inputs

    def element(self, n: Any, block: Any, y: Any, x: Any, lane: Any) -> Any:
        return T.reinterpret("int32", self.kernel.operands[0].buffer[n, block, y, x, ramp(2 * lane, 2)])

    def tile(self, n: Any, first: Any, size: int, place: Sequence[Any], shape: tuple[int, int], read: Read, put: Put,
             index: Callable[[Any, Any], tuple[Any, Any]] = lambda y, x: (y, x)) -> None:
        lanes, view, w = self.cpu.lanes, self.window, weights(self)
        m = prod(shape)
        sums = [T.alloc_buffer((m, lanes), "float32") for _ in range(size)]
        with T.unroll(0, i64(m)) as i:
            for j, acc in enumerate(sums):
                with T.vectorized(0, i64(lanes)) as lane:
                    T.buffer_store(acc, self.start(first + j, lane), [i, lane])
        with loops((*view.kernel, self.inputs // self.chunk)) as (ky, kx, part):
            with reduction((self.chunk // 2,), m * size) as (pair,), T.unroll(0, i64(m)) as i:
                y, x = place_of(i, place, shape)
                inputs = tirx.Broadcast(read(part, pair, y * view.stride[0] + ky * view.dilation[0] - view.pad[0],
                                             x * view.stride[1] + kx * view.dilation[1] - view.pad[1]), lanes)
                for j, acc in enumerate(sums):
                    outputs = T.reinterpret(f"int32x{lanes}", w[
                        first + j, ky, kx, part * (self.chunk // 2) + pair, ramp(0, 2 * lanes)])
                    vector = [i, ramp(0, lanes)]
                    total = T.call_extern(f"float32x{lanes}", "netc_dot", acc[*vector], inputs, outputs)
                    T.buffer_store(acc, total, vector)
        self.finish(n, first, sums, place, shape, put, index)


def _by_pairs(conv: Dot, rows: int) -> Source:
    """A padded copy of what bands of at most `rows` result rows read."""
    band = low_band(conv, rows, conv.chunk)

    def make(n: Any, slot: Any, y0: Any, count: Any) -> Read:
        at = band.fill(n, slot, y0, count)
        return lambda part, pair, y, x: T.reinterpret("int32", band.buffer[at(part, y, x, ramp(2 * pair, 2))])

    return make


@dataclass(frozen=True)
class LowBand:
    """Scratch [slot, chunk of inputs, row, column, inputs of a chunk] in bf16 for what some rows of results read."""

    conv: Direct
    chunk: int
    buffer: Any

    def fill(self, n: Any, slot: Any, y0: Any, count: Any) -> Callable[[Any, Any, Any, Any], tuple[Any, ...]]:
        """Copies the rows that `count` result rows from `y0` on read; gives where an element (chunk, y, x, input)
        lies."""
        view = self.conv.window
        first = bound(y0 * view.stride[0] - view.pad[0])
        together = self._together()

        def at(part: Any, y: Any, x: Any, lane: Any) -> tuple[Any, ...]:
            return slot, part, y - first, x + view.pad[1], lane

        def row(part: Any, y: Any) -> None:
            with T.serial(0, i64(view.source[1])) as x, loops([self.chunk // together]) as (piece,):
                lane0 = bound(piece * together)
                channel = bound(part * self.chunk + lane0)
                with T.vectorized(0, i64(together)) as lane:
                    T.buffer_store(self.buffer, self._element(n, channel, lane, y, x), at(part, y, x, lane0 + lane))

        def zero(part: Any, y: Any, x: Any) -> None:
            with T.vectorized(0, i64(self.chunk)) as lane:
                T.buffer_store(self.buffer, tirx.const(0, "uint16"), at(part, y, x, lane))

        with T.serial(0, i64(self.conv.inputs // self.chunk)) as part:
            padded(view, first, view.span(count), lambda y: row(part, y), lambda y, x: zero(part, y, x))
        return at

    def _together(self) -> int:
        """How many inputs lie together both in the source and here."""
        x = self.conv.kernel.operands[0]
        blocked = x.buffer is not None and x.layout.block > 1 and x.layout.axis == 1
        return gcd(self.chunk, x.layout.block) if blocked else 1

    def _element(self, n: Any, channel: Any, lane: Any, y: Any, x: Any) -> Any:
        """bf16 of input `channel` + `lane`, as it lies in memory where it does."""
        source = self.conv.kernel.operands[0]
        if source.buffer is None:
            return scalar.narrowed(source(n, channel + lane, y, x), "bf16")
        if self._together() == 1:
            return source.buffer[source.layout.physical((n, channel + lane, y, x))]
        block = i64(source.layout.block)
        return source.buffer[n, tirx.floordiv(channel, block), y, x, tirx.floormod(channel, block) + lane]


def low_band(conv: Direct, rows: int, chunk: int) -> LowBand:
    """The scratch of bands of at most `rows` result rows."""
    view = conv.window
    shape = (threads_of(conv.cpu), conv.inputs // chunk, view.span(rows), view.columns, chunk)
    return LowBand(conv, chunk, conv.kernel.scratch(tuple(map(i64, shape)), "uint16"))
