"""Learning-rate schedules: pure functions of the step, so that a resumed run goes on exactly where it was."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from runtime.errors import NetcError

UNITS = ("epochs", "steps")


@dataclass(frozen=True)
class Duration:
    """A length of training: `5 epochs`, `500 steps`. JSON: {"epochs": number} or {"steps": number}."""

    value: float
    unit: str

    def steps(self, steps_per_epoch: int) -> float:
        return self.value * steps_per_epoch if self.unit == "epochs" else self.value

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit if self.value != 1 else self.unit[:-1]}"

    def to_json(self) -> dict[str, float]:
        return {self.unit: self.value}

    @classmethod
    def from_json(cls, json: Any, what: str) -> Duration:
        """Raises NetcError E0580 for anything that is no length of training; `what` names it."""
        if isinstance(json, Mapping) and len(json) == 1:
            [(unit, value)] = json.items()
            if unit in UNITS and is_number(value) and value > 0:
                return cls(value, unit)
        raise NetcError("E0580", f"{what} is a positive number of epochs or steps, not {show(json)}",
                        "write for example `5 epochs` or `500 steps`")


@dataclass(frozen=True)
class Run:
    """What a schedule may depend on besides its arguments: steps in an epoch, and in the whole run as planned."""

    steps_per_epoch: int
    total_steps: float

    def steps(self, duration: Duration | None, default: float) -> float:
        return default if duration is None else duration.steps(self.steps_per_epoch)


def _constant(t: int, run: Run, lr: float) -> float:
    return lr


def _step(t: int, run: Run, lr: float, every: Duration, gamma: float) -> float:
    return lr * gamma ** math.floor(t / every.steps(run.steps_per_epoch))


def _multistep(t: int, run: Run, lr: float, at: list[Duration], gamma: float) -> float:
    return lr * gamma ** bisect_right(sorted(d.steps(run.steps_per_epoch) for d in at), t)


def _exp(t: int, run: Run, lr: float, gamma: float, every: Duration | None) -> float:
    return lr * gamma ** (t / run.steps(every, run.steps_per_epoch))


def _inv(t: int, run: Run, lr: float, gamma: float, power: float) -> float:
    return lr * (1 + gamma * t) ** -power


def _poly(t: int, run: Run, lr: float, power: float, over: Duration | None, end: float) -> float:
    return end + (lr - end) * (1 - min(1.0, t / run.steps(over, run.total_steps))) ** power


def _cosine(t: int, run: Run, lr: float, over: Duration | None, end: float) -> float:
    part = min(1.0, t / run.steps(over, run.total_steps))
    return end + (lr - end) * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class Kind:
    """A schedule: its formula for people, its function, and its arguments with their defaults (`...`: needed)."""

    formula: str
    rate: Callable[..., float]
    arguments: Mapping[str, Any]


# t counts the steps done before this one, from 0; an argument in epochs is that many times the steps of an epoch.
# Caffe: src/caffe/solvers/sgd_solver.cpp, GetLearningRate.
KINDS: dict[str, Kind] = {
    "constant": Kind("lr", _constant, {"lr": ...}),
    # Caffe's `step`
    "step": Kind("lr * gamma ^ floor(t / every)", _step, {"lr": ..., "every": ..., "gamma": 0.1}),
    # Caffe's `multistep`
    "multistep": Kind("lr * gamma ^ (how many of `at` are <= t)", _multistep, {"lr": ..., "at": ..., "gamma": 0.1}),
    # every: an epoch. Caffe's `exp` where every = 1 step
    "exp": Kind("lr * gamma ^ (t / every)", _exp, {"lr": ..., "gamma": ..., "every": None}),
    # Caffe's `inv`
    "inv": Kind("lr * (1 + gamma * t) ^ -power", _inv, {"lr": ..., "gamma": 1e-4, "power": 0.75}),
    # Caffe's `poly` where end = 0; over: the whole run
    "poly": Kind("end + (lr - end) * (1 - min(t / over, 1)) ^ power", _poly,
                 {"lr": ..., "power": 1.0, "over": None, "end": 0.0}),
    # Loshchilov and Hutter 2017 (SGDR), eq. 5, without restarts; over: the whole run
    "cosine": Kind("end + (lr - end) * (1 + cos(pi * min(t / over, 1))) / 2", _cosine,
                   {"lr": ..., "over": None, "end": 0.0}),
}

DURATIONS = ("every", "over", "warmup")


@dataclass(frozen=True)
class Schedule:
    """A learning rate over time.

    kind: a key of `KINDS`. args: its arguments by name, those with a default may be left out. Every kind also takes
    `warmup`, a duration W: the rate is multiplied by min(1, (t + 1) / W), a linear rise to what the kind says (Goyal et
    al. 2017, section 2.2); the steps of the rise count as steps of the schedule.
    JSON: {"kind": text, "args": {name: number, duration, list of durations, or null for the default}}.
    """

    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def rate(self, t: int, steps_per_epoch: int, total_steps: float) -> float:
        """The learning rate of the step after t steps (t = 0 for the first)."""
        run = Run(steps_per_epoch, total_steps)
        arguments = {**KINDS[self.kind].arguments, **self.args}
        warmup = arguments.pop("warmup", None)
        rate = KINDS[self.kind].rate(t, run, **arguments)
        return rate if warmup is None else rate * min(1.0, (t + 1) / warmup.steps(steps_per_epoch))

    def to_json(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            if isinstance(value, Duration):
                return value.to_json()
            return [plain(v) for v in value] if isinstance(value, list) else value
        return {"kind": self.kind, "args": {name: plain(value) for name, value in self.args.items()}}

    @classmethod
    def from_json(cls, json: Any) -> Schedule:
        """Reads a schedule; a plain number is a constant one. Raises NetcError E0580, E0581."""
        if is_number(json):
            json = {"kind": "constant", "args": {"lr": json}}
        if not isinstance(json, Mapping) or set(json) != {"kind", "args"} or not isinstance(json["args"], Mapping):
            raise NetcError("E0580", f"a learning rate is a number or a schedule, not {show(json)}",
                            "write for example lr = 0.01 or lr = step(0.01, every = 5 epochs)")
        kind, args = json["kind"], {name: value for name, value in json["args"].items() if value is not None}
        if kind not in KINDS:
            close = get_close_matches(str(kind), KINDS, n=1)
            raise NetcError("E0581", f"there is no learning-rate schedule `{kind}`",
                            f"did you mean `{close[0]}`?" if close else f"there are {', '.join(KINDS)}")
        known = KINDS[kind].arguments
        for name in args:
            if name not in known and name != "warmup":
                raise NetcError("E0581", f"the schedule `{kind}` has no argument `{name}`",
                                f"it has {', '.join([*known, 'warmup'])}")
        for name, default in known.items():
            if default is ... and name not in args:
                raise NetcError("E0581", f"the schedule `{kind}` needs `{name}`",
                                f"its formula is {KINDS[kind].formula}")
        return cls(kind, {name: _argument(kind, name, value) for name, value in args.items()})


def _argument(kind: str, name: str, value: Any) -> Any:
    what = f"`{name}` of the schedule `{kind}`"
    if name == "at":
        if not isinstance(value, (list, tuple)) or not value:
            raise NetcError("E0580", f"{what} is a list of durations, not {show(value)}",
                            "write at = [5 epochs, 8 epochs]")
        return [Duration.from_json(v, what) for v in value]
    if name in DURATIONS:
        return Duration.from_json(value, what)
    if not is_number(value) or value < 0:
        raise NetcError("E0580", f"{what} is a number from 0, not {show(value)}",
                        f"the formula is {KINDS[kind].formula}")
    return float(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def show(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{v} {k}" for k, v in value.items()) or "nothing"
    return repr(value)
