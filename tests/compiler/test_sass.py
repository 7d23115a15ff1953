"""Instructions counted from what nvdisasm prints: the main loop found, products, loads and their widths."""

import pytest

from compiler import sass, toolkit
from runtime.errors import NetcError
from tests.compiler.emulator import compiler_or_skip

LISTING = """
	.section	.text.tile,"ax",@progbits
tile:
.text.tile:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R9], [R2.64] ;
        /*0030*/                   FFMA R0, R1, R2, R0 ;
.L_x_2:
        /*0040*/                   LDG.E R8, [R2.64] ;
.L_x_1:
        /*0050*/                   LDS.128 R4, [R3] ;
        /*0060*/                   FFMA R10, R4, R5, R10 ;
        /*0070*/                   FFMA R11, R4.reuse, R6, R11 ;
        /*0080*/              @P1  BRA `(.L_x_3) ;
        /*0090*/                   FFMA R12, R4, R7, R12 ;
.L_x_3:
        /*00a0*/              @!P0 BRA `(.L_x_1) ;
        /*00b0*/                   FFMA R13, R4, R7, R13 ;
        /*00c0*/              @!P2 BRA `(.L_x_2) ;
        /*00d0*/                   EXIT ;
.L_x_0:
        /*00e0*/                   BRA `(.L_x_0);
        /*00f0*/                   NOP;
.L_x_9:
	.section	.text.tensor,"ax",@progbits
.text.tensor:
.L_x_4:
        /*0000*/                   LDSM.16.M88.4 R4, [R2] ;
        /*0010*/                   HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0020*/                   HFMA2.MMA R9, -RZ, RZ, 0, 2.4e-07 ;
        /*0030*/               @P0 BRA.U `(.L_x_4) ;
        /*0040*/                   EXIT ;
"""


def test_the_main_loop_is_the_innermost_with_most_products():
    found = {name: sass._mix(lines) for name, lines in sass.kernels(LISTING).items()}
    assert found["tile"] == sass.Mix(ffma=3, lds=1, hmma=0, issued=6, loads=3, wide=2)
    assert found["tensor"] == sass.Mix(ffma=0, lds=1, hmma=1, issued=4, loads=0, wide=0)
    assert found["tile"].numbers()["ffma_lds"] == 3 and found["tile"].numbers()["ffma_share"] == 0.5
    assert found["tensor"].numbers()["wide_loads"] is None


def test_a_kernel_without_loops_counts_as_a_whole():
    lines = sass.kernels(".text.k:\n/*0000*/ FADD R0, R0, R1 ;\n/*0010*/ FFMA R0, R0, R1, R2 ;\n/*0020*/ EXIT ;\n"
                         "/*0030*/ NOP;\n")
    assert sass._mix(lines["k"]) == sass.Mix(ffma=1, lds=0, hmma=0, issued=3, loads=0, wide=0)


def test_real_code_is_counted():
    compiler = compiler_or_skip()
    if not sass.available():
        pytest.skip("nvdisasm is not installed (nvidia-cuda-nvdisasm)")
    source = """extern "C" __global__ void k(float* x, const float4* __restrict__ y, int n) {
      __shared__ float4 s[64];
      float4 a = {0, 0, 0, 0};
      for (int i = 0; i < n; i++) {
        s[threadIdx.x] = y[i * 64 + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < 64; j++) { a.x += s[j].x * s[j].y; a.y += s[j].z * s[j].w; }
        __syncthreads();
      }
      x[threadIdx.x] = a.x + a.y;
    }"""
    for arch in ("sm_80", "sm_90"):
        mix = sass.mixes(compiler.compile(source, arch, {}))["k"]
        assert (mix.ffma, mix.lds, mix.hmma, mix.wide, mix.loads) == (128, 64, 0, mix.loads, mix.loads) and mix.loads >= 1


def test_without_nvdisasm_there_is_one_error(monkeypatch):
    monkeypatch.setattr(toolkit, "find", lambda tool: None)
    with pytest.raises(NetcError) as caught:
        sass.mixes(b"")
    assert caught.value.code == "E0713" and "pip install nvidia-cuda-nvdisasm" in caught.value.hint


def test_what_nvdisasm_refuses_is_one_error():
    if not sass.available():
        pytest.skip("nvdisasm is not installed (nvidia-cuda-nvdisasm)")
    with pytest.raises(NetcError) as caught:
        sass.disassemble(b"no machine code")
    assert caught.value.code == "E0713" and "\n" not in caught.value.message
