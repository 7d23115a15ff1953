"""What the compiler tells the runtime about training: the resolved `train` section, as plain JSON, read strictly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import NetcError
from runtime.schedule import Duration, Schedule, show

REQUIRED = ("name", "net", "schedule", "run")
OPTIONAL = ("data", "optimizer", "patience", "seed", "monitor")


@dataclass(frozen=True)
class TrainConfig:
    """A resolved `train` section. JSON keys:

    name, net, data  names of the sections, for messages
    optimizer  {"name", "args"}: compiled into the program `step`; here it only says what a run was made with
    schedule   the learning rate, see `runtime.schedule.Schedule`
    run        how long: {"epochs": n} or {"steps": n}
    patience   epochs without a better validation after which training stops, or null
    seed       of shuffling, augmentation and dropout, from 0; default 0
    monitor    {"name": "loss" or a metric, "mode": "min" | "max"}; default the loss
    """

    name: str
    net: str
    schedule: Schedule
    run: Duration
    data: str | None = None
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    patience: int | None = None
    seed: int = 0
    monitor: str = "loss"
    mode: str = "min"

    @classmethod
    def from_json(cls, json: Any) -> TrainConfig:
        """Reads a section. Raises NetcError E0580 (unknown key, missing key, wrong value), E0581 (the schedule)."""
        if not isinstance(json, Mapping):
            raise NetcError("E0580", f"a train section is an object, not {show(json)}")
        unknown = [key for key in json if key not in REQUIRED + OPTIONAL]
        missing = [key for key in REQUIRED if key not in json]
        if unknown or missing:
            raise NetcError("E0580", f"the train section has an unknown key `{unknown[0]}`" if unknown else
                            f"the train section lacks `{missing[0]}`", f"its keys are {', '.join(REQUIRED + OPTIONAL)}")
        monitor = json.get("monitor") or {"name": "loss", "mode": "min"}
        if not isinstance(monitor, Mapping) or set(monitor) != {"name", "mode"} \
                or monitor["mode"] not in ("min", "max"):
            raise NetcError("E0580", f"`monitor` is {{name, mode: min or max}}, not {show(monitor)}")
        patience, seed = json.get("patience"), json.get("seed", 0)
        if patience is not None and not (_is_int(patience) and patience > 0):
            raise NetcError("E0580", f"`patience` is a positive number of epochs, not {show(patience)}")
        if not (_is_int(seed) and seed >= 0):
            raise NetcError("E0580", f"`seed` is a whole number from 0, not {show(seed)}")
        return cls(json["name"], json["net"], Schedule.from_json(json["schedule"]),
                   Duration.from_json(json["run"], "`run`"), json.get("data"), json.get("optimizer") or {},
                   patience, seed, monitor["name"], monitor["mode"])

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "net": self.net, "data": self.data, "optimizer": dict(self.optimizer),
                "schedule": self.schedule.to_json(), "run": self.run.to_json(), "patience": self.patience,
                "seed": self.seed, "monitor": {"name": self.monitor, "mode": self.mode}}

    def with_run(self, run: Duration) -> TrainConfig:
        """The same with another length; a schedule that spans the whole run spans the new one."""
        args = dict(self.schedule.args)
        if args.get("over") == self.run:
            args["over"] = run
        return dataclasses.replace(self, run=run, schedule=Schedule(self.schedule.kind, args))

    def total_steps(self, steps_per_epoch: int) -> int:
        return math.ceil(self.run.steps(steps_per_epoch))

    def rate(self, steps_done: int, steps_per_epoch: int) -> float:
        """The learning rate of the step after `steps_done` steps."""
        return self.schedule.rate(steps_done, steps_per_epoch, self.total_steps(steps_per_epoch))

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value of what is monitored beats the best one so far."""
        return best is None or (value < best if self.mode == "min" else value > best)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
