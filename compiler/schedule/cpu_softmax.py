"""Softmax and its logarithm on the CPU along the last axis: a row is read once, its exponentials stay in cache."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import scalar
from compiler.schedule.cpu_loops import i64, known, loops, static, unflatten
from compiler.schedule.kernel import Kernel, Work
from compiler.target import Cpu

NS_PER_VECTOR = 8.0  # of exponentials


def emit_softmax(kernel: Kernel, cpu: Cpu, batch: int) -> Work | None:
    """One piece of work for each row; None where the axis is not the last, or its size is not known."""
    size = static(kernel.shape[-1])
    if kernel.a.axis != len(kernel.shape) - 1 or size is None or kernel.out.dtype != "f32":
        return None
    rows = kernel.shape[:-1]
    units = prod(rows, start=i64(1))
    threads = cpu.llvm.get("num-cores", 1)
    lanes = cpu.lanes
    whole, rest = divmod(size, lanes)
    shifted = kernel.scratch((i64(threads), i64(size)), "float32")
    x = kernel.operands[0]

    def emit(unit: Any, slot: Any) -> None:
        index = unflatten(unit, rows)
        best = T.alloc_buffer((lanes,), "float32")
        total = T.alloc_buffer((lanes,), "float32")
        one = T.alloc_buffer((2,), "float32")
        with T.vectorized(0, i64(lanes)) as lane:
            T.buffer_store(best, tirx.const(float("-inf"), "float32"), [lane])
        with T.vectorized(0, i64(lanes)) as lane:
            T.buffer_store(total, tirx.const(0.0, "float32"), [lane])
        _vectors(whole, rest, lanes, lambda at, lane: T.buffer_store(
            best, tirx.Max(best[lane], x(*index, at + lane)), [lane]))
        _fold(best, lanes, tirx.Max)
        T.buffer_store(one, best[0], [0])

        def exponential(at: Any, lane: Any) -> None:
            value = x(*index, at + lane) - one[0]
            e = scalar.exp(value)
            T.buffer_store(shifted, e if kernel.op.name == "softmax" else value, [slot, at + lane])
            T.buffer_store(total, total[lane] + e, [lane])

        _vectors(whole, rest, lanes, exponential)
        _fold(total, lanes, tirx.Add)
        if kernel.op.name == "softmax":
            T.buffer_store(one, tirx.const(1.0, "float32") / total[0], [1])
        else:
            T.buffer_store(one, T.log(total[0]), [1])

        def finish(at: Any, lane: Any) -> None:
            value = shifted[slot, at + lane]
            kernel.store((*index, at + lane), value * one[1] if kernel.op.name == "softmax" else value - one[1])

        _vectors(whole, rest, lanes, finish)

    return Work(units, known(kernel.shape, batch) / lanes * NS_PER_VECTOR, emit)


def _vectors(whole: int, rest: int, lanes: int, emit: Any) -> None:
    """emit(first, lane) over a row: full vectors, and a shorter one."""
    if whole:
        with loops([whole]) as (turn,), T.vectorized(0, i64(lanes)) as lane:
            emit(turn * lanes, lane)
    if rest:
        with T.vectorized(0, i64(rest)) as lane:
            emit(i64(whole * lanes), lane)


def _fold(buffer: Any, lanes: int, combine: Any) -> None:
    """Combines all lanes into the first, halving."""
    half = lanes // 2
    while half:
        with T.vectorized(0, i64(half)) as lane:
            T.buffer_store(buffer, combine(buffer[lane], buffer[lane + half]), [lane])
        half //= 2
