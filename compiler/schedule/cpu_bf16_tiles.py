"""Convolutions on CPUs that multiply matrices of bf16 (AMX, Intel SDM vol. 1, ch. 18): tiles of at most 16 positions by
32 inputs, times tiles of 32 inputs by 16 outputs.

Two tiles of positions times two of outputs are sums in four tile registers; what they read takes the other four. The
rows of an image are copied once, with zeros for the padding, so that the inputs of a position that a step takes lie
together: then a tile of positions is one load whose rows are a fixed distance apart, for any stride and window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_band import CYCLES_PER_NS, stretch, threads_of
from compiler.schedule.cpu_bf16_dot import LowBand, low_band, pairs, weights
from compiler.schedule.cpu_blocked import Direct, Window
from compiler.schedule.cpu_loops import ceildiv, i64, loops
from compiler.schedule.cpu_tile import Run, bound, cut, parts
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

ROWS, BYTES = 16, 64            # of a tile
CYCLES = 16                     # of a product of two tiles
SUMS, INPUTS, WEIGHTS = 0, 4, 6  # the first tile register of each
NARROW = 14                     # columns below which the rows of a 1x1 convolution are taken as one


def instruction(name: str, *arguments: Any) -> None:
    """One instruction on tile registers."""
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def emit_tiled_conv(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `conv` by pairs of inputs on a CPU that multiplies tiles, else None (and nothing emitted)."""
    conv = pairs(kernel, cpu) if cpu.bf16 == "tiles" else None
    return None if conv is None else _Tiles(conv, _chunk(conv.inputs)).work(batch)


def _chunk(inputs: int) -> int:
    """How many inputs a step takes: as many as fit into a row of a tile, the same number in each step."""
    return max(size for size in range(2, BYTES // 2 + 1, 2) if inputs % size == 0)


@dataclass(frozen=True)
class _Tiles:
    conv: Direct
    chunk: int

    @property
    def one_row(self) -> bool:
        """Whether all positions of a map are one row."""
        view = self.conv.window
        return (view.kernel == view.stride == (1, 1) and view.pad == (0, 0) and view.source == view.out
                and view.out[1] < NARROW)

    def work(self, batch: int) -> Work:
        """Units are (image, band of rows, part of the output blocks)."""
        conv, view, threads = self.conv, self.conv.window, threads_of(self.conv.cpu)
        height = view.out[0]
        rows = height if self.one_row else self._rows(view, batch)
        bands = ceildiv(height, rows)
        groups = _groups(conv.blocks)
        count = sum(run.count for run in groups)
        slices = min(count, ceildiv(threads, batch * bands))
        band = low_band(conv, rows, self.chunk)
        settings = conv.kernel.scratch((i64(threads), i64(BYTES)), "uint8")
        sums = conv.kernel.scratch(tuple(map(i64, (threads, 4, ROWS, ROWS))), "float32")

        def emit(unit: Any, slot: Any) -> None:
            n, number, part = parts(unit, bands, slices)
            y0, taken = (i64(0), i64(height)) if bands == 1 else stretch(number, bands, height)
            at = band.fill(n, slot, y0, taken)
            low, high = (tirx.floordiv((part + more) * count, i64(slices)) for more in (0, 1))
            for run in self._columns():
                self._configure(settings, slot, run.size)
                with T.serial(0, high - low) as turn:
                    group = bound(low + turn)
                    before = 0
                    for blocks in groups:
                        with T.If(tirx.all(group >= before, group < before + blocks.count)), T.Then():
                            first = bound(blocks.piece(group - before))
                            self._positions(n, slot, (blocks.size, first), run, y0, taken, band, at, sums)
                        before += blocks.count
            instruction("tilerelease")

        ns = batch * prod(view.out) * conv.blocks / ROWS * conv.steps / self.chunk * CYCLES * 1.5 / CYCLES_PER_NS
        return Work(conv.kernel.shape[0] * (bands * slices), ns, emit)

    def _rows(self, view: Window, batch: int) -> int:
        """Result rows of a band: what it reads takes half of L2; even, so that rows make pairs."""
        rows, row = 1, 2 * view.columns * self.conv.channels
        while rows < view.out[0] and view.span(rows + 1) * row <= self.conv.cpu.l2 // 2:
            rows += 1
        rows = min(rows, max(1, view.out[0] // ceildiv(threads_of(self.conv.cpu), batch)))
        return rows - rows % 2 if 1 < rows < view.out[0] else rows

    def _columns(self) -> tuple[Run, ...]:
        view = self.conv.window
        return cut(prod(view.out) if self.one_row else view.out[1], ROWS)

    def _configure(self, settings: Any, slot: Any, positions: int) -> None:
        """Sizes of the tile registers: palette, bytes of a row (16 bits each from byte 16 on), rows (from byte 48
        on)."""
        widths = {SUMS: 4 * ROWS, INPUTS: 2 * self.chunk, WEIGHTS: BYTES}
        heights = {SUMS: positions, INPUTS: positions, WEIGHTS: self.chunk // 2}
        values = [0] * BYTES
        values[0] = 1
        for register in range(8):
            kind = max(first for first in widths if first <= register)
            values[16 + 2 * register], values[48 + register] = widths[kind], heights[kind]
        for place, value in enumerate(values):
            T.buffer_store(settings, tirx.const(value, "uint8"), [slot, i64(place)])
        instruction("ldtilecfg", T.address_of(settings[slot, i64(0)]))

    def _positions(self, n: Any, slot: Any, group: tuple[int, Any], run: Run, y0: Any, taken: Any, band: LowBand,
                   at: Callable[..., tuple[Any, ...]], sums: Any) -> None:
        """All tiles of `run.size` columns of the rows of a band, two at a time: neighbours, or one above the other."""
        def tiles(*places: tuple[Any, Any]) -> None:
            self._tiles(n, slot, group, run.size, places, band, at, sums)

        rows = i64(1) if self.one_row else taken
        if run.count > 1:
            with T.serial(0, rows) as row:
                y = bound(y0 + row)
                with loops([run.count // 2]) as (turn,):
                    x = bound(run.piece(turn * 2))
                    tiles((y, x), (y, x + run.size))
                if run.count % 2:
                    tiles((y, i64(run.piece(run.count - 1))))
            return
        x = i64(run.first)
        with T.serial(0, tirx.floordiv(rows, i64(2))) as turn:
            y = bound(y0 + turn * 2)
            tiles((y, x), (y + 1, x))
        with T.If(tirx.floormod(rows, i64(2)) == 1), T.Then():
            tiles((bound(y0 + rows - 1), x))

    def _tiles(self, n: Any, slot: Any, group: tuple[int, Any], m: int, places: Sequence[tuple[Any, Any]],
               band: LowBand, at: Callable[..., tuple[Any, ...]], sums: Any) -> None:
        """One or two tiles of `m` positions from (y, x) on, times one or two blocks of outputs."""
        conv, view, (size, first), lanes = self.conv, self.conv.window, group, self.conv.cpu.lanes
        w, width = weights(conv), view.out[1]
        both = [(a, j) for a in range(len(places)) for j in range(size)]

        def register(kind: int, index: int) -> Any:
            return tirx.const(kind + index, "int8")

        for a, j in both:
            instruction("tilezero", register(SUMS, 2 * a + j))
        with loops((*view.kernel, conv.inputs // self.chunk)) as (ky, kx, part):
            for a, (y, x) in enumerate(places):
                row, column = (i64(0), x) if self.one_row else (
                    y * view.stride[0] + ky * view.dilation[0] - view.pad[0],
                    x * view.stride[1] + kx * view.dilation[1] - view.pad[1])
                start = T.address_of(band.buffer[at(part, row, column, i64(0))])
                instruction("tileloadd64", register(INPUTS, a), start, i64(2 * self.chunk * view.stride[1]))
            for j in range(size):
                instruction("tileloadd64", register(WEIGHTS, j),
                            T.address_of(w[first + j, ky, kx, part * (self.chunk // 2), i64(0)]), i64(BYTES))
            for a, j in both:
                instruction("tdpbf16ps", register(SUMS, 2 * a + j), register(INPUTS, a), register(WEIGHTS, j))
        for a, j in both:
            start = T.address_of(sums[slot, 2 * a + j, i64(0), i64(0)])
            instruction("tilestored64", register(SUMS, 2 * a + j), start, i64(BYTES))
        bias = conv.kernel.operands[2] if len(conv.kernel.operands) == 3 else None
        for a, j in both:
            y, x = places[a]

            def emit(store: Callable, a: int = a, j: int = j, y: Any = y, x: Any = x) -> None:
                with T.serial(0, i64(m)) as i, T.vectorized(0, i64(lanes)) as lane:
                    output = (first + j) * lanes + lane
                    value = sums[slot, 2 * a + j, i, lane]
                    place = y, x + i
                    if self.one_row:
                        place = tirx.floordiv(x + i, i64(width)), tirx.floormod(x + i, i64(width))
                    store((n, output, *place), value if bias is None else value + bias(output))

            conv.put(first + j, emit)


def _groups(blocks: int) -> tuple[Run, ...]:
    """Blocks of outputs by twos, and one that is left."""
    runs = Run(2, 0, blocks // 2), Run(1, blocks - blocks % 2, blocks % 2)
    return tuple(run for run in runs if run.count)
