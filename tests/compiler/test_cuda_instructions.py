"""The header of instructions: CUDA's compilers take it, and a program's CUDA C has it where a kernel calls one of them."""

from pathlib import Path

import pytest
import tvm
from tvm import tirx
from tvm.ir import IRModule, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

import compiler
from compiler import cuda
from compiler.cuda import find_compiler
from runtime.errors import NetcError

HEADER = (Path(compiler.__file__).parent / "cuda_instructions.h").read_text()
ALL = """
extern "C" __global__ void all(float* d, uint4* a, float* c, unsigned* counter) {
  __shared__ __align__(16) uint4 s[256];
  float r[4] = {}, t[6];
  unsigned x[4], y[4];
  netc_cp_async_16(s + threadIdx.x, a + threadIdx.x, threadIdx.x < 7 ? 16 : 0);
  netc_cp_async_8(s + 64 + threadIdx.x, a + threadIdx.x, 8);
  netc_cp_async_4(s + 128 + threadIdx.x, a + threadIdx.x, 4);
  netc_cp_async_commit();
  netc_cp_async_wait(1);
  netc_cp_async_wait_all();
  __syncthreads();
  netc_ldmatrix_x4(x, s + threadIdx.x);
  netc_ldmatrix_x2_trans(y, s + threadIdx.x);
  netc_ldmatrix_x1(y + 2, s + threadIdx.x);
  netc_mma_m16n8k16_f16(r, x, y);
  netc_mma_m16n8k16_bf16(r, x, y);
  netc_mma_m16n8k8_f16(r, x, y);
  for (int i = 0; i < 6; ++i) t[i] = netc_tf32(c[i + threadIdx.x]);
  netc_mma_m16n8k8_tf32(r, t, t + 4);
  netc_copy_16(d + threadIdx.x * 4, r);
  if (netc_last_block(counter, gridDim.x)) netc_copy_16(d, x);
}
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_cudas_compiler_takes_every_instruction(arch):
    try:
        nvidia = find_compiler()
    except NetcError as error:
        pytest.skip(error.message)
    assert nvidia.compile(HEADER + ALL, arch, {})[:4] == b"\x7fELF"


def module(call: bool) -> IRModule:
    with IRBuilder() as ib, T.prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        data = T.arg("x", T.handle("float32"))
        T.func_ret(PrimType("int32"))
        x = T.decl_buffer((32,), "float32", data=data)
        with T.launch_thread("threadIdx.x", 32) as thread:
            value = x[thread]
            T.buffer_store(x, T.call_extern("float32", "netc_tf32", value) if call else value + tirx.const(1.0, "float32"), [thread])
        T.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
    mod = IRModule({"kernel": ib.get()})
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("run")
        x = T.arg("x", T.buffer((32,), "float32"))
        T.evaluate(tvm.ir.Call(mod.get_global_var("kernel"), [x.data], ret_ty="int32"))
    mod["run"] = ib.get().with_attr("global_symbol", "run")
    return mod


@pytest.mark.parametrize("call", [True, False])
def test_the_header_is_there_where_it_is_used(call):
    source = cuda.source(module(call))
    assert (HEADER in source) == call
    assert ("netc_tf32(" in source.partition('extern "C" __global__')[2]) == call
