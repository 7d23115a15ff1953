"""A program of the language → the members and the manifest of an artifact."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import tvm
from safetensors.numpy import save

from compiler import dims, lower, programs, weights
from compiler.backend import choose
from compiler.elaborate import Program
from compiler.initialize import initialize
from compiler.ir import DTYPES, STORED, Graph
from compiler.passes.choose_precision import check as check_precision
from compiler.text import to_text
from compiler.verify import verify
from runtime.errors import NetcError
from runtime.format import CONSTANTS, WEIGHTS, size

VERSION = "0.1.0"

Lowered = tuple[dict[str, Graph], lower.Lowering, dict[str, Any]]  # programs, all their kernels, their entries of the manifest


def build(program: Program, target: str = "cpu", *, seed: int = 0, parameters: Mapping[str, np.ndarray] | None = None,
          **choices: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and members of an artifact, for `runtime.format.write` or for running at once.

    parameters: values by path; without them, a seeded initialization. choices: see `code`.
    """
    manifest, members = code(program, target, **choices)
    given = initialize(program.graph, seed) if parameters is None else parameters
    return manifest, {**members, WEIGHTS: weights.fill(manifest, given)}


def code(program: Program, target: str = "cpu", *, names: Sequence[str] = ("run",), batch: int = 1,
         off: Collection[str] = (), memory: int | None = None, exact: bool = False,
         search: float = 0.0, precision: str = "f32", variants: int = 1, batches: Collection[int] = (),
         fast_math: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Compiles the named programs (run, evaluate, step) for `target` (`cpu`, `cpu:NAME`, `cuda:sm_80,sm_90`).

    batch: the design batch of `run`, what kernels are made for (any batch runs); `step` and `evaluate` are made for the
    data section's. off: passes to leave out. memory: the largest arena that a program may take at its design batch, None
    for any; NetcError E0414 where that cannot be. exact: no algorithm that rounds otherwise than a direct sum. search:
    seconds to look for an order of rewrites in. precision: of the operands of products, and of what lies between layers.
    batches: those for which `run` has variants of its own, on CPUs. variants: how many ways to make a GPU's kernel are held,
    for `netc tune` to choose from. fast_math: of a GPU's compiler, quicker and less exact division, square roots and
    functions. Returns manifest and members, of the parameters the constants only.

    Raises NetcError E0701 to E0712 for a target that does not exist or has no compiler here, E0750 to E0752 for a precision
    that it does not compute in, before anything takes long.
    """
    backend = choose(target, fast_math)
    backend.check()
    check_precision(precision, names, backend)
    batches = sorted(set(batches)) if "run" in names and backend.kind == "cpu" else []
    names = [*names, *map(programs.variant, batches)]
    options = replace(backend.options(batch), off=off, exact=exact, search=search, precision=precision)
    graphs, lowering, entries = _lower(program, names, backend, options, memory, variants=variants)
    slots = lowering.slots
    for name, entry in entries.items():
        entry["parameter_bytes"] = _top(slots[n.name] for n in graphs[name].nodes() if n.name in slots)
    if batches:
        entries["run"]["batches"] = {"symbol": programs.batch_symbol(program.graph),
                                     "programs": {str(n): programs.variant(n) for n in batches}}
    members = backend.members(lowering.module, _layers(entries))
    nodes = {n.name: n for g in graphs.values() for n in g.nodes() if n.name in slots}
    members[CONSTANTS] = save({path: np.ascontiguousarray(n.attrs["value"]) for path, n in nodes.items()
                               if n.op == "constant"})
    for number, (name, text) in enumerate(program.sources):
        members[f"source/{number}-{os.path.basename(name)}"] = text.encode()
    for name, graph in graphs.items():
        members[f"ir/{name}.txt"] = to_text(graph).encode()
    manifest = {
        "netc": VERSION, "tvm": tvm.__version__, "net": program.net, "target": backend.describe(),
        "precision": precision,
        "settings": {k: str(v) for k, v in program.parameters.items()},
        "inputs": input_entries(program.graph),
        "parameters": [parameter_entry(nodes[path], slot) for path, slot in slots.items()],
        "parameter_bytes": lowering.parameter_bytes,
        "programs": entries,
        "train": program.train.to_json() if program.train else None,
        "data": program.data,
    }
    return manifest, members


def _lower(program: Program, names: Sequence[str], backend: Any, options: programs.Options, memory: int | None,
           scratch: Mapping[str, Any] = MappingProxyType({}), variants: int = 1) -> Lowered:
    """The programs, all their kernels, and their entries of the manifest. With a budget of memory they are lowered without
    it first, to know what kernels need for themselves, and again where that is too much."""
    graphs, lowering, entries = _lowered(program, names, backend, options, scratch, variants)
    designs = {name: programs.design_batch(program, name, options.batch) for name in graphs}
    taken = {name: size(entry["arena"], dict.fromkeys(entry["symbols"], designs[name])) for name, entry in entries.items()}
    if memory is None or all(bytes <= memory for bytes in taken.values()):
        return graphs, lowering, entries
    if options.memory is not None:
        raise NetcError("E0414", f"`{max(taken, key=taken.__getitem__)}` needs {max(taken.values()):,} bytes, more than the "
                        f"{memory:,} allowed", "give a larger --memory-budget")
    budgeted = replace(options, memory=memory, steps=[])
    graphs, lowering, entries = _lower(program, names, backend, budgeted, memory, lowering.scratch, variants)
    for name, step in zip(graphs, [step for step in budgeted.steps if step.name == "recompute"]):
        if step.taken:
            entries[name]["recompute"] = {"budget": memory, "without": taken[name], "batch": designs[name],
                                          "tensors": step.taken - 1, "seconds": -step.rewrites[0].gain}
    return graphs, lowering, entries


def scratch(program: Program, names: Sequence[str], target: str, options: programs.Options) -> dict[str, dict[str, Any]]:
    """For each of the named programs the bytes that its kernels need for themselves, by kernel: known once they are lowered."""
    return _lowered(program, names, choose(target), options)[1].scratch


def _lowered(program: Program, names: Sequence[str], backend: Any, options: programs.Options,
             scratch: Mapping[str, Any] = MappingProxyType({}), variants: int = 1) -> Lowered:
    graphs = {name: verify(graph) for name, graph in programs.build(program, names, options, scratch).items()}
    on_gpu = backend.kind == "cuda"
    lowering = lower.Lowering(backend.emit, lower.layout(list(graphs.values())), min(variants, backend.variants),
                              counters=on_gpu, memory=on_gpu)
    return graphs, lowering, {name: lowering.program(name, graph, programs.design_batch(program, name, options.batch))
                              for name, graph in graphs.items()}


def _top(slots: Iterable[lower.Slot]) -> int:
    """How much of the flat parameter buffer holds these."""
    return max((s.offset + s.bytes for s in slots), default=0)


def parameter_entry(node: Any, slot: lower.Slot) -> dict[str, Any]:
    """A parameter as the manifest lists it."""
    attrs = node.attrs
    kind = "constant" if node.op == "constant" else next((k for k in ("packed", "optimizer", "state") if attrs.get(k)), "weight")
    return {"path": node.name, "dtype": STORED[node.type.dtype], "shape": list(node.type.shape), "offset": slot.offset,
            "bytes": slot.bytes, "kind": kind, "trainable": bool(attrs.get("trainable", False)),
            "layer": min((o.layer for o in node.origins), default="")}


def input_entries(graph: Graph) -> list[dict[str, Any]]:
    """Inputs and labels as the manifest lists them."""
    return [{"name": n.name, "dtype": DTYPES[n.type.dtype], "shape": [dims.as_json(d) for d in n.type.shape],
             "role": n.attrs["role"], "classes": n.attrs.get("classes")} for n in graph.leaves("input")]


def _layers(entries: Mapping[str, Any]) -> dict[str, str]:
    """For each kernel function, the user's layers it computes."""
    layers: dict[str, set[str]] = {}
    for entry in entries.values():
        for kernel in entry["kernels"]:
            for function in kernel.get("variants", [kernel["function"]]):
                layers.setdefault(function, set()).update(kernel["layers"])
    return {name: ", ".join(sorted(found)) for name, found in layers.items()}
