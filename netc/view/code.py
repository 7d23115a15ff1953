"""The code that is generated for each kernel, as people can read it: LLVM's text on the CPU, CUDA C on a GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from compiler import codegen, lower
from compiler.backend import CpuBackend, choose
from compiler.ir import Graph

DEFINITION = re.compile(r"^define [^\n]*@([\w.]+)\([^\n]*\n.*?^}\n", re.MULTILINE | re.DOTALL)
BOILERPLATE = re.compile(r"(, !(dbg|tbaa|prof|llvm\.loop|range|alias\.scope|noalias) !\d+)+|^\s*#dbg_.*\n",
                         re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """language: `LLVM` or `CUDA`; kernels: the function of each kernel, in order; functions: the text of each."""

    language: str
    kernels: list[str]
    functions: Mapping[str, str]


def generate(program: str, graph: Graph, target: str, batch: int) -> Code:
    """Generates the code of a graph whose kernels are chosen. Nothing is compiled to machine code."""
    backend = choose(target)
    lowering = lower.Lowering(backend.emit, lower.layout([graph]))
    entry = lowering.program(program, graph, batch)
    kernels = [kernel["function"] for kernel in entry["kernels"]]
    names = list(dict.fromkeys(kernels))
    if not isinstance(backend, CpuBackend):
        from compiler import cuda
        return Code("CUDA", kernels, _split_cuda(cuda.source(lowering.module), names))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        texts = pool.map(lambda name: _llvm(name, lowering.module[name], backend.cpu.llvm), names)
        return Code("LLVM", kernels, dict(zip(names, texts)))


def _llvm(name: str, function: tirx.PrimFunc, target: Mapping[str, Any]) -> str:
    text = codegen.generate({name: function}, target).inspect_source("ll")
    bodies = {m[1]: m[0] for m in DEFINITION.finditer(text)}
    return BOILERPLATE.sub("", "\n".join(body for symbol, body in bodies.items()
                                         if symbol == name or symbol.startswith("__tvm_parallel_lambda")))


def _split_cuda(source: str, names: list[str]) -> dict[str, str]:
    """The kernels of CUDA C by the function they are of; one that became several is all of them."""
    found = {m[1]: m[0] for m in re.finditer(r'^extern "C" __global__ [^\n]*?(\w+)\([^()\n]*\) \{\n.*?^\}\n', source,
                                             re.MULTILINE | re.DOTALL)}
    return {name: "\n".join(text for symbol, text in found.items() if symbol == name or symbol.startswith(f"{name}_"))
            for name in names}
