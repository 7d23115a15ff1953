"""The stages of a net on its way through the passes, each with what would be lowered of it; and dumps that go on.

A dump is the text of a graph with a head of comment lines: what program it is of, and which pass ran last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compiler import programs, tally
from compiler.cost import MACHINES
from compiler.dims import Dim
from compiler.gpus import GPUS, USUAL, nearest
from compiler.ir import Graph
from compiler.passes import pipeline
from compiler.passes.expand import expand
from compiler.passes.pipeline import Step
from compiler.passes.select_mode import select_mode
from compiler.prepare import hoist
from compiler.target import CPUS, parse_cpu
from compiler.text import from_text, to_text
from runtime.errors import NetcError

MODES = {"run": "deploy", "evaluate": "evaluate", "step": "train"}
SOURCE = "source"


@dataclass(frozen=True)
class Stage:
    """The graph behind a pass (or the source, whose `step` is None), and `lowered`: that graph as primitives, without
    what an artifact computes when its parameters are loaded."""

    number: int
    name: str
    graph: Graph
    lowered: Graph
    step: Step | None = None

    @property
    def layers(self) -> bool:
        """Whether the graph is one of the user's layers, not of primitives."""
        return _kind(self.name) == 0


@dataclass(frozen=True)
class History:
    """All stages of one program of a net. `source` is its graph of layers, None where a dump lies apart from it."""

    net: str
    program: str
    options: programs.Options
    source: Graph | None
    train: dict[str, Any] | None
    stages: Sequence[Stage]
    counted: dict[int, dict[str, float]] = field(default_factory=dict, compare=False)

    def counts(self, stage: Stage) -> dict[str, float]:
        """What `compiler.tally` counts of a stage."""
        key = id(stage.lowered)  # several stages share one
        if key not in self.counted:
            self.counted[key] = tally.tally(stage.lowered, MACHINES[self.options.machine], self.options.batch)
        return self.counted[key]

    @cached_property
    def joint(self) -> Graph | None:
        """The source as what is baseline for a program: of a training step, the joint graph."""
        return programs.join(self.source, self.train) if self.source and self.train else self.source

    def baselines(self) -> dict[str, Any]:
        """{unfused, elementwise_fused, floor_bytes} of the source; each None where there is no source."""
        if self.joint is None:
            return {"unfused": None, "elementwise_fused": None, "floor_bytes": None}
        machine, batch = MACHINES[self.options.machine], self.options.batch
        fused = tally.elementwise_fused_step if self.train else tally.elementwise_fused
        return {"unfused": tally.unfused(self.joint, machine, batch),
                "elementwise_fused": fused(self.joint, machine, batch), "floor_bytes": tally.floor(self.joint, batch)}


def options(target: str, batch: int, **others: Any) -> programs.Options:
    """How programs are optimized for a target's text (`cuda` alone is the usual GPU of the cost tables); others: fields of
    Options. Raises NetcError E0412, E0701."""
    kind, _, name = target.strip().partition(":")
    if kind == "cpu":
        if name not in ("", "host", *CPUS):
            raise NetcError("E0701", f"there is no target `{target}`", "known are cpu, cpu:NAME and cuda:ARCH")
        cpu = parse_cpu(target.strip())
        return programs.Options("cpu", batch, block=cpu.lanes, low=cpu.low, **others)
    if kind != "cuda":
        raise NetcError("E0701", f"there is no target `{target}`", "known are cpu, cpu:NAME and cuda:ARCH")
    gpu = nearest(name or USUAL)
    if gpu is None:
        raise NetcError("E0412", f"there is no cost table for `{target}`", f"there are tables for cpu and cuda:{', '.join(GPUS)}")
    return programs.Options(gpu.arch, batch, **others)


def of_net(loaded: Any, program: str, options: programs.Options,
           scratch: Mapping[str, Mapping[str, Dim]] = MappingProxyType({})) -> History:
    """Runs all passes on a loaded net. scratch: as in `programs.build`. Raises what `programs.of` raises."""
    programs.build(loaded.program, [program], replace(options, keep=True), scratch)
    source = select_mode(loaded.graph, MODES[program])
    train = loaded.train_config if program == "step" else None
    return History(loaded.program.net, program, options, source, train, _stages(source, 0, SOURCE, options, train))


def of_dump(path: Path, options: programs.Options) -> History:
    """Goes on from a dump with the passes behind it. Raises NetcError E0431 for a file that `dump` did not write."""
    graph, head = read_dump(path)
    after, train = head["after"], head.get("train")
    rest = pipeline.PIPELINE[pipeline.PIPELINE.index(after) + 1:] if after != SOURCE else pipeline.PIPELINE
    first = path.with_name(f"00-{SOURCE}.txt")
    source = read_dump(first)[0] if first.exists() else None
    _go_on(graph, after, rest, options, train)
    stages = _stages(graph, len(pipeline.PIPELINE) - len(rest), after, options, train)
    return History(graph.name, head["program"], options, source, train, stages)


def _go_on(graph: Graph, after: str, rest: Sequence[str], options: programs.Options,
           train: dict[str, Any] | None) -> None:
    training = train is not None

    def run(graph: Graph, names: Sequence[str]) -> Graph:
        names = [name for name in names if name in rest]
        graph, steps = pipeline.optimize(graph, options.context(training, packed=not training), names=names,
                                         off=options.off, only=options.only, check=options.check, keep=True)
        options.steps.extend(steps)
        return graph

    if after == SOURCE or after in pipeline.LAYERS:
        graph = _primitives(run(graph, pipeline.LAYERS), options, train)
    if after not in pipeline.KERNELS:
        graph = run(graph, pipeline.PRIMITIVES)
        if not training:
            hoist({"program": graph})
    run(graph, pipeline.KERNELS)


def _primitives(graph: Graph, options: programs.Options, train: dict[str, Any] | None) -> Graph:
    native = MACHINES[options.machine].native
    return programs.join(graph, train) if train else expand(graph, lambda node: not native(node))


def _stages(first: Graph, number: int, name: str, options: programs.Options,
            train: dict[str, Any] | None) -> list[Stage]:
    def lowered(graph: Graph, name: str) -> Graph:
        if name in pipeline.KERNELS:
            return graph
        graph = _primitives(graph, options, train) if name == SOURCE or name in pipeline.LAYERS else graph.copy()
        if not train:
            hoist({"program": graph})
        return graph

    stages = [Stage(number, name, first, lowered(first, name))]
    for at, step in enumerate(options.steps, number + 1):
        same = not step.taken and not step.skipped and _kind(step.name) == _kind(stages[-1].name)
        graph = stages[-1].lowered if same else lowered(step.graph, step.name)
        stages.append(Stage(at, step.name, step.graph, graph, step))
    return stages


def _kind(name: str) -> int:
    """What a graph behind a pass is of: layers, primitives, or primitives with kernels."""
    return (name in pipeline.PRIMITIVES) + 2 * (name in pipeline.KERNELS)


# --- dumps ----------------------------------------------------------------------------------------------------------

def dump(history: History, folder: Path, stages: Sequence[Stage]) -> None:
    """Writes a numbered text for each stage. Raises NetcError E0413 where it cannot."""
    try:
        os.makedirs(folder, exist_ok=True)
        for stage in stages:
            head = {"program": history.program, "after": stage.name} | ({"train": history.train} if history.train else {})
            text = "".join(f"# {key}: {json.dumps(value)}\n" for key, value in head.items()) + to_text(stage.graph)
            (folder / f"{stage.number:02}-{stage.name}.txt").write_text(text, encoding="utf-8")
    except OSError as problem:
        raise NetcError("E0413", f"cannot write {folder}: {problem.strerror}",
                        "give a folder to --dump-dir") from problem


def read_dump(path: Path) -> tuple[Graph, Mapping[str, Any]]:
    """A graph that `dump` wrote, and what its comments say: the pass before, the program. Raises NetcError E0431, E0620."""
    wrong = NetcError("E0431", f"{path} is no dump of a pass",
                      "give a text that `netc opt --dump-dir` wrote, or a .net file")
    try:
        text = path.read_text(encoding="utf-8")
        head = {key: json.loads(value) for key, _, value in (
            line[2:].partition(": ") for line in text.splitlines() if line.startswith("# "))}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise wrong from problem
    if head.get("after") not in (SOURCE, *pipeline.PIPELINE) or head.get("program") not in MODES:
        raise wrong
    return from_text(text, str(path)), head
