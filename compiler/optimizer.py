"""Optimizers as IR: for each trainable parameter the nodes that compute its next value and that of the optimizer's
state.

The formulas are those of PyTorch 2's torch.optim documentation. Inputs of the program: `lr` (f32 [], the learning
rate of this step) and, where a formula needs it, `step` (f32 [], 1 for the first step). State is kept in parameters
named `<parameter>/<slot>`. A parameter's `lr` multiplies the learning rate; weight decay leaves out parameters with
`decay` false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.build import Builder, Value
from compiler.ir import Graph, Node, TensorType

SCALAR = TensorType("f32", ())


@dataclass(frozen=True)
class Step:
    """One parameter's update: its value p, gradient g, learning rate; `decay` is the weight decay that applies to it.

    slot(name) is a state tensor of p's shape, at first zero; keep(name, value) sets its next value; shared(name,
    make) is a number that all parameters share.
    """

    b: Builder
    p: Value
    g: Value
    lr: Value
    decay: float
    slot: Callable[[str], Value]
    keep: Callable[[str, Value], None]
    shared: Callable[[str, Callable[[], Value]], Value]

    @property
    def count(self) -> Value:
        """The number of this step, from 1."""
        return self.b.input("step", SCALAR)

    def decayed(self) -> Value:
        """The gradient with weight decay as an L2 penalty."""
        return self.g + self.p * self.decay if self.decay else self.g


def sgd(s: Step, momentum: float, nesterov: bool, weight_decay: float) -> Value:
    g = s.decayed()
    if momentum:
        velocity = s.slot("momentum") * momentum + g
        s.keep("momentum", velocity)
        g = g + velocity * momentum if nesterov else velocity
    return s.p - s.lr * g


def _adam(s: Step, p: Value, g: Value, beta1: float, beta2: float, eps: float) -> Value:
    first = s.slot("first") * beta1 + g * (1 - beta1)
    second = s.slot("second") * beta2 + s.b.op("square", g) * (1 - beta2)
    s.keep("first", first)
    s.keep("second", second)
    correction1 = s.shared("correction1", lambda: s.b.op("bias_correction", s.count, beta=beta1))
    correction2 = s.shared("correction2", lambda: s.b.op("sqrt", s.b.op("bias_correction", s.count, beta=beta2)))
    return p - (s.lr / correction1) * first / (s.b.op("sqrt", second) / correction2 + eps)


def adam(s: Step, beta1: float, beta2: float, eps: float, weight_decay: float) -> Value:
    return _adam(s, s.p, s.decayed(), beta1, beta2, eps)


def adamw(s: Step, beta1: float, beta2: float, eps: float, weight_decay: float) -> Value:
    p = s.p * s.shared(f"1-{s.lr.name}*{s.decay}", lambda: 1 - s.lr * s.decay) if s.decay else s.p
    return _adam(s, p, s.g, beta1, beta2, eps)


def rmsprop(s: Step, rho: float, eps: float, momentum: float, centered: bool, weight_decay: float) -> Value:
    g = s.decayed()
    square = s.slot("square") * rho + s.b.op("square", g) * (1 - rho)
    s.keep("square", square)
    if centered:
        mean = s.slot("mean") * rho + g * (1 - rho)
        s.keep("mean", mean)
        square = square - s.b.op("square", mean)
    g = g / (s.b.op("sqrt", square) + eps)
    if momentum:
        g = s.slot("momentum") * momentum + g
        s.keep("momentum", g)
    return s.p - s.lr * g


def adagrad(s: Step, lr_decay: float, eps: float, initial_accumulator: float, weight_decay: float) -> Value:
    g = s.decayed()
    total = s.slot("sum") + s.b.op("square", g)
    s.keep("sum", total)
    if initial_accumulator:  # added where it is read: all state starts at zero
        total = total + initial_accumulator
    rate = s.lr / ((s.count - 1) * lr_decay + 1) if lr_decay else s.lr
    return s.p - rate * g / (s.b.op("sqrt", total) + eps)


def adadelta(s: Step, rho: float, eps: float, weight_decay: float) -> Value:
    g, sqrt = s.decayed(), lambda x: s.b.op("sqrt", x + eps)
    square = s.slot("square") * rho + s.b.op("square", g) * (1 - rho)
    change = g * (sqrt(s.slot("change")) / sqrt(square))
    s.keep("square", square)
    s.keep("change", s.slot("change") * rho + s.b.op("square", change) * (1 - rho))
    return s.p - s.lr * change


# name → (formula, its settings with their defaults; the type of a default is the type of the setting)
OPTIMIZERS: dict[str, tuple[Callable[..., Value], dict[str, float | bool]]] = {
    "sgd": (sgd, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
    "adam": (adam, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}),
    "adamw": (adamw, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}),
    "rmsprop": (rmsprop, {"rho": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False, "weight_decay": 0.0}),
    "adagrad": (adagrad, {"lr_decay": 0.0, "eps": 1e-10, "initial_accumulator": 0.0, "weight_decay": 0.0}),
    "adadelta": (adadelta, {"rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}),
}


def add_optimizer(graph: Graph, gradients: Mapping[str, str], config: Mapping[str, Any]) -> Graph:
    """Adds the updates of all parameters in `gradients` to `graph`, in place, and returns it.

    config["optimizer"]: {"name": a key of OPTIMIZERS, "args": {setting: value, …}}; what is left out has its default,
    `lr` is not read here. Raises ValueError for a name or setting that does not exist.
    """
    name = config["optimizer"]["name"]
    settings = {key: value for key, value in config["optimizer"].get("args", {}).items() if key != "lr"}
    if name not in OPTIMIZERS:
        raise ValueError(f"there is no optimizer {name}; there are {', '.join(OPTIMIZERS)}")
    formula, defaults = OPTIMIZERS[name]
    unknown = sorted(settings.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(defaults)}")
    settings = {**defaults, **settings}
    b = Builder(graph)
    numbers: dict[str, Value] = {}

    def shared(key: str, make: Callable[[], Value]) -> Value:
        if key not in numbers:
            with b.within("update", frozenset()):
                numbers[key] = make()
        return numbers[key]

    for path, gradient in gradients.items():
        parameter = graph[path]
        factor = parameter.attrs.get("lr", 1.0)
        lr = b.input("lr", SCALAR)
        if factor != 1:
            lr = shared(f"lr*{factor}", lambda: lr * factor)
        with b.within(f"update/{path}", parameter.origins):
            step = Step(b, b.value(path), b.value(gradient), lr,
                        settings["weight_decay"] if parameter.attrs.get("decay", True) else 0.0,
                        lambda slot: _slot(b, path, slot),
                        lambda slot, value: graph.updates.__setitem__(f"{path}/{slot}", value.name), shared)
            graph.updates[path] = formula(step, **settings).name
    return graph


def _slot(b: Builder, path: str, slot: str) -> Value:
    """The state tensor `path/slot`."""
    name = f"{path}/{slot}"
    if name not in b.graph:
        owner = b.graph[path]
        b.graph.add(Node(name, "parameter", (), owner.type, {
            "init": ("zeros",), "fans": (1, 1), "trainable": False, "state": True, "optimizer": True, "decay": False,
            "lr": 1.0},
            owner.origins))
    return b.value(name)
