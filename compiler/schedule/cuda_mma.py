"""Matrix products on tensor cores: tiles as in `cuda_gemm`, multiplied by warps with mma.m16n8k8 of tf32.

Operands of 16 bits lie in shared memory as f32, of which tf32 has all that f16 and bf16 have: products are exact, sums f32.
Rows in shared memory are 8 words longer than the tile: a fragment's 8 rows of 4 k are in 32 different banks.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.gpus import WARP
from compiler.ops.base import products
from compiler.schedule.cuda_gemm import Emitter, where
from compiler.schedule.cuda_index import bind, i32, truncdiv

M, N, K = 16, 8, 8  # of one instruction


class TensorEmitter(Emitter):
    """The statements of one block whose warps multiply thread_m x thread_n of the tile each."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        if products(self.kernel.a) == "tf32":
            self.round = lambda value: T.call_extern("float32", "netc_tf32", value)

    def within(self, thread: Any) -> tuple[Any, Any]:
        """The first column and row of a warp's part, each with where the thread is in a fragment."""
        tile, lane, warp = self.tile, tirx.truncmod(thread, i32(WARP)), truncdiv(thread, WARP)
        wide = tile.n // tile.thread_n
        across = bind(tirx.truncmod(warp, i32(wide))) * tile.thread_n
        down = bind(truncdiv(warp, wide)) * tile.thread_m
        return (across, bind(tirx.truncmod(lane, i32(4)))), (down, bind(truncdiv(lane, 4)))

    def multiply(self, shared: Any, sums: Any, across: Any, down: Any, half: Any) -> None:
        tile, (column, t), (row, g) = self.tile, across, down
        rows, columns = tile.thread_m // M, tile.thread_n // N
        a, b = (T.alloc_buffer((count,), "float32", scope="local") for count in (4 * rows, 2 * columns))
        (length, breadth), (start, begin) = self.lengths, self.starts
        first = bind(half * (tile.k * length) + start + t * length + row + g)
        second = bind(half * (tile.k * breadth) + begin + t * breadth + column + g)
        with T.unroll(0, tile.k // K) as k:
            with T.unroll(0, rows) as i, T.unroll(0, 4) as j:
                at = (k * K + truncdiv(j, 2) * 4) * length + i * M + tirx.truncmod(j, i32(2)) * 8
                T.buffer_store(a, shared[first + at], [i * 4 + j])
            with T.unroll(0, columns) as i, T.unroll(0, 2) as j:
                T.buffer_store(b, shared[second + (k * K + j * 4) * breadth + i * N], [i * 2 + j])
            with T.unroll(0, rows) as i, T.unroll(0, columns) as j:
                T.evaluate(T.call_extern("int32", "netc_mma_m16n8k8_tf32", T.address_of(sums[(i * columns + j) * 4]),
                                         T.address_of(a[i * 4]), T.address_of(b[j * 2])))

    def store(self, sums: Any, group: Any, first: tuple[Any, Any], across: Any, down: Any) -> None:
        tile, product, (column, t), (row, g) = self.tile, self.product, across, down
        columns, width = tile.thread_n // N, min(2, self.product.vector)
        with T.unroll(0, tile.thread_m // M) as i, T.unroll(0, 2) as half:
            m = first[0] + row + i * M + half * 8 + g
            with where(None if self.whole(product.a, tile.m) else m < i32(product.a.extent)):
                place = [bind(value) for value in product.result(group, m)]
                with T.unroll(0, columns) as j, T.unroll(0, 2 // width) as rest:
                    n = first[1] + column + j * N + t * 2 + rest * width
                    with where(None if self.whole(product.b, tile.n) else n < i32(product.b.extent)):
                        at = (i * columns + j) * 4 + half * 2 + rest * width
                        product.store(place, group, n, lambda lane, at=at: sums[at + lane], width)
