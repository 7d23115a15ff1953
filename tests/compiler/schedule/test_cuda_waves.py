"""Inception modules on GPUs at batch 1: few launches, and blocks for all SMs of an A100 in each of them."""

import pytest

from benchmarks.cuda import grid, load
from compiler import artifact, cuda
from compiler.gpus import GPUS


@pytest.mark.parametrize("name", ["4e", "5b"])
def test_launches_of_small_modules_fill_an_a100(name, monkeypatch):
    blocks = {}

    def build(module, *rest, **others):
        blocks.update({gv.name_hint: grid(f, 1) for gv, f in module.functions.items() if "global_symbol" not in f.attrs})
        return cuda.CudaModule(b"", "", {}, {})

    monkeypatch.setattr(cuda, "build", build)
    manifest, _ = artifact.code(load(name, 32).program, "cuda-emulator")
    kernels = manifest["programs"]["run"]["kernels"]
    assert 1 <= len(kernels) <= 3
    assert all(blocks[kernel["function"]] >= GPUS["sm_80"].sms for kernel in kernels)
