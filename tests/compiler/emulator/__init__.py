"""Running CUDA programs on machines without a GPU: their source compiled by g++, below TVM's real CUDA runtime.

What is emulated is the driver (libcuda.so.1, libcudart.so.13); loading, launch parameters and argument passing are
TVM's own. Found through LD_LIBRARY_PATH, so a process must be started with the returned environment.
"""

import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def build(folder: Path, source: str, arch: str) -> dict[str, str]:
    """Make driver and kernels in `folder`; returns the environment of a process that sees a GPU of `arch`."""
    driver = [str(HERE / "driver.cc"), "-ldl"]
    versions = folder / "versions.map"
    versions.write_text("libcudart.so.13 { global: cuda*; emulated_copied; };")
    _compile(*driver, "-o", str(folder / "libcudart.so.13"), f"-Wl,--version-script={versions}")
    _compile(*driver, "-o", str(folder / "libcuda.so.1"))
    kernels = folder / "kernels.cc"
    declaration = r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\((.*?)\);'
    barriers = set(re.findall(r"__global__[^;{]*?(\w+)\([^()]*\) \{(?:(?!\n\}).)*__syncthreads", source, re.DOTALL))
    launches = [_launch(name, parameters, "Run" if name in barriers else "RunApart")
                for name, parameters in re.findall(declaration, source)]
    code = source[source.index('extern "C" __global__'):]
    kernels.write_text('#include "device.h"\n' + code + "\n".join(launches))
    _compile(str(kernels), f"-I{HERE}", "-o", str(folder / "kernels.so"))
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "EMULATED_KERNELS": str(folder / "kernels.so"),
                         "EMULATED_ARCH": arch.removeprefix("sm_")}


def _launch(name: str, parameters: str, run: str) -> str:
    """A function that unpacks the driver's array of argument addresses and runs the grid."""
    types = [p.replace("__restrict__", "").rsplit(None, 1)[0] for p in parameters.split(",")]
    arguments = ", ".join(f"*({kind}*)args[{i}]" for i, kind in enumerate(types))
    return (f'extern "C" void emulate_{name}(const unsigned* grid, const unsigned* block, void** args) '
            f"{{ emulator::{run}(grid, block, [=] {{ {name}({arguments}); }}); }}")


def _compile(*arguments: str) -> None:
    subprocess.run(["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", *arguments], check=True)
