"""Winograd convolutions on the CPU: transforms of tiles, and (m+2)^2 matrix products made of the register tile.

A unit is one block of tile rows of one image: its input is transformed into scratch V [e*e][C/b][tiles][b], then for
each group of output blocks the products M [e*e][n][tiles][b] are made, which stay in L2, transformed back and stored.
Where an image is one block, units are slices of the outputs, each of which transforms the input for itself. Weights
come transformed, or as the windows they are: then a unit transforms a row of points of a group at a time, in cache,
and memory gives a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ops import winograd
from compiler.schedule.cpu_band import CYCLES_PER_NS
from compiler.schedule.cpu_blocked import blocked
from compiler.schedule.cpu_loops import PARALLEL_NS, ceildiv, i64, loops, static
from compiler.schedule.cpu_tile import Run, Tiling, bound, choose, parts, ranged, register_tile, tiling
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

TRANSFORM_CYCLES = 110  # of one tile of one block of channels, to or fro
MOST_AHEAD = 4          # cache lines fetched ahead in a step of a tile, beyond which the hardware does better
FEWEST = 14             # tiles of a block: fewer, and the weights are read too often


def emit_winograd_conv(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `winograd_conv` where the weight is blocked, else None (and nothing emitted)."""
    x, u = kernel.operands[:2]
    channels = static(x.shape[1])
    sizes = [static(extent) for extent in (*x.shape[2:], *kernel.shape[1:])]
    if not channels or not all(sizes) or channels % cpu.lanes or not all(o.computed for o in kernel.operands):
        return None
    if u.buffer is None or not blocked(u.layout, cpu, axis=0) or kernel.staged:
        return None
    return _Winograd(kernel, cpu, channels, sizes[2], tuple(sizes[:2]), tuple(sizes[3:])).work(batch)


def emit_winograd_weight(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """The work of `winograd_weight`: units are outputs, or blocks of them."""
    w, (outputs, inputs, *_) = kernel.operands[0], [static(extent) for extent in kernel.shape]
    if not w.computed or not outputs or not inputs:
        return None
    lanes = cpu.lanes if blocked(kernel.layout, cpu, axis=0) and outputs % cpu.lanes == 0 else 1
    g = winograd.matrices(kernel.a.tile)[1]
    half = _half(kernel, cpu, g, lanes)

    def emit(unit: Any, slot: Any) -> None:
        with T.serial(0, i64(inputs)) as c:
            _two_sided(g, half, slot, lanes, lambda i, j, lane: w(unit * lanes + lane, c, i64(i), j),
                       lambda y, x, lane, value: kernel.store((unit * lanes + lane, c, y, i64(x)), value))

    return Work(outputs // lanes, outputs // lanes * inputs * TRANSFORM_CYCLES / CYCLES_PER_NS, emit)


# --- transforms ------------------------------------------------------------------------------------------------------


def _half(kernel: Kernel, cpu: Cpu, matrix: np.ndarray, lanes: int) -> Any:
    """Scratch for what `_two_sided` has between its sides."""
    return kernel.scratch(tuple(map(i64, (cpu.llvm.get("num-cores", 1), *matrix.shape, lanes))), "float32")


def _two_sided(matrix: np.ndarray, half: Any, slot: Any, lanes: int, read: Callable[[int, Any, Any], Any],
               put: Callable[[Any, int, Any, Any], None]) -> None:
    """put(row, column, lane, value) of matrix * source * matrix^T, elements being vectors; read(row, column, lane)
    gives the source. Each side is a loop, over columns and then over rows."""
    rows, columns = matrix.shape
    with T.serial(0, i64(columns)) as j:
        _side(matrix, lanes, lambda i, lane: read(i, j, lane),
              lambda i, lane, value: T.buffer_store(half, value, [slot, i64(i), j, lane]))
    with T.serial(0, i64(rows)) as i:
        _side(matrix, lanes, lambda j, lane: half[slot, i, i64(j), lane], lambda x, lane, value: put(i, x, lane, value))


def _side(matrix: np.ndarray, lanes: int, read: Callable[[int, Any], Any],
          put: Callable[[int, Any, Any], None]) -> None:
    """put(i, lane, value) of matrix * source; every read(k, lane) is made once, before the first put."""
    source = T.alloc_buffer((matrix.shape[1], lanes), "float32")
    for k in range(matrix.shape[1]):
        with T.vectorized(0, i64(lanes)) as lane:
            T.buffer_store(source, read(k, lane), [i64(k), lane])
    for i, factors in enumerate(matrix):
        with T.vectorized(0, i64(lanes)) as lane:
            put(i, lane, _combination(factors, lambda k: source[i64(k), lane]))


def _combination(factors: Sequence[float], values: Callable[[int], Any]) -> Any:
    """The sum of factors * values, without those that are 0, the units first."""
    total = None
    for index in sorted(np.flatnonzero(factors), key=lambda i: factors[i] != 1.0):
        factor, value = float(factors[index]), values(int(index))
        if factor == -1.0 and total is not None:
            total = total - value
            continue
        term = value if factor == 1.0 else value * tirx.const(factor, "float32")
        total = term if total is None else total + term
    return total


# --- convolution -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Winograd:
    kernel: Kernel
    cpu: Cpu
    channels: int
    outputs: int
    source: tuple[int, int]
    out: tuple[int, int]

    @property
    def m(self) -> int:
        return self.kernel.a.tile

    @property
    def e(self) -> int:
        return self.m + 2

    @property
    def raw(self) -> bool:
        """Whether the weight is 3x3 windows, to be transformed here."""
        return static(self.kernel.operands[1].shape[2]) == 3

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return winograd.tiles(self.m, self.out[0]), winograd.tiles(self.m, self.out[1])

    @property
    def blocks(self) -> int:
        return self.channels // self.cpu.lanes

    def tile_rows(self, batch: int) -> int:
        """How many rows of tiles are a block: V takes half of L2, and weights are read for enough tiles at a time. Where
        each block transforms them again, V may leave L2."""
        rows, columns = self.grid
        row = 4 * self.e ** 2 * self.channels * columns
        fitting = max(1, (self.cpu.l2 * 2 if self.raw else self.cpu.l2 * 5 // 8) // row, ceildiv(FEWEST, columns))
        return ceildiv(rows, ceildiv(rows, min(fitting, rows)))

    def work(self, batch: int) -> Work:
        kernel, (rows, columns), lanes = self.kernel, self.grid, self.cpu.lanes
        per_block = self.tile_rows(batch)
        blocks, most = ceildiv(rows, per_block), per_block * columns
        tiles = tiling(self.cpu.registers, lanes, self.outputs // lanes, most, 1, self.channels)
        cycles = blocks * (self.e ** 2 * tiles.cycles + TRANSFORM_CYCLES * most * (self.channels + self.outputs) / lanes
                           + (TRANSFORM_CYCLES * self.channels * self.outputs / lanes if self.raw else 0))
        ns = batch * cycles / CYCLES_PER_NS
        threads = self.cpu.llvm.get("num-cores", 1)
        slices = min(ceildiv(threads, batch * blocks), tiles.units) if threads > 1 and ns > PARALLEL_NS else 1
        largest = max(run.size for run in tiles.groups)
        v, products = (
            kernel.scratch(tuple(map(i64, (threads, self.e ** 2, _odd_lines(count * most * lanes)))), "float32")
            for count in (self.blocks, largest))

        weights = self._weights(largest) if self.raw else None
        inward, outward = (_half(kernel, self.cpu, matrix, lanes) for matrix in winograd.matrices(self.m)[::2])

        def emit(unit: Any, slot: Any) -> None:
            n, block, part = parts(unit, blocks, slices)
            first = bound(tirx.floordiv(block * rows, i64(blocks)))
            count = rows // blocks if rows % blocks == 0 else bound(
                tirx.floordiv((block + 1) * rows, i64(blocks)) - first)
            self._transform_input(n, slot, v, inward, most, first, count)
            if weights:
                weights.factors(slot)
            begin, end = (tirx.floordiv((part + more) * tiles.units, i64(slices)) for more in (0, 1))
            with T.serial(0, end - begin) as turn:
                group = bound(turn + begin)
                choose(group, tiles.groups, lambda run, at: self._products(
                    slot, v, products, most, count * columns, at, run.size, tiles, weights))
                self._transform_back(n, slot, products, outward, most, first, count, *map(bound, _where(group, tiles)))

        return Work(kernel.shape[0] * (blocks * slices), ns, emit)

    def _transform_input(self, n: Any, slot: Any, v: Any, half: Any, most: int, first: Any, count: Any) -> None:
        lanes, columns, e = self.cpu.lanes, self.grid[1], self.e
        with T.serial(0, i64(self.blocks)) as block, T.serial(0, count) as row, T.serial(0, i64(columns)) as column:
            place = bound((block * most + row * columns + column) * lanes)
            _two_sided(winograd.matrices(self.m)[0], half, slot, lanes,
                       lambda i, j, lane: self._element(n, block, (first + row, column), (i, j), lane),
                       lambda y, x, lane, value: T.buffer_store(v, value, [slot, y * e + x, place + lane]))

    def _element(self, n: Any, block: Any, tile: tuple[Any, Any], at: tuple[int, Any], lane: Any) -> Any:
        """Element `at` of a tile; 0 where that lies outside of what can be read."""
        x, lanes = self.kernel.operands[0], self.cpu.lanes
        direct = x.buffer is not None and blocked(x.layout, self.cpu)
        halo = x.layout.halo if direct else (0, 0, 0, 0)
        index, conditions = [], []
        for axis in (0, 1):
            pad, known = self.kernel.a.pad[axis][0], isinstance(at[axis], int)
            place = tile[axis] * self.m + (at[axis] - pad)
            end = self.source[axis] + halo[axis + 2]
            index.append(place)
            if (at[axis] if known else 0) - pad < -halo[axis]:
                conditions.append(place >= i64(-halo[axis]))
            if (self.grid[axis] - 1) * self.m + (at[axis] if known else self.e - 1) - pad >= end:
                conditions.append(place < i64(end))
        value = x.at(n, block, *index, lane) if direct else x(n, block * lanes + lane, *index)
        if not conditions:
            return value
        return T.if_then_else(tirx.all(*conditions) if len(conditions) > 1 else conditions[0], value,
                              tirx.const(0.0, "float32"))

    def _weights(self, largest: int) -> _Weights:
        w = self.kernel.operands[1].at
        threads, lanes = self.cpu.llvm.get("num-cores", 1), self.cpu.lanes
        row, factors = (self.kernel.scratch(tuple(map(i64, (threads, *shape))), "float32")
                        for shape in ((self.e, _odd_lines(largest * self.channels * lanes)), (self.e * 3,)))
        return _Weights(w, winograd.matrices(self.m)[1], row, factors, self.channels, lanes)

    def _products(self, slot: Any, v: Any, products: Any, most: int, count: Any, group: Any, size: int,
                  tiles: Tiling, weights: _Weights | None) -> None:
        """M of `size` output blocks from block `group` on, of `count` tiles."""
        lanes, u, e = self.cpu.lanes, self.kernel.operands[1], self.e
        with T.serial(0, i64(e)) as ey:
            if weights:
                weights.transform(slot, group, size, ey)
            with T.serial(0, i64(e)) as ex:
                point = bound(ey * e + ex)

                def weight(step: Any, j: Any, lane: Any) -> Any:
                    channel = step[0] * lanes + step[1]
                    return weights.at(slot, ex, j, channel, lane) if weights else u.at(group + j, channel, ey, ex, lane)

                for run in tiles.rows[size]:
                    # Pieces that begin before `count`.
                    bounds = (None, None) if isinstance(count, int) else (
                        i64(0), tirx.floordiv(count - run.first + (run.size - 1), i64(run.size)))
                    with ranged(run, *bounds) as start:
                        ahead = [] if weights else self._ahead(u.buffer, group, size, run, start, most, ey, ex)
                        self._product(slot, v, products, most, size, run, start, point, weight, ahead)

    def _product(self, slot: Any, v: Any, products: Any, most: int, size: int, run: Run, start: Any, at: Any,
                 weight: Callable[[Any, Any, Any], Any], ahead: list[Callable]) -> None:
        lanes = self.cpu.lanes
        sums = register_tile(
            lanes, run.size, size, lambda j, lane: tirx.const(0.0, "float32"), (self.blocks, lanes),
            lambda step, i: v[slot, at, (step[0] * most + start + i) * lanes + step[1]],
            weight, ahead)
        for j, acc in enumerate(sums):
            with T.unroll(0, i64(run.size)) as i, T.vectorized(0, i64(lanes)) as lane:
                T.buffer_store(products, acc[i, lane], [slot, at, (j * most + start + i) * lanes + lane])

    def _ahead(self, u: Any, group: Any, size: int, run: Run, start: Any, most: int, ey: Any,
               ex: Any) -> list[Callable]:
        """The next point's weights, which lie behind this one's: each tile fetches its share of them."""
        lanes = self.cpu.lanes
        per_block = lanes * lanes // 16
        share = ceildiv(size * per_block, max(1, most // run.size))
        if share > MOST_AHEAD:
            return []
        found = []
        for more in range(share):
            line = bound(tirx.Min(tirx.floordiv(start, i64(run.size)) * share + more, i64(size * per_block - 1)))
            block, part = bound(tirx.floordiv(line, i64(per_block))), bound(tirx.floormod(line, i64(per_block)))
            found.append(lambda outer, b=block, p=part: u[
                group + b, outer[0] * lanes + p * (16 // lanes) + self.channels, ey, ex, 0])
        return found

    def _transform_back(self, n: Any, slot: Any, products: Any, half: Any, most: int, first: Any, count: Any,
                        group: Any, size: Any) -> None:
        """The results of `size` output blocks from block `group` on."""
        lanes, columns, e, m = self.cpu.lanes, self.grid[1], self.e, self.m
        with T.serial(0, size) as j:
            def each_tile(store: Callable) -> None:
                with T.serial(0, i64(count)) as row, T.serial(0, i64(columns)) as column:
                    place = bound((j * most + row * columns + column) * lanes)
                    _two_sided(winograd.matrices(m)[2], half, slot, lanes,
                               lambda i, k, lane: products[slot, i * e + k, place + lane],
                               lambda y, x, lane, value: self._store(store, (
                                   n, (group + j) * lanes + lane, (first + row) * m + y, column * m + x), x, value))

            self.kernel.each((group + j) * lanes, each_tile)

    def _store(self, store: Callable, index: tuple[Any, Any, Any, Any], x: int, value: Any) -> None:
        """One result with its bias, unless it is beyond the map; `x` is its column in the tile."""
        bias = self.kernel.operands[2:]
        conditions = [p < i64(size) for p, size, reach in zip(index[2:], self.out, (self.m - 1, x))
                      if size % self.m and reach >= size % self.m]

        def emit() -> None:
            store(index, value + bias[0](index[1]) if bias else value)

        if not conditions:
            emit()
            return
        with T.If(tirx.all(*conditions) if len(conditions) > 1 else conditions[0]), T.Then():
            emit()


@dataclass(frozen=True)
class _Weights:
    """A row of transformed points of a group of output blocks, made of windows; in scratch [e][block, c, lane]."""

    windows: Callable[..., Any]
    matrix: np.ndarray
    row: Any
    coefficients: Any
    channels: int
    lanes: int

    def factors(self, slot: Any) -> None:
        """Writes the transform's matrix, of which a row is read at a time."""
        for i, factor in enumerate(self.matrix.reshape(-1)):
            T.buffer_store(self.coefficients, tirx.const(float(factor), "float32"), [slot, i64(i)])

    def transform(self, slot: Any, group: Any, size: int, y: Any) -> None:
        """Row `y` of G w G^T for `size` blocks from `group` on."""
        factors = [bound(self.coefficients[slot, y * 3 + i]) for i in range(3)]
        with loops((size, self.channels)) as (j, c):
            def column(k: int, lane: Any) -> Any:
                return sum((factors[i] * self.windows(group + j, c, i64(i), i64(k), lane) for i in range(1, 3)),
                           start=factors[0] * self.windows(group + j, c, i64(0), i64(k), lane))

            _side(self.matrix, self.lanes, column, lambda x, lane, value: T.buffer_store(
                self.row, value, [slot, i64(x), (j * self.channels + c) * self.lanes + lane]))

    def at(self, slot: Any, x: Any, j: Any, channel: Any, lane: Any) -> Any:
        return self.row[slot, x, (j * self.channels + channel) * self.lanes + lane]


def _where(index: Any, tiles: Tiling) -> tuple[Any, Any]:
    """First block and size of group number `index`."""
    *runs, last = tiles.groups
    before = sum(run.count for run in runs)
    first, size = last.piece(index - before), i64(last.size)
    for run in reversed(runs):
        before -= run.count
        inside = index < i64(before + run.count)
        first, size = tirx.Select(inside, run.piece(index - before), first), tirx.Select(inside, i64(run.size), size)
    return first, size


def _odd_lines(elements: int) -> int:
    """At least so many elements, an odd number of cache lines: as a stride it meets every set of a cache."""
    return (ceildiv(elements, 16) | 1) * 16
