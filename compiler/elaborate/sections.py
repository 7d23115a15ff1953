"""The `train` and `data` sections: settings checked, units resolved, everything as plain data for the runtime.

The tables here are the language's list of schedules and augmentations, whose formulas are the runtime's
(`runtime/schedule.py`, `runtime/data/augment.py`); optimizers are those of `compiler/optimizer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compiler import optimizer
from compiler.elaborate.arguments import Binder, Callee
from compiler.elaborate.expressions import EXPECTED, Evaluator, listing
from compiler.elaborate.files import Unit, alias, imported
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.values import Listed, Quantity, describe, is_int, is_number, show
from compiler.ops.base import parse_signature
from dsl import tree
from dsl.diagnostics import Note, Span, did_you_mean

# What an optimizer's `lr` is when it is left out; sgd has no rate that suits all.
RATES = {"adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-2, "adagrad": 1e-2, "adadelta": 1.0}


def optimizer_signature(name: str, settings: Mapping[str, float | bool]) -> str:
    """`lr: rate, momentum: float = 0.0, …`: `lr` is a number or a schedule."""
    words = [f"{key}: {'bool' if isinstance(value, bool) else 'float'} = {show(value)}"
             for key, value in settings.items()]
    return ", ".join([f"lr: rate = {RATES[name]}" if name in RATES else "lr: rate", *words])


OPTIMIZERS = {name: optimizer_signature(name, settings) for name, (_, settings) in optimizer.OPTIMIZERS.items()}

# The learning rate at step t (from 0; durations in epochs count as that many times the steps of an epoch):
#   constant   lr
#   step       lr * gamma ** floor(t / every)
#   multistep  lr * gamma ** (how many of `at` are <= t)
#   exp        lr * gamma ** (t / every)
#   inv        lr * (1 + gamma * t) ** -power                                     (Caffe's)
#   poly       end + (lr - end) * (1 - min(t / over, 1)) ** power
#   cosine     end + (lr - end) * (1 + cos(pi * min(t / over, 1))) / 2
# and with `warmup`, all of it times min((t + 1) / warmup, 1). `over` is by default the whole run.
SCHEDULES = {
    "constant": "lr: float, warmup: duration = none",
    "step": "lr: float, every: duration, gamma: float = 0.1, warmup: duration = none",
    "multistep": "lr: float, at: durations, gamma: float = 0.1, warmup: duration = none",
    "exp": "lr: float, gamma: float, every: duration = none, warmup: duration = none",
    "inv": "lr: float, gamma: float = 1e-4, power: float = 0.75, warmup: duration = none",
    "poly": "lr: float, power: float = 1.0, over: duration = none, end: float = 0.0, warmup: duration = none",
    "cosine": "lr: float, over: duration = none, end: float = 0.0, warmup: duration = none",
}

AUGMENTATIONS = {
    "crop": "pad: int", "flip": "direction: horizontal|vertical = horizontal", "jitter": "amount: float",
    "rotate": "degrees: float", "noise": "std: float", "erase": "size: int",
}

# argument → lowest value, highest value, whether these two are excluded
RANGES: dict[str, tuple[float, float, bool]] = {
    "lr": (0, math.inf, False), "end": (0, math.inf, False), "momentum": (0, 1, False), "beta1": (0, 1, False),
    "beta2": (0, 1, False), "rho": (0, 1, False), "alpha": (0, 1, False), "lr_decay": (0, math.inf, False),
    "initial_accumulator": (0, math.inf, False), "eps": (0, math.inf, True), "weight_decay": (0, math.inf, False),
    "gamma": (0, math.inf, True), "power": (0, math.inf, True),
}

TRAIN_KEYS = ("net", "data", "optimizer", "run", "patience", "seed", "monitor")
DATA_KEYS = ("source", "batch", "split", "augment", "feed", "shuffle", "seed", "classes", "root")
PARTS = ("train", "validate", "test")
UNITS = {"epoch": "epochs", "epochs": "epochs", "step": "steps", "steps": "steps"}

EXPECTED |= {
    "rate": "a number or a schedule such as `cosine(0.1)`", "duration": "a duration such as `5 epochs` or `500 steps`",
    "durations": "a list of durations such as [10 epochs, 15 epochs]",
}


@dataclass(frozen=True)
class TrainConfig:
    """A resolved train section. A duration is {"epochs": n} or {"steps": n}.

    name, net, data: of the section, its net and its data section (None: the file has none).
    optimizer: {"name", "args"}: a name of OPTIMIZERS and all its arguments but the learning rate.
    schedule: {"kind", "args"}: a name of SCHEDULES and all its arguments; `warmup` None where there is none.
    run: duration of the training. patience: epochs without improvement after which it stops, or None. seed: from 0.
    monitor: {"name": "loss" or a metric's name, "mode": "min" or "max"}: the value on the validation part that says
    which epoch is the best, and what patience waits for. By default the loss (the sum of all `loss` lines).
    """

    name: str
    net: str
    data: str | None
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    run: dict[str, int]
    patience: int | None
    seed: int
    monitor: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data, the fields by their names."""
        return asdict(self)


class SectionEvaluator(Evaluator):
    """Evaluates the settings of one section."""

    def __init__(self, report: Report, unit: Unit, section: tree.Section, keys: tuple[str, ...]):
        super().__init__(report, unit.scope, lambda name: imported(unit, report, name))
        self.unit = unit
        self.section = section
        self.failed = False
        self.missing: list[str] = []
        self.settings: dict[str, tree.Setting] = {}
        kind = section.kind
        for setting in section.settings:
            if setting.name not in keys:
                self.report.error("E0520", f"a {kind} section has no `{setting.name}`", setting.span,
                                  did_you_mean(setting.name, keys) or f"it has {', '.join(keys)}")
                self.failed = True
            elif setting.name in self.settings:
                self.report.error("E0520", f"`{setting.name}` is set twice", setting.span, None,
                                  [Note("it is set", self.settings[setting.name].span)])
                self.failed = True
            else:
                self.settings[setting.name] = setting

    def setting(self, name: str, read: Callable[[tree.Expression], Any], default: Any = None,
                required: str | None = None) -> Any:
        """One setting, read by `read`; `required` is an example for the hint where it must not be missing."""
        if name not in self.settings:
            if required is not None:
                self.missing.append(f"{name} = {required}")
            return default
        try:
            return read(self.settings[name].value)
        except Failed:
            self.failed = True
            return default

    def finish(self) -> None:
        """Reports what is missing; raises Failed where anything of the section went wrong."""
        if self.missing:
            names = " and ".join(f"`{text.split()[0]}`" for text in self.missing)
            self.report.error("E0521", f"the {self.section.kind} section `{self.section.name}` needs {names}",
                              self.section.span, f"add `{', '.join(self.missing)}`")
            self.failed = True
        if self.failed:
            raise Failed

    def of(self, name: str) -> str:
        return f"`{name}` of `{self.section.name}`"

    def convert(self, part: tree.Expression, kind: str, what: str) -> Any:
        if kind == "duration":
            return self.duration(part, what)
        if kind == "durations":
            return self.durations(part, what)
        if kind == "rate":
            return self.rate(part, what)
        return super().convert(part, kind, what)

    # --- durations, rates, calls ---------------------------------------------------------------------------------

    def duration(self, part: tree.Expression, what: str) -> dict[str, int | float]:
        return self.as_duration(self.value(part), part.span, what)

    def as_duration(self, value: Any, span: Span, what: str) -> dict[str, int | float]:
        if not isinstance(value, Quantity) or value.unit not in UNITS:
            hint = "the units are `epochs` and `steps`"
            if is_number(value):
                hint = f"write `{value} epochs` or `{value} steps`"
            if isinstance(value, Quantity) and not value.is_percent:
                hint = did_you_mean(value.unit, UNITS) or hint
            self.fail("E0426", f"{what} is {EXPECTED['duration']}, got {describe(value)}", span, hint)
        unit = UNITS[value.unit]
        if value.value <= 0 or unit == "steps" and not is_int(value.value):
            self.fail("E0425", f"{what} is more than 0" + (", in whole steps" if unit == "steps" else "") +
                      f", got {describe(value)}", span)
        return {unit: value.value}

    def durations(self, part: tree.Expression, what: str) -> list[dict[str, int | float]]:
        value = self.value(part)
        if not isinstance(value, Listed) or not value.items:
            self.fail("E0426", f"{what} is {EXPECTED['durations']}, got {describe(value)}", part.span)
        self.no_names(value.items, what)
        marks = [self.as_duration(v, span, what) for _, v, span in value.items]
        for before, after, (_, _, span) in zip(marks, marks[1:], value.items[1:]):
            if before.keys() != after.keys() or list(before.values()) >= list(after.values()):
                self.fail("E0425", f"{what} rises, all in one unit", span)
        return marks

    def rate(self, part: tree.Expression, what: str) -> dict[str, Any]:
        """A learning rate as {"kind", "args"}."""
        if isinstance(part, tree.Call) and part.callee.text != "dims":
            kind, args = self.table_call(part, SCHEDULES, "schedule", "E0522")
            if kind == "exp" and args["every"] is None:
                args["every"] = {"epochs": 1}
            return {"kind": kind, "args": args}
        lr = self.convert(part, "float", what)
        self.in_range("lr", lr, part.span, what)
        return {"kind": "constant", "args": {"lr": float(lr), "warmup": None}}

    def table_call(self, part: tree.Expression, table: Mapping[str, str], kind: str,
                   code: str) -> tuple[str, dict[str, Any]]:
        """A call of one of the names of a table, as the name and all arguments by name."""
        if isinstance(part, tree.Name):
            part = tree.Call(part.span, part)
        if not isinstance(part, tree.Call):
            self.fail(code, f"this is no {kind}", part.span, f"write one of {listing(table)} with its arguments")
        name = part.callee.text
        if name not in table:
            self.fail(code, f"there is no {kind} `{name}`", part.callee.span,
                      did_you_mean(name, table) or f"there are {', '.join(table)}")
        parameters = parse_signature(table[name])
        bound = Binder(self, Callee(name, parameters), lambda part: False).bind(part.arguments, part.span)
        args = {}
        for arg in parameters:
            if arg.name not in bound:
                args[arg.name] = arg.default
                continue
            value = bound[arg.name].value
            args[arg.name] = float(value) if arg.kind == "float" else value
            if arg.kind == "float":
                self.in_range(arg.name, value, bound[arg.name].span, f"`{arg.name}` of `{name}`")
        return name, args

    def in_range(self, name: str, value: float, span: Span, what: str) -> None:
        low, high, excluded = RANGES.get(name, (-math.inf, math.inf, False))
        below = value <= low if excluded else value < low
        above = value >= high
        if below or above:
            upper = "" if high == math.inf else f" and below {high}"
            self.fail("E0425", f"{what} is {'above' if excluded else 'at least'} {low}{upper}, got {show(value)}", span)

    # --- plain values --------------------------------------------------------------------------------------------

    def whole(self, part: tree.Expression, what: str, low: int) -> int:
        value = self.convert(part, "int", what)
        if value < low:
            self.fail("E0425", f"{what} is at least {low}, got {value}", part.span)
        return value

    def epochs(self, part: tree.Expression, what: str) -> int:
        duration = self.duration(part, what)
        if not is_int(duration.get("epochs")):
            self.fail("E0426", f"{what} is counted in whole epochs, got {describe(self.value(part))}", part.span,
                      "write `3 epochs`")
        return duration["epochs"]

    def reference(self, part: tree.Expression, kind: str, table: Callable[[Unit], dict[str, Any]]) -> tuple[Unit, Any]:
        """The net or data section that `net = …` names, and its file."""
        if not isinstance(part, tree.Name):
            self.fail("E0524", f"`{kind} = …` names a {kind}, without quotes", part.span)
        unit = alias(self.unit, self.report, part) if len(part.parts) > 1 else self.unit
        name = part.parts[-1]
        found = table(unit).get(name)
        if found is None:
            if not unit.complete:
                raise Failed
            self.fail("E0524", f"there is no {kind} `{part.text}`", part.span, did_you_mean(name, table(unit)))
        return unit, found

    def strings(self, value: Any, span: Span, what: str) -> str | list[str]:
        """A string, or a list of strings."""
        if isinstance(value, str):
            return value
        if not isinstance(value, Listed) or not value.items:
            self.fail("E0423", f"{what} is a string or a list of strings, got {describe(value)}", span)
        self.no_names(value.items, what)
        for _, item, at in value.items:
            if not isinstance(item, str):
                self.fail("E0423", f"{what} is a list of strings, got {describe(item)} in it", at)
        return [item for _, item, _ in value.items]

    def named(self, value: Listed, what: str, names: tuple[str, ...] | None) -> dict[str, tuple[Any, Span]]:
        """`[train = …, test = …]` by name."""
        found: dict[str, tuple[Any, Span]] = {}
        for name, item, span in value.items:
            if name is None:
                self.fail("E0525", f"each item of {what} has a name", span, f"write [{(names or ('image',))[0]} = …]")
            if names is not None and name not in names:
                self.fail("E0525", f"{what} has no part `{name}`", span,
                          did_you_mean(name, names) or f"the parts are {listing(names)}")
            if name in found:
                self.fail("E0525", f"`{name}` stands twice in {what}", span)
            found[name] = item, span
        return found


@dataclass(frozen=True)
class TrainSection:
    """A train section before its net was elaborated: which net and data section it names (None: the only one)."""

    section: tree.Section
    unit: Unit
    evaluator: SectionEvaluator
    net: tuple[Unit, tree.Net] | None
    data: tuple[Unit, tree.Section] | None
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    run: dict[str, int]
    patience: int | None
    seed: int

    def config(self, net: str, data: str | None, metrics: Mapping[str, str]) -> TrainConfig:
        """The configuration for a net; metrics: name → "min" or "max", which values are better."""
        monitor = self.evaluator.setting("monitor", lambda part: read_monitor(self.evaluator, part, metrics),
                                         {"name": "loss", "mode": "min"})
        self.evaluator.finish()
        return TrainConfig(self.section.name, net, data, self.optimizer, self.schedule, self.run, self.patience,
                           self.seed, monitor)


def read_train(report: Report, unit: Unit, section: tree.Section) -> TrainSection | None:
    """Everything of a train section that needs no graph; None where something is wrong (which is reported)."""
    ev = SectionEvaluator(report, unit, section, TRAIN_KEYS)
    net = ev.setting("net", lambda part: ev.reference(part, "net", lambda u: u.nets))
    data = ev.setting("data", lambda part: ev.reference(part, "data section", lambda u: u.data))
    method = ev.setting("optimizer", lambda part: read_optimizer(ev, part), required="sgd(lr = 0.1)")
    run = ev.setting("run", lambda part: read_run(ev, part), required="10 epochs")
    patience = ev.setting("patience", lambda part: ev.epochs(part, ev.of("patience")))
    seed = ev.setting("seed", lambda part: ev.whole(part, ev.of("seed"), 0), 0)
    try:
        ev.finish()
    except Failed:
        return None
    name, args = method
    schedule = args.pop("lr")
    if "over" in schedule["args"] and schedule["args"]["over"] is None:
        schedule["args"]["over"] = run
    return TrainSection(section, unit, ev, net, data, {"name": name, "args": args}, schedule, run, patience, seed)


def read_optimizer(ev: SectionEvaluator, part: tree.Expression) -> tuple[str, dict[str, Any]]:
    name, args = ev.table_call(part, OPTIMIZERS, "optimizer", "E0522")
    if not isinstance(args["lr"], dict):
        args["lr"] = {"kind": "constant", "args": {"lr": float(args["lr"]), "warmup": None}}
    if args.get("nesterov") and not args["momentum"]:
        ev.fail("E0425", "`nesterov` needs a momentum", part.span, "write `sgd(lr = …, momentum = 0.9, nesterov)`")
    return name, args


def read_run(ev: SectionEvaluator, part: tree.Expression) -> dict[str, int]:
    run = ev.duration(part, ev.of("run"))
    if not all(is_int(n) for n in run.values()):
        ev.fail("E0425", f"{ev.of('run')} is a whole number of epochs or steps", part.span)
    return run


def read_monitor(ev: SectionEvaluator, part: tree.Expression, metrics: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(part, (tree.Name, tree.String)):
        ev.fail("E0523", "`monitor` is `loss` or the name of a metric", part.span)
    name = part.text if isinstance(part, tree.Name) else part.value
    modes = {"loss": "min", **metrics}
    if name not in modes:
        ev.fail("E0523", f"the net has no metric `{name}` to monitor", part.span,
                did_you_mean(name, modes) or f"there are {listing(modes)}")
    return {"name": name, "mode": modes[name]}


def read_data(report: Report, unit: Unit, section: tree.Section) -> dict[str, Any] | None:
    """A data section as the JSON of `runtime.data.config.DataConfig`; None where something is wrong."""
    ev = SectionEvaluator(report, unit, section, DATA_KEYS)
    root = ev.setting("root", lambda part: ev.convert(part, "str", ev.of("root")), "")
    config = {
        "name": section.name,
        "source": ev.setting("source", lambda part: read_source(ev, part), required='"csv:file.csv"'),
        "root": str(unit.folder / root),
        "batch": ev.setting("batch", lambda part: ev.whole(part, ev.of("batch"), 1), required="64"),
        "split": ev.setting("split", lambda part: read_split(ev, part)),
        "augment": ev.setting("augment", lambda part: read_augment(ev, part), []),
        "feed": ev.setting("feed", lambda part: read_feed(ev, part), {}),
        "shuffle": ev.setting("shuffle", lambda part: ev.convert(part, "bool", ev.of("shuffle")), True),
        "seed": ev.setting("seed", lambda part: ev.whole(part, ev.of("seed"), 0), 0),
        "classes": ev.setting("classes", lambda part: read_classes(ev, part)),
    }
    try:
        ev.finish()
    except Failed:
        return None
    return config


def read_source(ev: SectionEvaluator, part: tree.Expression) -> str | dict[str, str]:
    value = ev.value(part)
    if not isinstance(value, Listed):
        return ev.coerce(value, "str", part.span, ev.of("source"))
    parts = ev.named(value, ev.of("source"), PARTS)
    if "train" not in parts:
        ev.fail("E0525", f"{ev.of('source')} gives no train part", part.span, 'add train = "…"')
    return {name: ev.coerce(item, "str", span, f"`{name}` of `source`") for name, (item, span) in parts.items()}


def read_split(ev: SectionEvaluator, part: tree.Expression) -> str | dict[str, float]:
    value = ev.value(part)
    if not isinstance(value, Listed):
        if isinstance(value, str):
            return value
        ev.fail("E0525", f"{ev.of('split')} is a list of shares or the path of an index file, got {describe(value)}",
                part.span, "write [train = 80%, validate = 10%, test = 10%]")
    shares = {}
    for name, (item, span) in ev.named(value, ev.of("split"), PARTS).items():
        if not (isinstance(item, Quantity) and item.is_percent):
            ev.fail("E0426", f"`{name}` of `split` is a share such as 70%, got {describe(item)}", span)
        if item.value < 0:
            ev.fail("E0425", f"`{name}` of `split` is not negative, got {describe(item)}", span)
        shares[name] = item.value / 100
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-9:
        ev.fail("E0525", f"the shares of {ev.of('split')} make {total * 100:g}%, not 100%", part.span)
    return shares


def read_augment(ev: SectionEvaluator, part: tree.Expression) -> list[dict[str, Any]]:
    if not isinstance(part, tree.List):
        ev.fail("E0423", f"{ev.of('augment')} is a list of augmentations", part.span, "write [crop(pad = 2), flip]")
    ev.no_names([(item.name, None, item.span) for item in part.items], ev.of("augment"))
    calls = ev.all([lambda item=item: ev.table_call(item.value, AUGMENTATIONS, "augmentation", "E0522")
                    for item in part.items])
    return [{"op": name, "args": args} for name, args in calls]


def read_feed(ev: SectionEvaluator, part: tree.Expression) -> dict[str, str | list[str]]:
    value = ev.value(part)
    if not isinstance(value, Listed):
        ev.fail("E0423", f"{ev.of('feed')} is a list such as [image = \"pixels\"], got {describe(value)}", part.span)
    items = ev.named(value, ev.of("feed"), None)
    return {name: ev.strings(item, span, f"`{name}` of `feed`") for name, (item, span) in items.items()}


def read_classes(ev: SectionEvaluator, part: tree.Expression) -> list[str]:
    names = ev.strings(ev.value(part), part.span, ev.of("classes"))
    if isinstance(names, str):
        ev.fail("E0423", f"{ev.of('classes')} is a list of strings", part.span, f'write ["{names}", …]')
    if len(set(names)) < len(names):
        ev.fail("E0525", f"{ev.of('classes')} names a class twice", part.span)
    return names


def check_feed(report: Report, section: tree.Section, config: Mapping[str, Any], fields: list[str]) -> None:
    """Every name of `feed` is an input or label of the net."""
    for name in config["feed"]:
        if name not in fields:
            span = next(item.span for setting in section.settings if setting.name == "feed"
                        for item in getattr(setting.value, "items", ()) if item.name == name)
            report.error("E0526", f"the net has no input or label `{name}` to feed", span,
                         did_you_mean(name, fields) or f"it has {listing(fields)}")
