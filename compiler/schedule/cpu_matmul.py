"""Matrix products on the CPU, register-tiled in the three forms that dense layers and their gradients have.

x · wᵀ (both rows contiguous along the reduction): vectors run along the reduction and are summed across at the end;
one row of x is a matrix-vector product that reads w once, four rows at a time. x · w and xᵀ · w: vectors run along
the columns of w, elements of x are broadcast. The number of rows and the length of the reduction may be symbolic.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_loops import PARALLEL_NS, Piece, ceildiv, i64, loops, pieces, rows_per_tile, static
from compiler.schedule.cpu_loops import known as product_of
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu

MACS_PER_NS = 15
DOT_ROWS, DOT_COLUMNS = 3, 4  # of a tile of dot products


def emit_matmul(kernel: Kernel, cpu: Cpu, batch: int) -> bool:
    """Emits `matmul`; False (and nothing emitted) where this template does not apply."""
    x, y, *_ = kernel.operands
    a = kernel.a
    plain = all(o.computed and o.buffer is not None for o in kernel.operands[:2])
    depth = x.shape[0 if a.transpose_a else 1]
    if not plain or static(kernel.shape[1]) is None:
        return False
    work = product_of([*kernel.shape, depth], batch) / MACS_PER_NS
    parallel = work > PARALLEL_NS and cpu.llvm.get("num-cores", 1) > 1
    if not a.transpose_b:
        _Broadcast(kernel, cpu, depth, parallel).emit()
        return True
    if not a.transpose_a and static(depth) is not None:
        _Dot(kernel, cpu, static(depth), parallel).emit()
        return True
    return False


class _Product:
    def __init__(self, kernel: Kernel, cpu: Cpu, depth: Any, parallel: bool):
        self.kernel, self.cpu, self.depth = kernel, cpu, depth
        self.x, self.y, *bias = kernel.operands
        self.bias = bias[0] if bias else None
        self.rows, self.columns = kernel.shape[0], static(kernel.shape[1])
        self.loop = T.parallel if parallel else T.serial

    def _row_tiles(self, size: int, tile: Any) -> None:
        """`tile(row, count)` over all rows, `size` at a time; what is left of a symbolic number goes one by one."""
        rows = static(self.rows)
        if rows is None:
            whole = tirx.floordiv(self.rows, i64(size))
            with T.serial(0, whole) as turn:
                tile(turn * size, size)
            with T.serial(0, self.rows - whole * size) as rest:
                tile(whole * size + rest, 1)
            return
        if rows >= size:
            with loops([rows // size]) as (turn,):
                tile(turn * size, size)
        if rows % size:
            tile(i64(rows - rows % size), rows % size)


class _Broadcast(_Product):
    """Lanes along the columns of y."""

    def emit(self) -> None:
        cut = pieces(self.columns, self.cpu.lanes, spare=False)
        total = sum(count for _, count, _ in cut)
        with self.loop(0, i64(total)) as turn:
            done = 0
            with_branch = len(cut) > 1
            for piece, count, step in cut:
                if with_branch:
                    with T.If(tirx.all(turn >= i64(done), turn < i64(done + count))), T.Then():
                        self._columns(piece, (turn - done) * step)
                else:
                    self._columns(piece, turn * step)
                done += count

    def _columns(self, piece: Piece, column: Any) -> None:
        vectors = len(piece.starts)
        size = min(rows_per_tile(self.cpu, vectors), 8)
        self._row_tiles(size, lambda row, count: self._tile(row, count, piece, column))

    def _tile(self, row: Any, m: int, piece: Piece, column: Any) -> None:
        lanes = i64(piece.lanes)
        sums = [T.alloc_buffer((m, piece.lanes), "float32") for _ in piece.starts]
        with T.unroll(0, i64(m)) as i:
            for acc, start in zip(sums, piece.starts):
                with T.vectorized(0, lanes) as lane:
                    first = self.bias(column + start + lane) if self.bias is not None else tirx.const(0.0, "float32")
                    T.buffer_store(acc, first, [i, lane])
        with T.serial(0, i64(self.depth)) as k, T.unroll(0, i64(m)) as i:
            value = self.x(k, row + i) if self.kernel.a.transpose_a else self.x(row + i, k)
            for acc, start in zip(sums, piece.starts):
                with T.vectorized(0, lanes) as lane:
                    T.buffer_store(acc, acc[i, lane] + value * self.y(k, column + start + lane), [i, lane])
        with T.unroll(0, i64(m)) as i:
            for acc, start, (skip, count) in zip(sums, piece.starts, piece.stored):
                with T.vectorized(0, i64(count)) as lane:
                    self.kernel.store((row + i, column + start + skip + lane), acc[i, lane + skip])


class _Dot(_Product):
    """Lanes along the reduction."""

    def emit(self) -> None:
        n = DOT_COLUMNS
        whole, rest = divmod(self.columns, n)
        with self.loop(0, i64(ceildiv(self.columns, n))) as turn:
            if not rest:
                self._columns(turn * n, n)
            elif not whole:
                self._columns(i64(0), rest)
            else:
                with T.If(turn < whole):
                    with T.Then():
                        self._columns(turn * n, n)
                    with T.Else():
                        self._columns(i64(whole * n), rest)

    def _columns(self, column: Any, n: int) -> None:
        size = max(1, (self.cpu.registers - 2) // (n + 1)) if self.cpu.registers > 16 else DOT_ROWS
        self._row_tiles(size, lambda row, count: self._tile(row, count, column, n))

    def _tile(self, row: Any, m: int, column: Any, n: int) -> None:
        # One row alone needs more than n sums in flight to hide the latency of an FMA.
        width = self.cpu.lanes * (2 if m == 1 else 1)
        while width > self.depth:
            width //= 2
        lanes = i64(width)
        sums = [[T.alloc_buffer((width,), "float32") for _ in range(n)] for _ in range(m)]
        rest = [T.alloc_buffer((n,), "float32") for _ in range(m)]
        at = [(i, j) for i in range(m) for j in range(n)]
        for i, j in at:
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(sums[i][j], tirx.const(0.0, "float32"), [lane])
            start = self.bias(column + j) if self.bias is not None else tirx.const(0.0, "float32")
            T.buffer_store(rest[i], start, [j])
        whole = self.depth // width
        with T.serial(0, i64(whole)) as k:
            for i, j in at:
                with T.vectorized(0, lanes) as lane:
                    acc, step = sums[i][j], k * width + lane
                    T.buffer_store(acc, acc[lane] + self.x(row + i, step) * self.y(column + j, step), [lane])
        if self.depth % width:
            with T.serial(0, i64(self.depth % width)) as tail:
                for i, j in at:
                    step = tail + whole * width
                    T.buffer_store(rest[i], rest[i][j] + self.x(row + i, step) * self.y(column + j, step), [j])
        half = width // 2
        while half:
            for i, j in at:
                with T.vectorized(0, i64(half)) as lane:
                    T.buffer_store(sums[i][j], sums[i][j][lane] + sums[i][j][lane + half], [lane])
            half //= 2
        for i in range(m):
            for j in range(n):
                T.buffer_store(rest[i], rest[i][j] + sums[i][j][0], [j])
            with T.vectorized(0, i64(n)) as j:
                self.kernel.store((row + i, column + j), rest[i][j])
