"""The table of GPUs: what the data sheets print comes out, occupancy follows NVIDIA's calculator, relatives are found."""

import pytest

from compiler.cost import MACHINES
from compiler.gpus import GPUS, REGISTERS_THREAD, nearest


@pytest.mark.parametrize(("arch", "teraflops"), [("sm_75", 8.1), ("sm_80", 19.5), ("sm_86", 35.6), ("sm_89", 82.6),
                                                ("sm_90", 66.9), ("sm_100", 75.0), ("sm_120", 104.8)])
def test_flops_are_those_of_the_data_sheet(arch, teraflops):
    assert GPUS[arch].flops == pytest.approx(teraflops * 1e12, rel=0.01)
    assert MACHINES[arch].flops == GPUS[arch].flops and MACHINES[arch].bandwidth == GPUS[arch].bandwidth


@pytest.mark.parametrize(("arch", "threads", "registers", "shared", "blocks"), [
    ("sm_80", 256, 32, 0, 8), ("sm_80", 256, 128, 0, 2), ("sm_80", 256, 64, 48 << 10, 3), ("sm_80", 128, 255, 0, 2),
    ("sm_80", 32, 16, 0, 32), ("sm_90", 128, 40, 100 << 10, 2), ("sm_75", 256, 64, 0, 4), ("sm_86", 512, 40, 0, 3),
    ("sm_80", 2048, 16, 0, 0), ("sm_86", 128, 64, 100 << 10, 0), ("sm_80", 64, REGISTERS_THREAD + 1, 0, 0)])
def test_blocks_of_an_sm(arch, threads, registers, shared, blocks):
    gpu = GPUS[arch]
    assert gpu.resident(threads, registers, shared) == blocks
    assert gpu.occupancy(threads, registers, shared) == pytest.approx(blocks * threads / gpu.threads)


def test_relatives_count_as_the_newest_that_is_older():
    found = {arch: nearest(arch) for arch in ("sm_75", "sm_87", "sm_88", "sm_103", "sm_110", "sm_121")}
    assert {a: g.arch for a, g in found.items()} == {
        "sm_75": "sm_75", "sm_87": "sm_86", "sm_88": "sm_86", "sm_103": "sm_100", "sm_110": "sm_100", "sm_121": "sm_120"}
    assert nearest("sm_70") is None and nearest("ampere") is None and nearest("sm_90a") is None
