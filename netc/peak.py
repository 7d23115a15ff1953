"""What one core can do at most: a loop of vector multiply-adds without memory, compiled for this machine and timed.

The yardstick beside measured kernels: a clock that other processes or heat slow down slows it down too.
"""

from __future__ import annotations

import time

import numpy as np
from tvm import tirx
from tvm.ir import PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from compiler import codegen, target
from compiler.schedule.cpu_loops import i64
from runtime import native
from runtime.arrays import address, aligned

CHAINS = 12  # independent sums: a multiply-add takes 4 or 5 cycles and two start in each
STEPS = 20_000


def measure(cpu: target.Cpu | None = None, seconds: float = 0.05) -> float:
    """FLOP/s of one core at its best moment within about `seconds`."""
    cpu = cpu or target.host()
    module = native.load(codegen.compile_functions({"peak": _loop(cpu)}, cpu.llvm))
    values = aligned((CHAINS * cpu.lanes,), np.dtype(np.float32))
    values[...] = 1.0
    call = native.Call(native.member(module, "peak"), [native.tensor(address(values), values.shape, values.dtype)])
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.perf_counter()
        call([address(values)], STEPS, 0)
        best = min(best, time.perf_counter() - start)
    return 2 * STEPS * CHAINS * cpu.lanes / best


def _loop(cpu: target.Cpu) -> tirx.PrimFunc:
    """`values` = values·0.5 + 0.25, `steps` times."""
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("peak")
        T.func_attr({"global_symbol": "peak", "tirx.noalias": True})
        values = T.arg("values", T.buffer((CHAINS * cpu.lanes,), "float32"))
        steps = T.arg("steps", T.int64())
        T.arg("unused", T.int64())
        T.func_ret(PrimType("int32"))
        sums = T.alloc_buffer((CHAINS, cpu.lanes), "float32")
        with T.unroll(0, i64(CHAINS)) as chain, T.vectorized(0, i64(cpu.lanes)) as lane:
            T.buffer_store(sums, values[chain * cpu.lanes + lane], [chain, lane])
        with T.serial(0, steps), T.unroll(0, i64(CHAINS)) as chain, T.vectorized(0, i64(cpu.lanes)) as lane:
            T.buffer_store(sums, sums[chain, lane] * tirx.const(0.5, "float32") + tirx.const(0.25, "float32"), [chain, lane])
        with T.unroll(0, i64(CHAINS)) as chain, T.vectorized(0, i64(cpu.lanes)) as lane:
            T.buffer_store(values, sums[chain, lane], [chain * cpu.lanes + lane])
        T.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
    return ib.get()
