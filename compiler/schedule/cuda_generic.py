"""The generic CUDA schedule: any op becomes one correct kernel, a thread for each element of the result."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from compiler.ops.base import Reduce
from compiler.schedule.cuda_index import Grid, bind, i64, static, unflatten
from compiler.schedule.cuda_reduce import Accumulator, compute
from compiler.schedule.kernel import Kernel

THREADS = 256
UNROLLED = 32  # elements of a window whose loops are written out


def emit_generic(kernel: Kernel, threads: int | None) -> Grid:
    """The blocks of any kernel."""
    threads = threads or THREADS
    count = i64(1)
    for extent in kernel.shape:
        count = count * i64(extent)

    def emit(block: Any, thread: Any, *_: Any) -> None:
        flat = bind(i64(block) * threads + i64(thread))
        with T.If(flat < count), T.Then():
            _emit_element(kernel, flat)

    return Grid((count + (threads - 1)) // threads, threads, emit)


def _emit_element(kernel: Kernel, flat: Any) -> None:
    # Neighbouring threads store neighbours in memory.
    index = [bind(i) for i in kernel.layout.logical(unflatten(flat, kernel.layout.physical(kernel.shape)))]
    element = compute(kernel, index)
    if isinstance(element, Reduce):
        element = _reduced(element)
    kernel.store(tuple(index), element)


def _reduced(reduce: Reduce) -> Any:
    """All elements one after the other."""
    best = Accumulator(reduce)
    best.clear()
    sizes = [static(extent) for extent in reduce.extents]
    count = i64(1)
    for extent in reduce.extents:
        count = count * i64(extent)
    if None in sizes or static(count) is None or static(count) > UNROLLED:
        with T.serial(0, count) as step:
            best.add(step)
        return best.finish()
    frames, index, flat = [], [], i64(0)
    for size in sizes:
        frames.append(T.unroll(0, i64(size)))
        index.append(frames[-1].__enter__())
        flat = flat * size + index[-1]
    best.add_at(flat, index)
    for frame in reversed(frames):
        frame.__exit__(None, None, None)
    return best.finish()
