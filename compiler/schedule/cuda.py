"""CUDA schedules: kernels that share a launch become blocks of one grid. The op's name chooses the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from compiler.gpus import GPUS, USUAL, Gpu
from compiler.schedule.cuda_conv import emit_conv, emit_conv_input_grad, emit_conv_weight_grad, emit_matmul
from compiler.schedule.cuda_generic import emit_generic
from compiler.schedule.cuda_index import Grid, Room, bind, i32
from compiler.schedule.cuda_reduce import emit_reduce
from compiler.schedule.kernel import Kernel

# Tried in order. A template returns its blocks, or None where it does not apply; then reductions and
# the generic one make the kernel.
TEMPLATES: dict[str, tuple[Callable[[Kernel, int, Room], Grid | None], ...]] = {
    "conv": (emit_conv,),
    "conv_input_grad": (emit_conv_input_grad,),
    "conv_weight_grad": (emit_conv_weight_grad,),
    "matmul": (emit_matmul,),
}
BLOCKS = 128, 256, 64  # threads of a block that variants of a kernel have
SHARED_LAUNCH = 128  # threads of a block, where kernels share a launch


def emit(kernels: Sequence[Kernel], batch: int, gpu: Gpu = GPUS[USUAL], rank: int = 0) -> None:
    """Emit the kernels of one launch, none of which reads what another writes, into the current function of the IR builder.

    batch: what a symbolic extent counts for where a choice needs a number; it changes speed and rounding only.
    rank: 0 for what is predicted to be best, 1 and 2 for the best of blocks of other sizes, for `netc tune`.
    The function holds nothing else but declarations, takes pointers and numbers, and returns nothing.
    """
    grids = [_grid(kernel, batch, Room(gpu)) for kernel in kernels]
    if len(grids) > 1:
        # Each is made for its part of the GPU, in proportion to predicted time.
        total = sum(grid.seconds for grid in grids) or 1.0
        parts = [max(1, round(gpu.sms * grid.seconds / total)) for grid in grids]
        grids = [_grid(kernel, batch, Room(gpu, SHARED_LAUNCH, part)) for kernel, part in zip(kernels, parts)]
    if rank:
        threads = [size for size in BLOCKS if size != grids[0].threads][rank - 1]
        grids = [_grid(kernel, batch, Room(gpu, threads)) for kernel in kernels]
    grids.sort(key=lambda grid: -grid.seconds)  # long blocks begin first
    counts = [i32(grid.blocks) for grid in grids]
    words = max(grid.words for grid in grids)
    with T.launch_thread("blockIdx.x", sum(counts[1:], start=counts[0])) as block:
        with T.launch_thread("threadIdx.x", grids[0].threads) as thread:
            shared = T.alloc_buffer((words,), "float32", scope="shared") if words else None
            _branch(list(zip(grids, counts)), i32(block), i32(thread), shared, 0)


def _grid(kernel: Kernel, batch: int, room: Room) -> Grid:
    for template in TEMPLATES.get(kernel.op.name, ()):
        if grid := template(kernel, batch, room):
            return grid
    return emit_reduce(kernel, batch, room) or emit_generic(kernel, room.threads)


def _branch(grids: Sequence[tuple[Grid, Any]], block: Any, thread: Any, shared: Any, counter: int) -> None:
    """Each grid's own blocks, one grid behind the other."""
    (grid, count), *rest = grids
    if not rest:
        grid.emit(block, thread, shared, counter)
        return
    with T.If(block < count):
        with T.Then():
            grid.emit(block, thread, shared, counter)
        with T.Else():
            _branch(rest, bind(block - count), thread, shared, counter + grid.counters)
