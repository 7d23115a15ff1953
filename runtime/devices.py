"""Which device an artifact runs on: the names there are, what an artifact holds code for, and what this machine has."""

from __future__ import annotations

from typing import Any

from runtime import cuda, format, native
from runtime.errors import NetcError

AUTO, CPU, CUDA, EMULATOR = NAMES = ("auto", "cpu", "cuda", "cuda-emulator")


def choose(artifact: format.Artifact, device: str) -> str:
    """cpu, cuda or cuda-emulator: `device` itself, or for auto the GPU if there is one, else the CPU code of the artifact,
    else whatever its code is for.

    Raises NetcError E0703 for an unknown name, E0744 and E0745 for a device that the artifact holds no code for.
    """
    if device not in NAMES:
        raise NetcError("E0703", f"there is no device `{device}`", f"known are {', '.join(NAMES)}")
    held = format.kinds(artifact.manifest)
    binaries = [name for name in artifact.members if name.endswith(".cubin")]
    if device == AUTO:
        if "cpu" in held and not (binaries and cuda.present()):
            return CPU
        return CUDA if binaries else EMULATOR
    name, target = artifact.path or artifact.manifest["net"], artifact.manifest["target"]["name"]
    if device == EMULATOR and "cuda" not in held:
        raise NetcError("E0744", f"{name} holds CPU code, no CUDA kernels to emulate",
                        "compile it with --target cuda-emulator, or --target cuda:sm_90")
    if device == CPU and "cpu" not in held:
        raise NetcError("E0745", f"{name} is compiled for {target} and holds no code for the CPU",
                        "compile it with --target cpu, or with a target that names both: cuda:sm_90+cpu")
    if device == CUDA and not binaries:
        what = "CUDA kernels for the emulator" if "cuda" in held else "CPU code"
        raise NetcError("E0745", f"{name} holds {what}, and no machine code for a GPU",
                        "compile it with --target cuda:ARCH, e.g. --target cuda:sm_80,sm_90")
    return device


def memory(artifact: format.Artifact, host: native.Object, device: str) -> Any:
    """Where the tensors of an artifact's half lie: on the host, or on a GPU, real or emulated, that gets its kernels."""
    if device == CPU:
        from runtime.execute import Host
        return Host()
    if device == EMULATOR:
        from runtime.emulator.device import Emulator
        return Emulator(host, artifact.members)
    from runtime.device import Gpu
    return Gpu(host, artifact.members)
