"""The loop that measures what multiply-adds reach: fused instructions, nothing but registers, and the right numbers."""

from __future__ import annotations

import numpy as np

from compiler import codegen, target
from netc import peak
from runtime import native
from runtime.arrays import address, aligned


def test_the_loop_is_multiply_adds_in_registers():
    cpu = target.CPUS["x86-64-v3"]
    text = codegen.generate({"peak": peak._loop(cpu)}, cpu.llvm).inspect_source("asm")
    assert text.count("vfmadd") >= peak.CHAINS and "AllocWorkspace" not in text


def test_the_loop_computes_what_it_says():
    cpu = target.host()
    module = native.load(codegen.compile_functions({"peak": peak._loop(cpu)}, cpu.llvm))
    values = aligned((peak.CHAINS * cpu.lanes,), np.dtype(np.float32))
    values[...] = 1.0
    call = native.Call(native.member(module, "peak"), [native.tensor(address(values), values.shape, values.dtype)])
    call([address(values)], 3, 0)
    np.testing.assert_allclose(values, ((1 * 0.5 + 0.25) * 0.5 + 0.25) * 0.5 + 0.25, rtol=1e-7)
    assert peak.measure(cpu, 0.01) > 1e8
