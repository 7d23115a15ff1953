"""Replays the memory plan of a program: every byte of the arena carries the name of the tensor it was last written for,
and whoever is read must still be there, whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler import dims, lower
from compiler.backend import choose
from compiler.describe import describe
from compiler.group import Launch, memory_read
from compiler.ir import Graph
from compiler.lifetimes import lifetimes, storages
from compiler.memory import Lifetime, Plan, plan
from compiler.ops import REGISTRY
from runtime.format import size


@dataclass(frozen=True)
class Planned:
    """A program, where its kernels' results lie (as the manifest says), and the plan with what it was made from."""

    graph: Graph
    results: list[list[dict[str, Any]]]
    plan: Plan
    lives: list[Lifetime]
    arena: Any


def planned(graph: Graph) -> Planned:
    """The plan of a graph with kernels, which are not emitted: without what they need for themselves."""
    lives = lifetimes(graph)
    found = plan(lives)
    storage = storages(graph)
    results = [describe(graph, "", launch, storage, found)["results"] for launch in graph.kernels]
    return Planned(graph, results, found, lives, dims.as_json(found.size))


def lowered(graph: Graph, batch: int = 1) -> Planned:
    """The plan of a graph with kernels as it is lowered for the CPU."""
    seen: list[tuple[list[Lifetime], Plan]] = []

    def spy(lives: list[Lifetime]) -> Plan:
        seen.append((lives, plan(lives)))
        return seen[-1][1]

    whole, lower.plan = lower.plan, spy
    try:
        entry = lower.Lowering(choose("cpu").emit, lower.layout([graph])).program("program", graph, batch)
    finally:
        lower.plan = whole
    (lives, found), = seen
    return Planned(graph, [kernel["results"] for kernel in entry["kernels"]], found, lives, entry["arena"])


@dataclass
class Replay:
    """The arena at one batch. tags: for each byte the number of the tensor that was written there last."""

    program: Planned
    batch: int
    tags: np.ndarray = field(init=False)
    numbers: dict[str, int] = field(default_factory=dict)
    where: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env = {life_symbol: self.batch for life in self.program.lives for life_symbol in dims.symbols(life.bytes)}
        self.tags = np.zeros(size(self.program.arena, self.env), np.int32)

    def run(self) -> None:
        """Raises AssertionError where a tensor that is read was overwritten, at whose kernel."""
        graph = self.program.graph
        computed = {name for launch in graph.kernels for name in launch.nodes}
        own: dict[int, list[Lifetime]] = {}
        for life in self.program.lives:
            if life.name.startswith("scratch:"):
                own.setdefault(life.first, []).append(life)
        for step, (launch, results) in enumerate(zip(graph.kernels, self.program.results)):
            inside = set(launch.nodes)
            read = {r for m in launch.nodes for r in memory_read(graph, m, computed)} - inside
            read = sorted(read & self.where.keys())
            self.check(read, launch, "is gone before")
            for life in own.get(step, ()):
                start = dims.evaluate(self.program.plan.offsets[life.name], self.env)
                self.tags[start:start + dims.evaluate(life.bytes, self.env)] = -1 - step
            self.check(read, launch, "shares memory with what is scratch of")
            made = [(name, where) for name, where in zip(launch.results, results) if where["in"] == "arena"]
            for name, where in made:
                assert (self.view(where) >= 0).all() or not own.get(step) or (self.view(where) != -1 - step).all(), \
                    f"{name} lies in the scratch of its own kernel"
                self.numbers[name], self.where[name] = len(self.numbers) + 1, where
                self.view(where)[...] = self.numbers[name]
            taken = [self.place(name) for name, _ in made] if self.element_wise(launch) else []
            self.check([name for name in read if self.place(name) not in taken], launch, "is overwritten by")
            self.check([name for name, _ in made], launch, "shares memory with another result of")

    def check(self, names: list[str], launch: Launch, what: str) -> None:
        for name in names:
            assert (self.view(self.where[name]) == self.numbers[name]).all(), f"{name} {what} {launch.nodes[-1]}"

    def view(self, where: dict[str, Any]) -> np.ndarray:
        """The bytes of a result, one more axis than it has: the bytes of an element."""
        start, shape = size(where["offset"], self.env), [size(extent, self.env) for extent in where["shape"]]
        shape.append(np.dtype(where["dtype"]).itemsize)
        whole = self.tags[start:start + int(np.prod(shape))].reshape(shape)
        part = where.get("part", [[0, extent] for extent in shape[:-1]])
        return whole[tuple(slice(size(s, self.env), size(e, self.env)) for s, e in part)]

    def place(self, name: str) -> tuple:
        """Where a result lies: equal for two of which each element lies where that of the other does."""
        view = self.view(self.where[name])
        return view.__array_interface__["data"][0], view.shape, view.strides

    def element_wise(self, launch: Launch) -> bool:
        return all(REGISTRY[self.program.graph[m].op].pointwise for m in launch.nodes)


def replay(program: Planned, *batches: int) -> None:
    """Replays a program at some batches."""
    for batch in batches:
        Replay(program, batch).run()
