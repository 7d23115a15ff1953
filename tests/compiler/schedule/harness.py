"""Compiles one kernel with a symbolic batch, and runs it between guard bands."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi_orcjit
from tvm import tirx
from tvm.ir import PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from compiler import dims, scalar
from compiler.ir import DTYPES, TensorType
from compiler.layout import PLAIN
from compiler.ops import REGISTRY, namespace
from compiler.ops.base import Operand
from compiler.schedule import cpu as schedule
from compiler.schedule.kernel import Kernel
from compiler.target import Cpu, host

N = dims.symbol("N")
GUARD = 64  # elements on either side of the result
HOST = host()


@dataclass(frozen=True)
class Case:
    """A kernel to build: the op, its attributes, operand types (which may hold `N`).

    inline: {operand: (stored dtype, function of t and the stored element)} for an operand whose producer is computed in
    the reads; tail: function of t, value, and the extra operands at the index, for an epilogue; extra: their types.
    """

    op: str
    attrs: dict[str, Any]
    types: tuple[TensorType, ...]
    inline: dict[int, tuple[str, Any]] = None
    tail: Any = None
    extra: tuple[TensorType, ...] = ()


class Compiled:
    """`run(arrays, n)` gives the result, `source("ll" | "asm")` the code."""

    def __init__(self, case: Case, cpu: Cpu = HOST, batch: int = 1):
        symbol = "kernel_under_test"
        self.case, self.scratch_bytes = case, 0
        op, attrs = REGISTRY[case.op], namespace(case.attrs)
        self.out = op.infer(attrs, *case.types)
        inline = case.inline or {}
        stored = [t if i not in inline else TensorType(inline[i][0], t.shape) for i, t in enumerate(case.types)]
        self.stored = [*stored, *case.extra]
        with IRBuilder() as inner:
            with T.prim_func(is_private=True, s_tir=True):
                T.func_attr({"tirx.noalias": True})
                pointers = [T.arg(f"p{i}", T.handle(DTYPES[t.dtype])) for i, t in enumerate([*self.stored, self.out])]
                arena, size = T.arg("arena", T.handle("float32")), T.arg("n", T.int64())
                T.func_ret(PrimType("int32"))

                def shape(t: TensorType) -> tuple:
                    return tuple(dims.evaluate(d, {"N": size}, lambda v: tirx.const(v, "int64")) for d in t.shape)

                buffers = [T.decl_buffer(shape(t) or (1,), DTYPES[t.dtype], data=p)
                           for t, p in zip([*self.stored, self.out], pointers)]
                offset = tirx.const(0, "int64")

                def scratch(extent, dtype):
                    nonlocal offset
                    assert dtype == "float32"
                    buffer = T.decl_buffer(extent, dtype, data=arena, elem_offset=offset)
                    count = tirx.const(1, "int64")
                    for e in extent:
                        count = count * e
                    offset = offset + tirx.floordiv(count + 15, 16) * 16
                    return buffer

                def operand(i: int, t: TensorType) -> Operand:
                    buffer = buffers[i]
                    if i not in inline:
                        return Operand(t, shape(t), lambda idx: buffer[idx or (0,)], buffer)
                    return Operand(t, shape(t), lambda idx: inline[i][1](scalar, buffer[idx]))

                def finish(idx, value):
                    if case.tail:
                        rest = [operand(len(stored) + i, t).broadcast(idx) for i, t in enumerate(case.extra)]
                        value = case.tail(scalar, value, *rest)
                    return value

                def store(idx, value):
                    T.buffer_store(buffers[-1], finish(idx, value), list(idx) or [0])

                kernel = Kernel("k", op, attrs, [operand(i, t) for i, t in enumerate(case.types)], self.out,
                                shape(self.out), PLAIN, (), store, finish, scratch, {})
                schedule.emit([kernel], cpu, batch)
                T.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
        self.body = inner.get()
        self.scratch_size = (size, offset * 4)
        module = tvm.IRModule({"k": self.body})
        callee = module.get_global_var("k")
        with IRBuilder() as outer:
            with T.prim_func(s_tir=True):
                args = [T.arg(f"b{i}", T.buffer((tirx.Var(f"s{i}", "int64"),), DTYPES[t.dtype]))
                        for i, t in enumerate([*self.stored, self.out])]
                arena = T.arg("arena", T.buffer((tirx.Var("sa", "int64"),), "float32"))
                size = T.arg("n", T.int64())
                pointers = [arg.data for arg in args]
                pointers[-1] = T.address_of(args[-1][GUARD])
                T.evaluate(tvm.ir.Call(callee, [*pointers, arena.data, size], ret_ty="int32"))
        module["main"] = outer.get().with_attr("global_symbol", symbol)
        self.executable = tvm.compile(module, tvm.target.Target(cpu.llvm))
        self.symbol = symbol

    def source(self, kind: str) -> str:
        return self.executable.mod.inspect_source(kind)

    def prepare(self, arrays, n: int):
        """The arguments of a call as TVM tensors, and where the result is in the last but one."""
        (var, size), = [self.scratch_size]
        need = int(tvm.sym.Analyzer().simplify(_bind(size, var, n))) + 64
        out_shape = tuple(dims.evaluate(d, {"N": n}) for d in self.out.shape)
        dtype = DTYPES[self.out.dtype]
        guarded = np.empty(int(np.prod(out_shape)) + 2 * GUARD, dtype)
        guarded.view("uint8")[:] = 0xA5
        flat = [np.ascontiguousarray(a, DTYPES[t.dtype]).reshape(-1) for a, t in zip(arrays, self.stored)]
        args = [tvm.runtime.tensor(a if a.size else np.zeros(1, a.dtype)) for a in flat]
        result = tvm.runtime.tensor(guarded)
        arena = np.empty(need // 4 + 16, "float32")
        arena.view("uint8")[:] = 0xFF  # scratch that is read before it is written shows as NaN
        return [*args, result, tvm.runtime.tensor(arena), n], out_shape

    @functools.cached_property
    def function(self):
        """The compiled function, loaded."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.o"
            self.executable.mod.write_to_file(str(path))
            self.module = tvm_ffi_orcjit.default_session().load_module(str(path))
        return self.module.get_function(self.symbol)

    def reference(self, arrays) -> np.ndarray:
        """What the op means, in f64 where the operands are floating-point."""
        wide = [a.astype("float64") if np.issubdtype(a.dtype, np.floating) else a for a in map(np.asarray, arrays)]
        return REGISTRY[self.case.op].numpy(namespace(self.case.attrs), *wide)

    def run(self, arrays, n: int = 1) -> np.ndarray:
        """The result for a batch of n. Fails if anything outside of it, or behind the scratch, was written."""
        args, shape = self.prepare(arrays, n)
        self.function(*args)
        got = args[-3].numpy()
        for side in (got[:GUARD], got[-GUARD:]):
            assert (side.view("uint8") == 0xA5).all(), "a write outside of the result"
        assert (args[-2].numpy()[-16:].view("uint8") == 0xFF).all(), "a write behind the scratch"
        return got[GUARD:got.size - GUARD].reshape(shape)


def f32(*shape) -> TensorType:
    return TensorType("f32", shape)


def assert_matches(case: Case, cpu: Cpu = HOST, batch: int = 1) -> None:
    """One binary, compiled for the design batch, computes what numpy does for several batches."""
    rng = np.random.default_rng(7)
    compiled = Compiled(case, cpu, batch)
    for n in (1, 2, 5):
        arrays = [rng.integers(0, 200, s).astype(DTYPES[t.dtype]) if not t.is_float else rng.normal(size=s).astype("f4")
                  for t in case.types for s in [tuple(dims.evaluate(d, {"N": n}) for d in t.shape)]]
        want = compiled.reference(arrays)
        got = compiled.run(arrays, n)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, abs(want).max(initial=0)))


def _bind(expr, var, value):
    """`expr` for one value of the batch."""
    analyzer = tvm.sym.Analyzer()
    analyzer.bind(var, tirx.const(value, "int64") if isinstance(value, int) else value)
    return analyzer.simplify(expr)
