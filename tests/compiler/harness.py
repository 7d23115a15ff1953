"""Compiling and running hand-built graphs on this machine's CPU."""

import numpy as np
import tvm

from compiler import lower, programs
from compiler.artifact import input_entries, parameter_entry
from compiler.backend import CpuBackend
from compiler.ir import Graph
from compiler.schedule import cpu
from compiler.target import parse_cpu
from runtime.execute import Executable
from runtime.format import Artifact

HOST = parse_cpu("cpu")


def executable(graphs: dict[str, Graph], values: dict[str, np.ndarray] | None = None, target=HOST) -> Executable:
    """The programs of `graphs` (primitives only) as one executable; parameters take `values`."""
    graphs = {name: programs.kernels(graph) if graph.kernels is None else graph for name, graph in graphs.items()}
    slots = lower.layout(list(graphs.values()))
    lowering = lower.Lowering(lambda kernels, batch: cpu.emit(kernels, target, batch), slots)
    entries = {name: lowering.program(name, graph) for name, graph in graphs.items()}
    backend = CpuBackend("cpu")
    backend.cpu = target
    members = backend.members(lowering.module, {})
    nodes = {n.name: n for g in graphs.values() for n in g.nodes() if n.name in slots}
    manifest = {"net": "test", "target": backend.describe(), "programs": entries,
                "inputs": [e for g in graphs.values() for e in input_entries(g)],
                "parameters": [parameter_entry(nodes[p], s) for p, s in slots.items()],
                "parameter_bytes": max((s.offset + s.bytes for s in slots.values()), default=0), "tvm": tvm.__version__}
    exe = Executable(Artifact(manifest, members))
    for path, node in nodes.items():
        exe.parameters[path][...] = node.attrs["value"] if node.op == "constant" else (values or {}).get(path, 0)
    return exe
