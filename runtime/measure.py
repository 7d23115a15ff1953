"""Timing programs: whole, and kernel by kernel under the names of the user's layers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime import format
from runtime.execute import Executable, aligned


@dataclass(frozen=True)
class KernelTime:
    """One kernel: whose it is, in which part of a training step it runs, its median time in milliseconds, and what the
    compiler's cost model predicts (one thread; None where the artifact does not say)."""

    layers: tuple[str, ...]
    ops: tuple[str, ...]
    part: str  # forward, backward, or update
    ms: float
    predicted_ms: float | None
    flops: int
    bytes: int


def random_feeds(exe: Executable, program: str, sizes: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the right types: normal floats, bytes, labels within their classes; scalars as a first step has them."""
    stream = np.random.default_rng(seed)
    classes = {e["name"]: e["classes"] for e in exe.manifest["inputs"]}
    scalars = {"lr": 0.0, "step": 1, "seed": 1}
    feeds = {}
    for argument in exe.programs[program]["arguments"]:
        if argument["kind"] != "input":
            continue
        name = argument["name"]
        array = aligned(tuple(format.size(s, sizes) for s in argument["shape"]), argument["dtype"])
        if argument["role"] == "scalar":
            array[...] = scalars.get(name.removeprefix("train/"), 1)
        elif array.dtype.kind == "f":
            array[...] = stream.standard_normal(array.shape)
        else:
            array[...] = stream.integers(0, classes.get(name) or (256 if array.dtype == np.uint8 else 2), array.shape)
        feeds[name] = array
    return feeds


def time_program(exe: Executable, program: str, feeds: dict[str, Any], seconds: float = 1.0) -> float:
    """Median time of one call in milliseconds, over at least 5 calls and about `seconds`, after a warm-up."""
    run = exe.bind(program, exe.local(feeds))
    run()
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    while len(samples) < 5 or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        samples.append((time.perf_counter() - start) * 1e3)
    return statistics.median(samples)


def time_kernels(exe: Executable, program: str, feeds: dict[str, Any], sizes: dict[str, int],
                 rounds: int = 20) -> list[KernelTime]:
    """Median time of each kernel, run in order within whole passes, so that caches are as in real use."""
    run = exe.bind(program, exe.local(feeds))
    kernels = run.plan.entry["kernels"]
    run()
    empty: list[float] = []
    samples: list[list[float]] = [[] for _ in kernels]
    for _ in range(rounds):
        for index in range(len(kernels)):
            start = time.perf_counter()
            run(index, index)
            empty.append(time.perf_counter() - start)
            start = time.perf_counter()
            run(index, index + 1)
            samples[index].append(time.perf_counter() - start)
    call = statistics.median(empty)
    update = run.plan.entry["update_from"]
    cost = exe.manifest["target"].get("cost")
    sized = [(format.size(k["flops"], sizes), format.size(k["bytes"], sizes)) for k in kernels]
    return [KernelTime(tuple(k["layers"]), tuple(k["ops"]),
                       "update" if i >= update else "backward" if k["name"].startswith("grad/") else "forward",
                       max(statistics.median(samples[i]) - call, 0.0) * 1e3, predicted(cost, *sized[i]) * 1e3 if cost else None, *sized[i])
            for i, k in enumerate(kernels)]


def predicted(cost: Mapping[str, float], flops: int, bytes: int) -> float:
    """Seconds of a kernel by the `cost` of the manifest's target (`compiler.cost.Machine.time`)."""
    rate = cost["near"] if bytes <= cost["few"] else cost["bandwidth"]
    return max(flops / cost["flops"], bytes / rate) + cost["launch"]
