"""How tests of the passes on kernels look at a net: its kernels as lines, and the compiled numbers beside the interpreter's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import netc
from compiler import programs
from compiler.cost import MACHINES
from compiler.group import Group
from compiler.initialize import initialize
from compiler.interpret import relative_error, run
from compiler.ir import Graph
from compiler.layout import PLAIN
from compiler.passes.select_mode import select_mode

BLOCK = 8


def source(folder: Path, body: str, shape: str = "16, 12, 12") -> netc.Net:
    """A net of one f32 input `x` with the given body; results are its outputs."""
    path = folder / "x.net"
    path.write_text(f"lang 1\n\nnet x() {{\n  input x: f32[N, {shape}]\n{body}\n}}\n")
    return netc.load(path)


def planned(net: netc.Net, machine: str = "cpu", off: tuple[str, ...] = (), search: float = 0.0,
            **changes) -> tuple[Graph, dict]:
    """The program `run` with its kernels, and what each pass considered. changes: to the row of the machine."""
    old = MACHINES[machine]
    MACHINES[machine] = replace(old, **changes)
    try:
        options = programs.Options(machine, 1, BLOCK if machine == "cpu" else 1, off=off, search=search, check=True)
        graph = programs.build(net.program, ["run"], options)["run"]
    finally:
        MACHINES[machine] = old
    return graph, {step.name: step.rewrites for step in options.steps}


def lines(graph: Graph) -> list[str]:
    """Each kernel as its ops; groups of one call are apart by a bar, what is staged in a group stands in parentheses."""
    def words(group: Group) -> str:
        staged = [f"({words(stage)})" for stage in group.staged]
        return " ".join([*staged, *(graph[n].op for n in [*group.inlined, *group.members])])

    return [" | ".join(words(group) for group in launch.groups) for launch in graph.kernels]


def halos(graph: Graph) -> dict[str, tuple[int, int, int, int]]:
    return {name: layout.halo for name, layout in graph.layouts.items() if any(layout.halo) and name in graph}


def blocked(graph: Graph) -> set[str]:
    """The ops of computed nodes whose channels lie together."""
    return {graph[n].op for n in graph.nx if graph.layouts.get(n, PLAIN).block > 1 and graph[n].op != "parameter"}


def check_numbers(net: netc.Net, off: tuple[str, ...] = (), batches: tuple[int, ...] = (1, 3)) -> None:
    """Compiled for this machine, the net computes what the interpreter makes of its source."""
    values = initialize(net.graph, 0)
    exe = net.compile(off=off)
    plain = select_mode(net.graph, "deploy")
    for batch in batches:
        feeds = {n.name: np.random.default_rng(batch).standard_normal((batch, *n.type.shape[1:])).astype("f4")
                 for n in net.graph.leaves("input")}
        want = run(plain, feeds, values)
        for key, got in exe(**feeds).items():
            assert relative_error(want[plain.outputs[key]], got) <= 1e-5
