"""Targets as tables of limits: what a schedule may ask about the machine it emits for, and how a target is named."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path


class TargetError(Exception):
    """A target that does not exist: a code, what is wrong, and a hint."""

    def __init__(self, code: str, message: str, hint: str):
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


@dataclass(frozen=True)
class Cpu:
    """A CPU as schedules see it.

    lanes: f32 elements of a vector register; registers: how many vector registers there are; l1, l2: bytes of cache a
    core has; llvm: the target dict handed to TVM. bf16: how it multiplies bf16: "" for not at all, "dot" for sums of two
    products in each lane (AVX512-BF16), "tiles" for products of matrices (AMX).
    """

    name: str
    lanes: int
    registers: int
    llvm: dict
    l1: int = 32 << 10
    l2: int = 512 << 10
    bf16: str = ""

    @property
    def low(self) -> float:
        """How many times as fast as of f32 products of bf16 are."""
        return {"": 1.0, "dot": 2.0, "tiles": 8.0}[self.bf16]


X86 = "x86_64-unknown-linux-gnu"
ARM = "aarch64-unknown-linux-gnu"


def _llvm(triple: str, mcpu: str) -> dict:
    return {"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "num-cores": os.cpu_count() or 1}


# x86-64-v4 prefers 256-bit registers in LLVM's own choices, but explicit 16-lane vectors become zmm registers.
CPUS = {
    "generic": Cpu("cpu:generic", 4, 16, _llvm(X86, "x86-64")),
    "x86-64-v3": Cpu("cpu:x86-64-v3", 8, 16, _llvm(X86, "x86-64-v3")),
    "x86-64-v4": Cpu("cpu:x86-64-v4", 16, 32, _llvm(X86, "x86-64-v4")),
    "cooperlake": Cpu("cpu:cooperlake", 16, 32, _llvm(X86, "cooperlake"), l2=1 << 20, bf16="dot"),
    "sapphirerapids": Cpu("cpu:sapphirerapids", 16, 32, _llvm(X86, "sapphirerapids"), l1=48 << 10, l2=2 << 20, bf16="tiles"),
    "aarch64": Cpu("cpu:aarch64", 4, 32, _llvm(ARM, "cortex-a72")),
}
VECTOR_FEATURES = {"avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512bw", "avx512dq"}
# What kernels use of the features of a CPU to multiply bf16, by Linux's names: by no other way do these get into code.
BF16 = {"": set(), "dot": {"avx512_bf16"}, "tiles": {"amx_tile", "amx_bf16"}}


def halves(text: str) -> list[str]:
    """The targets that an artifact for `text` holds code for, at most one of each kind, that of a GPU first.

    `cuda:sm_80+cpu:generic` names both. A GPU alone brings the code of this machine's CPU, for machines without a GPU.
    Raises TargetError E0704 where it names two of a kind.
    """
    named = [part.strip() for part in text.split("+")]
    kinds = [part.partition(":")[0].removesuffix("-emulator") for part in named]
    if len(set(kinds)) < len(kinds):
        raise TargetError("E0704", f"the target `{text}` names two of a kind",
                          "write one CPU and one list of GPUs, e.g. --target cuda:sm_80,sm_90+cpu:x86-64-v3")
    if kinds == ["cuda"] and ":" in text:
        named.append("cpu")
    return sorted(named, key=lambda part: part.startswith("cpu"))


def parse_cpu(text: str) -> Cpu:
    """The target named `cpu` (this machine) or `cpu:NAME` with a key of CPUS. Raises TargetError E0701."""
    kind, _, name = text.strip().partition(":")
    if kind != "cpu" or name not in ("", "host", *CPUS):
        known = ", ".join(["cpu", *(f"cpu:{known}" for known in CPUS)])
        raise TargetError("E0701", f"there is no CPU target `{text}`", f"known are {known}")
    return CPUS[name] if name in CPUS else host()


def host() -> Cpu:
    """The machine this runs on: LLVM's name of it, and limits from what Linux reports."""
    from tvm.target import codegen

    if platform.machine().lower() in ("aarch64", "arm64"):
        base, flags = CPUS["aarch64"], None
    else:
        flags = _flags()
        wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= flags
        base = CPUS["x86-64-v4" if wide else "x86-64-v3" if {"avx2", "fma"} <= flags else "generic"]
    llvm = {**base.llvm, "mcpu": codegen.llvm_get_system_cpu()}
    # A virtual machine may hide features its CPU has: then LLVM must not compile for that CPU by name.
    if flags is not None and not set(required_features(replace(base, llvm=llvm))) <= flags:
        llvm = base.llvm
    bf16 = next((kind for kind in ("tiles", "dot") if flags and base.lanes == 16 and BF16[kind] <= flags), "")
    bf16 = bf16 if llvm is not base.llvm else ""  # which LLVM has to know of
    return replace(base, name="cpu", llvm=llvm, bf16=bf16, l1=_cache(1, base.l1), l2=_cache(2, base.l2))


def required_features(cpu: Cpu) -> list[str]:
    """The vector features, by Linux's names, that code compiled for `cpu` needs of the machine it runs on."""
    from tvm.target import Target, codegen

    if not cpu.llvm["mtriple"].startswith("x86_64"):
        return []
    return sorted({str(feature) for feature in codegen.llvm_get_cpu_features(Target(cpu.llvm))} & VECTOR_FEATURES | BF16[cpu.bf16])


def _flags() -> frozenset[str]:
    """CPU features as Linux names them; empty where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _cache(level: int, default: int) -> int:
    """Bytes of the first core's data cache of that level."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "level").read_text().strip() == str(level) and (index / "type").read_text()[0] in "DU":
                return int((index / "size").read_text().strip().removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return default
