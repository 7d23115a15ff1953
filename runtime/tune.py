"""Choosing among the variants of a GPU's kernels that an artifact holds, by timing them where it is to run.

All else is decided when a net is compiled, by a model of the hardware; this is the one thing that is measured.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import Any

from runtime import cuda, devices, format
from runtime.device import GpuBound
from runtime.errors import NetcError
from runtime.execute import Executable
from runtime.measure import random_feeds

ROUNDS = 7  # samples of each variant, taken in turns
SAMPLE = 2e-3  # seconds of one, for kernels that take less
GAIN = 0.03  # by how much a variant must be faster than the one predicted to be best


@dataclass(frozen=True)
class Choice:
    """One kernel: the program it is in, whose it is, the median milliseconds of each of its variants, which was chosen."""

    program: str
    layers: tuple[str, ...]
    ms: tuple[float, ...]
    chosen: int


def tune(artifact: format.Artifact, device: str = "cuda", batch: int = 1) -> tuple[format.Artifact, list[Choice]]:
    """Times each variant of each kernel on random inputs; the artifact with the fastest chosen, and what was found.

    Equal kernels are timed once. Raises NetcError E0720 without a GPU, E0745 for an artifact without code for it, E0746
    for one without variants.
    """
    if device == devices.CUDA:
        cuda.gpu_arch(artifact.manifest["target"].get("archs", ()))
    artifact = format.Artifact(copy.deepcopy(artifact.manifest), artifact.members, artifact.path)
    if not any(program.get("choices") for program in artifact.manifest["programs"].values()):
        raise NetcError("E0746", f"{artifact.path or artifact.manifest['net']} holds one variant of each kernel, there is "
                        "nothing to choose from", "compile it with --variants 3 for GPUs, e.g. --target cuda:sm_80,sm_90")
    exe = Executable(artifact, device)
    found: dict[tuple[str, ...], Choice] = {}
    for program, entry in exe.programs.items():
        if entry.get("choices"):
            _program(exe, program, batch, found)
    for entry in exe.programs.values():
        for kernel in entry["kernels"]:
            if "variants" in kernel:
                kernel["function"] = kernel["variants"][found[tuple(kernel["variants"])].chosen]
    artifact.manifest["tuned"] = {"device": exe.place, "batch": batch}
    return artifact, list(found.values())


def _program(exe: Executable, program: str, batch: int, found: dict[tuple[str, ...], Choice]) -> None:
    """Adds the choices of a program's kernels, by the functions chosen from, but for those that are known."""
    kernels = exe.programs[program]["kernels"]
    sizes = dict.fromkeys(exe.programs[program]["symbols"], batch)
    feeds = exe.local(random_feeds(exe, program, sizes))
    bound = []
    for rank in range(max(len(kernel.get("variants", ())) for kernel in kernels)):
        exe.choose(program, rank)
        bound.append(exe.bind(program, feeds))
        bound[-1]()
    for index, kernel in enumerate(kernels):
        functions = tuple(kernel.get("variants", ()))
        if functions and functions not in found:
            ms = _times(bound[:len(functions)], index)
            best = min(range(len(ms)), key=ms.__getitem__)
            found[functions] = Choice(program, tuple(kernel["layers"]), ms, best if ms[best] < ms[0] * (1 - GAIN) else 0)


def _times(bound: list[GpuBound], index: int) -> tuple[float, ...]:
    """Median milliseconds of a kernel in each of several programs."""
    counts, samples = [], [[] for _ in bound]
    for one in bound:
        counts.append(max(1, int(SAMPLE / max(_seconds(one, index, 1), 1e-9))))
    for _ in range(ROUNDS):
        for one, count, taken in zip(bound, counts, samples):
            taken.append(_seconds(one, index, count) / count * 1e3)
    return tuple(map(statistics.median, samples))


def _seconds(bound: Any, index: int, count: int) -> float:
    start = time.perf_counter()
    bound.repeat(index, count)
    return time.perf_counter() - start
