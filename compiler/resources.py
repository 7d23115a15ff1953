"""Kernels of a CUDA artifact one by one, for each GPU it holds machine code for: what they take, their predicted time.

A row says {kernel, layers, arch, registers, shared_bytes, spill_bytes, occupancy, dram_bytes, flops, predicted_us}, and
`mix` (`compiler.sass.Mix.numbers`) where nvdisasm is at hand, else None there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compiler import sass
from compiler.cubin import Usage, usage
from compiler.gpus import GPUS, USUAL, Gpu, nearest
from runtime.errors import NetcError
from runtime.format import size


def rows(manifest: Mapping[str, Any], members: Mapping[str, bytes], program: str, batch: int) -> list[dict[str, Any]]:
    """One row for each launch of a program and each architecture. registers: of a thread; shared_bytes: of a block;
    spill_bytes: what of a thread's variables lies in memory; occupancy: warps on an SM as a share of the most it takes;
    dram_bytes: each tensor of the kernel once, at `batch`; predicted_us: by roofline, with the latency of a launch.

    Raises NetcError E0713 where nvdisasm fails, E0603 for machine code that cannot be read.
    """
    entry, found = manifest["programs"][program], []
    kernels = _kernels(members)
    sizes = dict.fromkeys(entry["symbols"], batch)
    for arch, cubin in cubins(members).items():
        gpu = nearest(arch) or GPUS[USUAL]
        try:
            taken = usage(cubin)
        except ValueError as problem:
            raise NetcError("E0603", f"the machine code for {arch} cannot be read: {problem}",
                            "compile the net again") from problem
        mixed = sass.mixes(cubin) if sass.available() else {}
        for kernel in entry["kernels"]:
            name = kernel["function"]
            threads, tensor = kernels[name]
            flops, moved = size(kernel["flops"], sizes), size(kernel["bytes"], sizes)
            found.append({"kernel": name, "layers": kernel["layers"], "arch": arch, **_taken(taken[name], threads, gpu),
                          "dram_bytes": moved, "flops": flops, 
                          "predicted_us": 1e6 * gpu.time(flops, moved, manifest["precision"] if tensor else "f32"),
                          "mix": mixed[name].numbers() if name in mixed else None})
    return found


def cubins(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The machine code of an artifact by architecture, the oldest first."""
    found = {name.split(".")[1]: data for name, data in members.items()
             if name.startswith("kernels.sm_") and name.endswith(".cubin")}
    return dict(sorted(found.items(), key=lambda item: int(item[0].removeprefix("sm_"))))


def _kernels(members: Mapping[str, bytes]) -> dict[str, tuple[int, bool]]:
    """(threads of a block, whether it calls for tensor cores) of each kernel, from the source; the machine code may have
    been told otherwise of its threads."""
    pattern = r"__launch_bounds__\((\d+)[^()]*\) (\w+)\([^()]*\) \{(.*?)^\}"
    found = re.finditer(pattern, members["kernels.cu"].decode(), re.DOTALL | re.MULTILINE)
    return {kernel[2]: (int(kernel[1]), "netc_mma" in kernel[3]) for kernel in found}


def _taken(kernel: Usage, threads: int, gpu: Gpu) -> dict[str, Any]:
    occupancy = gpu.occupancy(threads, kernel.registers, kernel.shared)
    return {"registers": kernel.registers, "shared_bytes": kernel.shared, "spill_bytes": kernel.local,
            "occupancy": occupancy}
