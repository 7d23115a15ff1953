"""Compiles one template on blocked tensors, its operands possibly staged, and runs it between guard bands."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi_orcjit
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from compiler import dims, scalar
from compiler.ir import DTYPES, STORED, TensorType
from compiler.layout import PLAIN, Layout
from compiler.ops import REGISTRY, namespace
from compiler.ops.base import Operand
from compiler.schedule.cpu_loops import i64
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu, host

N = dims.symbol("N")
GUARD = 64  # elements on either side of every tensor
HOST = host()
SLOTS = 2   # units are dealt to so many scratch slots


@dataclass(frozen=True)
class Case:
    """A kernel: the op, its attributes, operand types (which may hold `N`) and layouts, the layout of its result.

    relu: whether it has a tail. staged: operands that another case makes; their type is that case's result.
    """

    op: str
    attrs: dict[str, Any]
    types: tuple[TensorType, ...]
    layouts: tuple[Layout, ...]
    layout: Layout
    relu: bool = False
    staged: Mapping[int, Case] = field(default_factory=dict)
    segments: tuple[tuple[int, int], ...] = ()

    @functools.cached_property
    def out(self) -> TensorType:
        return REGISTRY[self.op].infer(namespace(self.attrs), *self.types)

    @property
    def leaves(self) -> list[tuple[TensorType, Layout]]:
        """The tensors in memory that it reads, in order; those of a staged operand in its place."""
        found = []
        for i, pair in enumerate(zip(self.types, self.layouts)):
            found += self.staged[i].leaves if i in self.staged else [pair]
        return found

    def reference(self, arrays: list[np.ndarray]) -> np.ndarray:
        """What it means, in f64. Takes the arrays from the front of the list."""
        xs = [self.staged[i].reference(arrays) if i in self.staged else arrays.pop(0).astype("f8")
              for i in range(len(self.types))]
        value = REGISTRY[self.op].numpy(namespace(self.attrs), *xs)
        return np.maximum(value, 0) if self.relu else value


def strides(layout: Layout, shape: tuple) -> tuple[tuple, Any]:
    """Element strides of the declared buffer and the offset of its origin."""
    steps = layout.strides(shape)
    top, left = layout.halo[:2]
    return steps, (top * steps[2] + left * steps[3] if len(shape) == 4 else 0)


def size_of(layout: Layout, shape: tuple[int, ...]) -> int:
    return int(np.prod(layout.extents(shape)))


def view(memory: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor's elements without its halo, by buffer index, in flat memory."""
    steps, origin = strides(layout, shape)
    inner = replace(layout, halo=(0, 0, 0, 0)).extents(shape)
    return np.lib.stride_tricks.as_strided(memory[origin:], inner, [s * memory.itemsize for s in steps])


def to_buffer(array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.block == 1:
        return array
    if layout.pair > 1:
        outputs, inputs, *taps = array.shape
        return array.reshape(outputs // layout.block, layout.block, inputs // layout.pair, layout.pair, *taps).transpose(
            0, 2, 4, 5, 1, 3)
    split = list(array.shape)
    split[layout.axis:layout.axis + 1] = [split[layout.axis] // layout.block, layout.block]
    return np.moveaxis(array.reshape(split), layout.axis + 1, -1)


def from_buffer(buffer: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    return buffer.reshape(shape) if layout.block == 1 else np.moveaxis(buffer, -1, layout.axis + 1).reshape(shape)


class Compiled:
    """`run(arrays, n)` gives the result of the template for a batch of n, `source("ll" | "asm")` the code."""

    def __init__(self, case: Case, template: Any, cpu: Cpu = HOST, batch: int = 1):
        self.case = case
        symbol = "kernel_under_test"
        types = [*case.leaves, (case.out, case.layout)]
        self.scratch: list[tuple[int, int]] = []
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                T.func_attr({"tirx.noalias": True})
                memory = [T.arg(f"b{i}", T.buffer((tirx.Var(f"s{i}", "int64"),), STORED[t.dtype]))
                          for i, (t, _) in enumerate(types)]
                arena = T.arg("arena", T.buffer((tirx.Var("sa", "int64"),), "float32"))
                size = T.arg("n", T.int64())

                def shape(dims_: Any) -> tuple:
                    return tuple(dims.evaluate(d, {"N": size}, lambda v: tirx.const(v, "int64")) for d in dims_)

                def declare(i: int) -> Any:
                    t, layout = types[i]
                    steps, origin = strides(layout, t.shape)
                    return T.decl_buffer(shape(replace(layout, halo=(0, 0, 0, 0)).extents(t.shape)), STORED[t.dtype],
                                         data=T.address_of(memory[i][GUARD]), strides=list(shape(steps)),
                                         elem_offset=shape([origin])[0])

                def scratch(extents: Any, dtype: str) -> Any:
                    start, bytes = sum(self.scratch), np.dtype(dtype).itemsize
                    self.scratch.append(-(-int(np.prod([int(e) for e in extents])) * bytes // 64) * 16)
                    return T.decl_buffer(extents, dtype, data=arena.data, elem_offset=i64(start * 4 // bytes))

                buffers = [declare(i) for i in range(len(types))]
                numbers = iter(range(len(types)))

                def build(case: Case, last: bool) -> Kernel:
                    operands, staged = [], {}
                    for i, (t, layout) in enumerate(zip(case.types, case.layouts)):
                        if i in case.staged:
                            staged[i] = build(case.staged[i], False)
                            operands.append(Operand(t, shape(t.shape), None, None))
                        else:
                            buffer = buffers[next(numbers)]
                            operands.append(Operand(t, shape(t.shape), lambda idx, b=buffer, l=layout, d=t.dtype:
                                                    scalar.widened(b[l.physical(idx)], d), buffer, layout))

                    def finish(idx: Any, value: Any) -> Any:
                        return tirx.Max(value, tirx.const(0.0, "float32")) if case.relu else value

                    def store(idx: Any, value: Any, segment: int | None = None) -> None:
                        assert last and (segment is not None or not case.segments)
                        T.buffer_store(buffers[-1], scalar.narrowed(finish(idx, value), case.out.dtype),
                                       list(case.layout.physical(idx)))

                    return Kernel("k", REGISTRY[case.op], namespace(case.attrs), operands, case.out,
                                  shape(case.out.shape), case.layout, case.segments, store, finish, scratch, staged)

                work = template(build(case, True), cpu, batch)
                assert work, "the template does not apply"
                if work is not True:  # which says that all of it is emitted
                    assert work.ns > 0
                    with T.serial(0, i64(SLOTS)) as slot:
                        mine = tirx.floordiv(i64(work.units) - slot + (SLOTS - 1), i64(SLOTS))
                        with T.serial(0, mine) as turn:
                            work.emit(turn * SLOTS + slot, slot)
        module = tvm.IRModule({"main": builder.get().with_attr("global_symbol", symbol)})
        with tvm.transform.PassContext(config={"tirx.disable_cse_tir": True}):
            self.executable = tvm.compile(module, tvm.target.Target({**cpu.llvm, "num-cores": SLOTS}))
        self.symbol = symbol

    def source(self, kind: str) -> str:
        return self.executable.mod.inspect_source(kind)

    @functools.cached_property
    def function(self) -> Any:
        """The compiled function, loaded."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.o"
            self.executable.mod.write_to_file(str(path))
            self.module = tvm_ffi_orcjit.default_session().load_module(str(path))
        return self.module.get_function(self.symbol)

    def arguments(self, arrays: list[np.ndarray], n: int) -> list[Any]:
        """Operands with NaN around them and zeros in their halos, the result full of marks, the scratch full of NaN."""
        tensors = []
        for array, (type, layout) in zip(arrays, self.case.leaves):
            memory = np.full(size_of(layout, array.shape) + 2 * GUARD, np.nan, DTYPES[type.dtype])
            memory[GUARD:-GUARD] = 0
            view(memory[GUARD:-GUARD], layout, array.shape)[...] = to_buffer(array, layout)
            tensors.append(memory)
        tensors.append(np.full(size_of(self.case.layout, self.out_shape(n)) + 2 * GUARD, MARK, DTYPES[self.case.out.dtype]))
        tensors.append(np.full(sum(self.scratch) + GUARD, np.nan, "f4"))
        tensors = [t.view("uint16") if t.dtype == "bfloat16" else t for t in tensors]
        return [*map(tvm.runtime.tensor, tensors), n]

    def out_shape(self, n: int) -> tuple[int, ...]:
        return tuple(dims.evaluate(d, {"N": n}) for d in self.case.out.shape)

    def run(self, arrays: list[np.ndarray], n: int = 1) -> np.ndarray:
        """The result for a batch of n. Fails if anything but the result, or behind the scratch, was written."""
        arguments = self.arguments(arrays, n)
        self.function(*arguments)
        memory, shape = arguments[-3].numpy().copy().view(DTYPES[self.case.out.dtype]), self.out_shape(n)
        inside = view(memory[GUARD:-GUARD], self.case.layout, shape)
        result = from_buffer(inside.copy(), self.case.layout, shape)
        inside[...] = MARK
        assert (memory == MARK).all(), "a write outside of the result"
        assert np.isnan(arguments[-2].numpy()[sum(self.scratch):]).all(), "a write behind the scratch"
        return result


MARK = np.float32(-1232.0)  # which bf16 holds


def f32(*shape: Any) -> TensorType:
    return TensorType("f32", shape)


def bf16(*shape: Any) -> TensorType:
    return TensorType("bf16", shape)


def assert_matches(case: Case, template: Any, cpu: Cpu = HOST, batch: int = 1, tolerance: float = 1e-5) -> None:
    """One binary computes what numpy does for several batches, within `tolerance` of the largest (and what rounding it to
    16 bits changes)."""
    rng = np.random.default_rng(7)
    compiled = Compiled(case, template, cpu, batch)
    for n in (1, 3):
        shapes = [tuple(dims.evaluate(d, {"N": n}) for d in t.shape) for t, _ in case.leaves]
        arrays = [rng.normal(size=shape).astype(DTYPES[t.dtype]) for shape, (t, _) in zip(shapes, case.leaves)]
        want = case.reference(list(arrays))
        got = compiled.run(arrays, n).astype("f8")
        if case.out.dtype == "bf16":
            want = want.astype("bfloat16").astype("f8")
            tolerance = max(tolerance, 2.0 ** -8)
            assert np.mean(got == want) > 0.98  # where sums in another order fall on the other side of a half
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, abs(want).max()))
        assert not (got == MARK).any()


__all__ = ["Case", "Compiled", "HOST", "Layout", "N", "PLAIN", "assert_matches", "bf16", "f32"]
