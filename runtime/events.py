"""What training tells whoever watches it: plain events, and an observer that ignores them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Start:
    """A run begins, or goes on after `step` steps. epochs: as planned, a fraction where the run is given in steps."""

    net: str
    out: Path
    step: int
    total_steps: int
    steps_per_epoch: int
    epochs: float
    examples: int
    monitor: str
    resumed: bool


@dataclass(frozen=True)
class Step:
    """A step is done. step, epoch: counted from 1. readings: of this batch; means: of the epoch so far."""

    step: int
    epoch: int
    step_in_epoch: int
    examples: int
    lr: float
    readings: Mapping[str, float]
    means: Mapping[str, float]


@dataclass(frozen=True)
class Epoch:
    """An epoch is done. train: means over its batches; validate: over the validation part, None where there is none.

    improved: whether this is the best so far. waited: epochs since the best. rate: training examples a second.
    """

    epoch: int
    step: int
    train: Mapping[str, float]
    validate: Mapping[str, float] | None
    lr: float
    rate: float
    seconds: float
    improved: bool
    waited: int
    patience: int | None


@dataclass(frozen=True)
class Result:
    """How a run ended. status: finished (its length is reached), stopped (no improvement), or interrupted.

    best_epoch, best_value: where the monitored value was best, None before the first validation; the executable holds
    these parameters, except after an interruption. best, last: the files.
    """

    status: str
    epochs: int
    steps: int
    monitor: str
    best_epoch: int | None
    best_value: float | None
    values: Mapping[str, float]
    best: Path
    last: Path
    seconds: float


class Observer:
    """Ignores everything; override what is of interest."""

    def on_start(self, event: Start) -> None:
        pass

    def on_step(self, event: Step) -> None:
        pass

    def on_epoch(self, event: Epoch) -> None:
        pass

    def on_end(self, result: Result) -> None:
        pass

    def close(self) -> None:
        """Gives back what showing needs (a live line on a terminal); for whoever made the observer, also after errors."""
