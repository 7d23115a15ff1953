"""Which way a matrix product is made on CUDA: on tensor cores or not, and in which tiles."""

from __future__ import annotations

from compiler.ir import LOW
from compiler.ops.base import products
from compiler.schedule.cuda_gemm import Emitter, Product
from compiler.schedule.cuda_index import Grid, Room, assumed
from compiler.schedule.cuda_mma import TensorEmitter
from compiler.schedule.cuda_tiles import Gemm, Tile, rank
from compiler.schedule.kernel import Kernel

KEPT = 92  # registers of 128; the rest is for addresses and for what is multiplied next
# For products smaller than any tile of the threads that are wanted.
SMALL, SMALL_TENSOR = Tile(32, 64, 8, 4, 4), Tile(32, 64, 8, 16, 32, dtype="tf32")


def plan(product: Product, kernel: Kernel, batch: int, room: Room) -> Grid | None:
    """The blocks of a product that makes `kernel`. None where operands
    are to be rounded to what the GPU does not know."""
    m, n, k = (assumed(extent, batch) for extent in (product.a.extent, product.b.extent, product.extent))
    if tensor_cores(kernel) and "tf32" in room.gpu.tensor:
        emitter, dtype, small = TensorEmitter, "tf32", SMALL_TENSOR
    elif products(kernel.a):
        return None
    else:
        emitter, dtype, small = Emitter, "f32", SMALL
    tiles = [tile for tile in rank(Gemm(m, n, k, product.groups, dtype, run=product.run), room.gpu, room.sms, count=1000)
             if (product.run or tile.k) % tile.k == 0 and kept(product, tile) <= KEPT]
    for wanted in ((room.threads,),) if room.threads else ((128, 256), (64, 32)):
        if tile := next((tile for tile in tiles if tile.threads in wanted), None):
            return emitter(product, kernel, tile, batch).grid
    return emitter(product, kernel, small, batch).grid


def tensor_cores(kernel: Kernel) -> bool:
    """Whether products of tf32 are what the kernel asks for, or as exact as its operands: those that memory holds in 16 bits
    fit into tf32."""
    return products(kernel.a) == "tf32" or all(x.type.dtype in LOW and x.buffer is not None for x in kernel.operands[:2])


def kept(product: Product, tile: Tile) -> int:
    """Registers of a thread for sums, for what is on its way to shared memory, and for the places of the rows it reads."""
    rows = sum(max(1, min(8, tile.k) // side.vector * size // tile.threads) if side.along == "k" else 1
               for side, size in ((product.a, tile.m), (product.b, tile.n)))
    return (tile.m * tile.n + (tile.m + tile.n) * tile.k) // tile.threads + 4 * rows
