"""A plugin of pytest: what tests compile for the emulator is compiled for this machine's GPU, and runs there.

    python -m pytest -p tests.on_gpu tests/runtime/test_gpu.py
"""

from compiler import cuda as compiling
from runtime import cuda, devices

GPU = cuda.gpu_arch([])
_build, _choose = compiling.build, devices.choose


def build(mod, archs, *rest, **more):
    return _build(mod, archs or [GPU], *rest, **more)


def choose(artifact, device):
    chosen = _choose(artifact, device)
    binaries = any(name.endswith(".cubin") for name in artifact.members)
    return devices.CUDA if chosen == devices.EMULATOR and binaries else chosen


compiling.build, devices.choose = build, choose
