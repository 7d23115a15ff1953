"""Losses, metrics, predictions and the confusion matrix of a net over one part of the data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.data import Part, batches
from runtime.errors import NetcError

if TYPE_CHECKING:
    from runtime.execute import Executable


class Interrupted(Exception):
    """The caller's `stop` asked to end the work early."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. values: `loss` (the sum of all losses), each loss where there are several, each metric.

    confusion: [classes, classes], rows the true class, columns the predicted one; None where it was not asked for.
    predictions: output name → [examples, …], in the order of the part; None likewise.
    """

    values: Mapping[str, float]
    examples: int
    seconds: float
    label: str | None = None
    confusion: np.ndarray | None = None
    predictions: Mapping[str, np.ndarray] | None = field(default=None, repr=False)

    @property
    def per_class(self) -> list[float | None] | None:
        """For each class the share of its examples that were recognized; None for a class without examples."""
        if self.confusion is None:
            return None
        return [int(row[i]) / int(row.sum()) if row.sum() else None for i, row in enumerate(self.confusion)]


@dataclass
class Averages:
    """Means of readings, each batch weighing as many times as it has examples."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, readings: Mapping[str, float], examples: int) -> None:
        for name, value in readings.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * examples
        self.count += examples

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()}


def program_of(executable: Executable, name: str) -> Mapping[str, Any]:
    """The manifest's entry of a program; raises NetcError E0640 where the artifact was compiled without it."""
    if name not in executable.programs:
        raise NetcError("E0640", f"{executable.name} was compiled without the program `{name}`",
                        "compile it with --train" if name == "step" else "give the net a `loss` or `metric` line")
    return executable.programs[name]


def inputs_of(program: Mapping[str, Any]) -> list[str]:
    """Names of the fields of the net that a program reads (scalars such as the learning rate left out)."""
    return [a["name"] for a in program["arguments"] if a["kind"] == "input" and a["role"] != "scalar"]


def readings(program: Mapping[str, Any], results: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Losses and metrics of one call: `loss`, the sum; each loss by name if there are several; each metric."""
    values = {role: {a["name"]: float(results[a["name"]].reshape(())) for a in program["arguments"]
                     if a["kind"] == "output" and a["role"] == role} for role in ("loss", "metric")}
    total = {"loss": math.fsum(values["loss"].values())} if values["loss"] else {}
    return {**total, **(values["loss"] if len(values["loss"]) > 1 else {}), **values["metric"]}


def evaluate(executable: Executable, part: Part, batch: int, *, predictions: bool = False, confusion: bool = False,
             stop: Callable[[], bool] = lambda: False) -> Evaluation:
    """Runs the program `evaluate` over a part, in its own order, without augmentation; parameters stay as they are.

    predictions: keep every output. confusion: count it for the first label with classes whose scores an output
    [N, classes] gives. stop: asked before each batch. Raises NetcError E0640 (no such program), Interrupted.
    """
    program = program_of(executable, "evaluate")
    names = inputs_of(program)
    outputs = [a["name"] for a in program["arguments"] if a["kind"] == "output" and a["role"] == "output"]
    label, scores, classes = _classification(part, program) if confusion else (None, None, 0)
    counts = np.zeros((classes, classes), np.int64) if scores else None
    kept: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    executable.prepare()
    averages, start = Averages(), time.perf_counter()
    for arrays in batches(part, batch, shuffle=False, seed=0, epoch=0):
        if stop():
            raise Interrupted
        results = executable.call("evaluate", {name: arrays[name] for name in names})
        examples = len(next(iter(arrays.values())))
        averages.add(readings(program, results), examples)
        if counts is not None:
            true, found = arrays[label].astype(np.int64), results[scores].argmax(axis=1)
            counts += np.bincount(true * classes + found, minlength=classes * classes).reshape(classes, classes)
        if predictions:
            for name in outputs:
                kept[name].append(results[name].copy())
    return Evaluation(averages.means(), averages.count, time.perf_counter() - start, label, counts,
                      {name: np.concatenate(arrays) for name, arrays in kept.items()} if predictions else None)


def _classification(part: Part, program: Mapping[str, Any]) -> tuple[str | None, str | None, int]:
    """The label, the output that scores its classes, and how many there are; (None, None, 0) where there is none."""
    for label in part.fields:
        if label.role == "label" and label.classes and not label.shape:
            for argument in program["arguments"]:
                if argument["kind"] == "output" and argument["role"] == "output" \
                        and list(argument["shape"][1:]) == [label.classes]:
                    return label.name, argument["name"], label.classes
    return None, None, 0
