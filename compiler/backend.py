"""Targets at work: which schedule emits kernels, and how a finished module becomes members of an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tvm

from compiler import cache, codegen
from compiler.cost import MACHINES
from compiler.gpus import GPUS, USUAL, nearest
from compiler.programs import Options
from compiler.schedule import cpu
from compiler.target import parse_cpu, required_features
from runtime.errors import NetcError


class CpuBackend:
    """LLVM: one object file."""

    kind = "cpu"
    variants = 1  # of a kernel, at most

    def __init__(self, target: str):
        self.cpu = parse_cpu(target)

    def check(self) -> None:
        """Whatever is missing here to compile for this target."""

    def options(self, batch: int) -> Options:
        """How programs are optimized for this target."""
        return Options("cpu", batch, block=self.cpu.lanes, low=self.cpu.low)

    def precisions(self) -> tuple[str, ...]:
        """What programs can be computed in."""
        halves = not self.cpu.llvm["mtriple"].startswith("x86_64") or "f16c" in required_features(self.cpu)
        return ("f32", "bf16", "f16") if halves else ("f32", "bf16")

    def emit(self, kernels: Sequence[Any], batch: int) -> None:
        cpu.emit(kernels, self.cpu, batch)

    def members(self, module: tvm.IRModule, layers: Mapping[str, str]) -> dict[str, bytes]:
        return {"host.o": codegen.build(module, self.cpu.llvm, cache.default())}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.cpu.name, "mcpu": self.cpu.llvm["mcpu"], "lanes": self.cpu.lanes,
                "machine": self.cpu.llvm["mtriple"].partition("-")[0], "features": required_features(self.cpu),
                "cost": MACHINES["cpu"].numbers()}


class CudaBackend:
    """CUDA: a host object, the CUDA source, and machine code for each architecture; none for `cuda-emulator`."""

    kind = "cuda"
    variants = 3  # of a kernel, at most

    def __init__(self, target: str, fast_math: bool = False):
        self.name, self.fast_math = target, fast_math
        kind, _, archs = target.partition(":")
        if kind == "cuda-emulator":
            self.archs = []
            return
        if not archs:
            raise NetcError("E0702", "a CUDA target names its architectures", "write e.g. --target cuda:sm_80,sm_90")
        self.archs = [a.strip() for a in archs.split(",")]

    def check(self) -> None:
        """Raises NetcError E0710 where there is no CUDA compiler, E0711 for an architecture that it does not know."""
        if self.archs:
            from compiler import cuda
            compiler = cuda.find_compiler()
            for arch in self.archs:
                cuda.check_arch(arch, compiler)

    def options(self, batch: int) -> Options:
        """How programs are optimized for this target: its first architecture decides."""
        gpu = next(filter(None, map(nearest, self.archs)), GPUS[USUAL])
        return Options(gpu.arch, batch)

    def precisions(self) -> tuple[str, ...]:
        """What programs can be computed in."""
        return "f32", "bf16", "f16", "tf32"

    def emit(self, kernels: Sequence[Any], batch: int, rank: int = 0) -> None:
        from compiler.schedule import cuda
        cuda.emit(kernels, batch, GPUS[self.options(batch).machine], rank=rank)

    def members(self, module: tvm.IRModule, layers: Mapping[str, str]) -> dict[str, bytes]:
        from compiler import cuda
        built = cuda.build(module, self.archs, layers=layers, fast_math=self.fast_math)
        return {"host.o": built.host_object, "kernels.cu": built.source.encode(),
                "kernels.json": json.dumps(built.functions).encode(),
                **{f"kernels.{arch}.cubin": binary for arch, binary in built.binaries.items()}}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": "cuda:" + ",".join(self.archs) if self.archs else "cuda-emulator",
                "archs": self.archs, "fast_math": self.fast_math, "cost": MACHINES[self.options(1).machine].numbers()}


def choose(target: str, fast_math: bool = False) -> CpuBackend | CudaBackend:
    """The backend of a target's text. Raises NetcError E0701 for an unknown one, E0705 for fast_math where no GPU is."""
    kind = target.partition(":")[0]
    if kind == "cpu" and fast_math:
        raise NetcError("E0705", f"--fast-math is for GPUs, and the target is {target}",
                        "leave it away, or name a GPU: --target cuda:sm_90")
    if kind == "cpu":
        return CpuBackend(target)
    if kind == "cuda" or target == "cuda-emulator":
        return CudaBackend(target, fast_math)
    raise NetcError("E0701", f"there is no target `{target}`", "known are cpu, cpu:NAME, cuda:ARCH,… and cuda-emulator")
