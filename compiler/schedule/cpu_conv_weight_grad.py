"""The weight gradient of a convolution on the CPU: lanes along output channels, reduction along positions.

For a block of images the output gradient is transposed, once, into panels [position, output channels], and the input
is copied into padded rows. A register tile holds m weights of the forward's reduction (tap, channel) times n vectors
of output channels through all positions of the block; sums of blocks meet in scratch, and the last loop transposes
them into the result. Blocks are taken in order, whatever the number of threads.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_conv import MACS_PER_NS, applies, known, plane
from compiler.schedule.cpu_loops import PARALLEL_NS, Plane, ceildiv, fused, i64, loops, rows_per_tile
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

BLOCK_NS = 100_000  # work between two meetings of the threads
BLOCK_BYTES = 8 << 20


def emit_conv_weight_grad(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `conv_weight_grad`; False (and nothing emitted) where this template does not apply."""
    g, x = kernel.operands
    if not applies(kernel, known(g.shape), known(x.shape)) or known(g.shape)[0] // kernel.a.groups < cpu.lanes // 2:
        return False
    _WeightGrad(kernel, cpu, batch).emit()
    return True


def emit_weight_and_bias_grad(kernel: Kernel, bias: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `conv_weight_grad` and the sum of the same output gradient over images and positions; False as above."""
    g, x = kernel.operands
    if not applies(kernel, known(g.shape), known(x.shape)) or known(g.shape)[0] // kernel.a.groups < cpu.lanes // 2:
        return False
    _WeightGrad(kernel, cpu, batch, bias).emit()
    return True


class _WeightGrad:
    """bias: the kernel of the bias gradient, which is summed from the panels too."""

    def __init__(self, kernel: Kernel, cpu: Cpu, batch: int, bias: Kernel | None = None):
        a, (g, x) = kernel.a, kernel.operands
        self.bias = bias
        self.kernel, self.cpu, self.g, self.x, self.flat = kernel, cpu, g, x, len(kernel.shape) == 3
        self.groups = a.groups
        all_outputs, *out = known(g.shape)
        self.channels, *source = known(x.shape)
        self.out, self.source = plane(out), plane(source)
        self.size, self.stride, self.dilation = plane(a.kernel), plane(a.stride), plane(a.dilation)
        self.place = plane([lo for lo, _ in a.pad], 0)
        self.outputs = all_outputs // a.groups
        self.inputs = self.channels // a.groups
        self.rows = self.inputs * prod(self.size)
        vectors = ceildiv(self.outputs, cpu.lanes)
        # Vectors a tile: as few empty ones as possible; a single one halves the speed (a load for each multiplication).
        self.vectors = min((3, 2, 1), key=lambda n: (ceildiv(vectors, n) * n * (2 if n == 1 else 1), -n))
        self.width = self.vectors * cpu.lanes
        self.panels = ceildiv(self.outputs, self.width)
        self.m = min(rows_per_tile(cpu, self.vectors), self.rows)
        self.padded_size = tuple((o - 1) * s + (k - 1) * d + 1
                                 for o, s, k, d in zip(self.out, self.stride, self.size, self.dilation))
        fits = all(0 <= size - reach for size, reach in zip(self.source, self.padded_size)) and self.place == (0, 0)
        self.direct = x.buffer is not None and fits
        per_image = 4 * (prod(self.out) * self.groups * self.panels * self.width
                         + self.channels * prod(self.padded_size))
        macs = prod(self.out) * self.groups * self.outputs * self.rows
        self.block = max(1, min(ceildiv(BLOCK_NS * MACS_PER_NS, macs), BLOCK_BYTES // per_image, 64))
        self.parallel = cpu.llvm.get("num-cores", 1) > 1 and min(batch, self.block) * macs / MACS_PER_NS > PARALLEL_NS

    def emit(self) -> None:
        images = self.g.shape[0]
        tiles = ceildiv(self.rows, self.m)
        panel = (self.groups, self.panels)
        self.panel = self.kernel.scratch(tuple(map(i64, (self.block, *panel, prod(self.out), self.width))), "float32")
        self.sums = self.kernel.scratch(tuple(map(i64, (*panel, self.rows, self.width))), "float32")
        if not self.direct:
            shape = (self.block, self.channels, *self.padded_size)
            self.padded = self.kernel.scratch(tuple(map(i64, shape)), "float32")
        with fused([self.groups * self.panels, self.rows, self.width], False) as (at, row, lane):
            T.buffer_store(self.sums, tirx.const(0.0, "float32"), [*self._split(at), row, lane])
        if self.bias:
            self.totals = self.kernel.scratch(tuple(map(i64, (*panel, self.width))), "float32")
            with loops([self.groups * self.panels, self.width]) as (at, lane):
                T.buffer_store(self.totals, tirx.const(0.0, "float32"), [*self._split(at), lane])
        with T.serial(0, tirx.floordiv(images + (self.block - 1), i64(self.block))) as block:
            first = block * self.block
            count = tirx.Min(i64(self.block), images - first)
            if not self.direct:
                with fused([count, self.channels], self.parallel) as (b, c):
                    self._pad(first + b, b, c)
            with fused([count, self.groups * self.panels], self.parallel) as (b, at):
                self._transpose(first + b, b, *self._split(at))
            if self.bias:
                with fused([self.groups * self.panels], self.parallel) as (at,):
                    self._total(count, *self._split(at))
            with fused([self.groups * self.panels, tiles], self.parallel) as (at, tile):
                self._rows(first, count, *self._split(at), tile * self.m)
        self._finish()

    def _split(self, at: Any) -> tuple[Any, Any]:
        """Group and panel of a flat index."""
        if self.groups == 1:
            return i64(0), at
        return tirx.floordiv(at, i64(self.panels)), tirx.floormod(at, i64(self.panels))

    def _pad(self, n: Any, b: Any, c: Any) -> None:
        plane = Plane(self.source, self.place, (1, 1), 1, (0,), *self.padded_size)
        plane.fill(lambda at, value: T.buffer_store(self.padded, value, [b, c, at[0], at[2]]),
                   lambda y, x: self.x(n, c, *([x] if self.flat else [y, x])), tirx.const(0.0, "float32"))

    def _transpose(self, n: Any, b: Any, group: Any, panel: Any) -> None:
        """The output gradient of one panel of channels, channels innermost; missing channels are zero."""
        first = group * self.outputs + panel * self.width
        rest = self.outputs % self.width

        def copy(count: int) -> None:
            for start in range(0, self.width, self.cpu.lanes):
                with T.serial(0, i64(prod(self.out))) as p, T.unroll(0, i64(self.cpu.lanes)) as lane:
                    at = [p] if self.flat else [tirx.floordiv(p, i64(self.out[1])), tirx.floormod(p, i64(self.out[1]))]
                    read = self.g(n, first + start + lane, *at)
                    if start + self.cpu.lanes > count:
                        read = T.if_then_else(lane + start < count, read, tirx.const(0.0, "float32"))
                    T.buffer_store(self.panel, read, [b, group, panel, p, lane + start])

        self._either(panel < self.panels - 1, rest, lambda: copy(self.width), lambda: copy(rest))

    def _rows(self, first: Any, count: Any, group: Any, panel: Any, row: Any) -> None:
        rest = self.rows % self.m
        self._either(row + self.m <= self.rows, rest, lambda: self._tile(first, count, group, panel, row, self.m),
                     lambda: self._tile(first, count, group, panel, row, rest))

    @staticmethod
    def _either(whole: Any, rest: int, then: Any, otherwise: Any) -> None:
        """The body for whole tiles, and one for the last if there is a rest."""
        if not rest:
            then()
            return
        with T.If(whole):
            with T.Then():
                then()
            with T.Else():
                otherwise()

    def _tile(self, first: Any, count: Any, group: Any, panel: Any, row: Any, m: int) -> None:
        lanes = i64(self.cpu.lanes)
        sums = [T.alloc_buffer((m, self.cpu.lanes), "float32") for _ in range(self.vectors)]

        def each(body: Any) -> None:
            with T.unroll(0, i64(m)) as i:
                for v, acc in enumerate(sums):
                    with T.vectorized(0, lanes) as lane:
                        body(acc, i, v * self.cpu.lanes, lane)

        def start(acc: Any, i: Any, v: int, lane: Any) -> None:
            T.buffer_store(acc, self.sums[group, panel, row + i, lane + v], [i, lane])

        def keep(acc: Any, i: Any, v: int, lane: Any) -> None:
            T.buffer_store(self.sums, acc[i, lane], [group, panel, row + i, lane + v])

        each(start)
        with T.serial(0, count) as b, loops(self.out) as (y, x):
            def add(acc: Any, i: Any, v: int, lane: Any) -> None:
                value = self._input(first, b, group, row + i, y, x)
                p = y * self.out[1] + x
                T.buffer_store(acc, acc[i, lane] + value * self.panel[b, group, panel, p, lane + v], [i, lane])

            each(add)
        each(keep)

    def _input(self, first: Any, b: Any, group: Any, row: Any, y: Any, x: Any) -> Any:
        """The input element that weight `row` of the reduction meets at result position (y, x)."""
        # Neighbours in a tile are channels, not taps: LLVM would keep what overlapping taps
        # share, and run out of registers.
        c = tirx.floormod(row, i64(self.inputs)) + group * self.inputs
        tap = tirx.floordiv(row, i64(self.inputs))
        ky, kx = tirx.floordiv(tap, i64(self.size[1])), tirx.floormod(tap, i64(self.size[1]))
        at = [y * self.stride[0] + ky * self.dilation[0], x * self.stride[1] + kx * self.dilation[1]]
        if not self.direct:
            return self.padded[b, c, *at]
        return self.x(first + b, c, *(at[1:] if self.flat else at))

    def _total(self, count: Any, group: Any, panel: Any) -> None:
        """Adds a panel's output gradients to what is known of the bias gradient."""
        sums = [T.alloc_buffer((self.cpu.lanes,), "float32") for _ in range(self.vectors)]
        lanes = i64(self.cpu.lanes)
        for v, acc in enumerate(sums):
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(acc, self.totals[group, panel, lane + v * self.cpu.lanes], [lane])
        with T.serial(0, count) as b, T.serial(0, i64(prod(self.out))) as p:
            for v, acc in enumerate(sums):
                with T.vectorized(0, lanes) as lane:
                    T.buffer_store(acc, acc[lane] + self.panel[b, group, panel, p, lane + v * self.cpu.lanes], [lane])
        for v, acc in enumerate(sums):
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(self.totals, acc[lane], [group, panel, lane + v * self.cpu.lanes])

    def _finish(self) -> None:
        """The sums, transposed, through the kernel's tail."""
        lanes = self.cpu.lanes
        if self.bias:
            with loops([self.groups, self.outputs]) as (group, o):
                at = [group, tirx.floordiv(o, i64(self.width)), tirx.floormod(o, i64(self.width))]
                self.bias.store((group * self.outputs + o,), self.totals[*at])
        vectors = ceildiv(self.outputs, lanes)
        with fused([self.groups, vectors], self.parallel) as (group, vector):
            def store(count: int) -> None:
                with loops([*self.size, self.inputs]) as (ky, kx, c), T.unroll(0, i64(count)) as lane:
                    o = vector * lanes + lane
                    row = (ky * self.size[1] + kx) * self.inputs + c
                    at = [group, tirx.floordiv(vector, i64(self.vectors)), row,
                          tirx.floormod(vector, i64(self.vectors)) * lanes + lane]
                    taps = [kx] if self.flat else [ky, kx]
                    self.kernel.store((group * self.outputs + o, c, *taps), self.sums[*at])

            rest = self.outputs % lanes
            self._either(vector < vectors - 1, rest, lambda: store(lanes), lambda: store(rest))
