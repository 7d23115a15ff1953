"""Registers, shared and local memory read from machine code equal what NVIDIA's own tools print."""

import random
import re
import subprocess

import pytest

from compiler import toolkit
from compiler.cubin import Usage, usage
from tests.compiler.emulator import compiler_or_skip

SOURCE = """
extern "C" __global__ void __launch_bounds__(128, 16) spills(float* x, const float* y) {
  float a[64];
  for (int i = 0; i < 64; i++) a[i] = y[i * threadIdx.x];
  for (int j = 0; j < 100; j++) for (int i = 0; i < 64; i++) a[i] = a[i] * a[(i * 7 + 3) % 64] + y[j];
  for (int i = 0; i < 64; i++) x[i * threadIdx.x] = a[i];
}
extern "C" __global__ void __launch_bounds__(96) shares(float* x, int n) {
  __shared__ float s[300];
  s[threadIdx.x] = x[n];
  __syncthreads();
  x[threadIdx.x] = s[n];
}
extern "C" __global__ void plain(float* x) { x[threadIdx.x] += 1.0f; }
"""
ARCHS = ["sm_80", "sm_90", "sm_100"]


@pytest.fixture(scope="module")
def binaries():
    compiler = compiler_or_skip()
    return {arch: compiler.compile(SOURCE, arch, {}) for arch in ARCHS if arch in compiler.architectures}


def test_what_kernels_take(binaries):
    for binary in binaries.values():
        found = usage(binary)
        assert set(found) == {"spills", "shares", "plain"}
        assert found["shares"].shared == 1200 and found["shares"].threads == 96
        assert found["spills"].local > 200 and found["spills"].registers <= 32 and found["spills"].threads == 128
        assert found["plain"] == Usage(found["plain"].registers, 0, 0, None) and 2 <= found["plain"].registers <= 16


def test_it_is_what_cuobjdump_prints(binaries, tmp_path):
    tool = toolkit.find("cuobjdump")
    if tool is None:
        pytest.skip("cuobjdump is not installed (nvidia-cuda-cuobjdump)")
    for arch, binary in binaries.items():
        (tmp_path / "k.cubin").write_bytes(binary)
        done = subprocess.run([tool, "-res-usage", str(tmp_path / "k.cubin")], capture_output=True, text=True, check=True)
        printed = dict((m[1], m.groups()[1:]) for m in re.finditer(
            r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", done.stdout + done.stderr))
        own = 0 if arch == "sm_80" else 1024  # newer ones print what the system takes of a block too
        assert {name: (f"{u.registers}", f"{u.local}") for name, u in usage(binary).items()} == {
            name: values[:2] for name, values in printed.items()}
        assert all(u.shared in (int(printed[name][2]), int(printed[name][2]) - own) for name, u in usage(binary).items())


def test_damaged_code_is_an_error_and_nothing_else(binaries):
    whole, draw, refused = binaries["sm_90"], random.Random(7), 0
    for _ in range(2000):
        damaged = bytearray(whole[:draw.choice([len(whole), len(whole) // 2, 100, 70, 10])])
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(draw.choice([min(64, len(damaged)), len(damaged)]))] = draw.randrange(256)
        try:
            assert all(isinstance(entry, Usage) for entry in usage(bytes(damaged)).values())
        except ValueError:
            refused += 1
    assert refused > 500


def test_other_files_are_no_machine_code():
    for data in (b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(58)):
        with pytest.raises(ValueError, match="no 64-bit|no machine code"):
            usage(data)
