"""Running CUDA programs on machines without a GPU: kernels by runtime.emulator, below TVM's real CUDA runtime.

What is emulated here is the driver (libcuda.so.1, libcudart.so.13); loading, launch parameters and argument passing are
TVM's own. Found through LD_LIBRARY_PATH, so a process must be started with the returned environment.
"""

import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from compiler import artifact
from compiler.cuda import find_compiler
from compiler.elaborate import load
from runtime.emulator import build as kernels
from runtime.errors import NetcError
from runtime.format import write

HERE = Path(__file__).parent


def compiler_or_skip() -> object:
    """A CUDA compiler; without one the test is skipped."""
    try:
        return find_compiler()
    except NetcError as error:
        pytest.skip(f"needs a CUDA compiler: {error.message}")


def gpu_or_skip() -> None:
    """What stands in for a GPU; without it the test is skipped."""
    if not shutil.which("g++"):
        pytest.skip("needs g++, which stands in for the GPU")


def build(folder: Path, source: str, arch: str) -> dict[str, str]:
    """Make driver and kernels in `folder`; returns the environment of a process that sees a GPU of `arch`."""
    # The driver unpacks arguments itself, so nothing needs to be known of them.
    library = kernels.library(source, defaultdict(lambda: {"args": [], "launch": []}), check=False)
    return machine(folder, arch) | {"EMULATED_KERNELS": str(library), "EMULATED_ARGUMENTS": arguments(source)}


def deployed(folder: Path, net: str) -> tuple[Path, dict[str, str]]:
    """An artifact for sm_80 of the text of a net that runs and trains, and the environment of a process with such a GPU."""
    compiler_or_skip()
    gpu_or_skip()
    (folder / "x.net").write_text(net)
    manifest, members = artifact.build(load(folder / "x.net"), "cuda:sm_80", names=["run", "evaluate", "step"], seed=1)
    write(folder / "x.netb", manifest, members)
    return folder / "x.netb", build(folder, members["kernels.cu"].decode(), "sm_80")


def machine(folder: Path, arch: str) -> dict[str, str]:
    """Make the driver in `folder`; the environment of a process that sees a GPU and this project, no kernels (gpu.py)."""
    driver = [str(HERE / "driver.cc"), "-ldl", "-Wl,-Bsymbolic"]
    versions = folder / "versions.map"
    versions.write_text("libcudart.so.13 { global: cuda*; emulated_*; };")
    _compile(*driver, "-o", str(folder / "libcudart.so.13"), f"-Wl,--version-script={versions}")
    _compile(*driver, "-o", str(folder / "libcuda.so.1"))
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(HERE.parents[2]),
                         "EMULATED_ARCH": arch.removeprefix("sm_")}


def arguments(source: str) -> str:
    """How many arguments each kernel of a CUDA source takes, as the driver wants it."""
    return ",".join(f"{name}={len(parameters.split(','))}" for name, parameters in kernels._DECLARATION.findall(source))


def _compile(*arguments: str) -> None:
    subprocess.run(["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", *arguments], check=True)
