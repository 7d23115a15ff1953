"""Optimizers as graph nodes: ten steps against the published formulas, written in plain numpy f64."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.interpret import run
from compiler.ir import Graph, Node, TensorType
from compiler.ops import REGISTRY
from compiler.optimizer import OPTIMIZERS, add_optimizer

# Each formula: (parameter, gradient, its own state (a dict), step from 1, lr, settings) -> new parameter. After the
# pseudocode in PyTorch's documentation of torch.optim.


def sgd(p, g, s, t, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    if momentum:
        s["b"] = momentum * s["b"] + g if t > 1 else g
        g = g + momentum * s["b"] if nesterov else s["b"]
    return p - lr * g


def adam(p, g, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * p
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g * g
    return p - lr * (s["m"] / (1 - beta1 ** t)) / (np.sqrt(s["v"] / (1 - beta2 ** t)) + eps)


def adamw(p, g, s, t, lr, weight_decay=0.01, **settings):
    return adam(p - lr * weight_decay * p, g, s, t, lr, **settings)


def rmsprop(p, g, s, t, lr, rho=0.99, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0):
    g = g + weight_decay * p
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g * g
    v = s["v"]
    if centered:
        s["a"] = rho * s.get("a", 0) + (1 - rho) * g
        v = v - s["a"] ** 2
    s["b"] = momentum * s.get("b", 0) + g / (np.sqrt(v) + eps)
    return p - lr * s["b"]


def adagrad(p, g, s, t, lr, lr_decay=0.0, eps=1e-10, initial_accumulator=0.0, weight_decay=0.0):
    g = g + weight_decay * p
    s["v"] = s.get("v", initial_accumulator) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["v"]) + eps)


def adadelta(p, g, s, t, lr, rho=0.9, eps=1e-6, weight_decay=0.0):
    g = g + weight_decay * p
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g * g
    change = np.sqrt(s.get("u", 0) + eps) / np.sqrt(s["v"] + eps) * g
    s["u"] = rho * s.get("u", 0) + (1 - rho) * change ** 2
    return p - lr * change


CASES = [
    ("sgd", sgd, {}), ("sgd", sgd, {"momentum": 0.9}), ("sgd", sgd,
                                                        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("adam", adam, {}), ("adam", adam, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("adamw", adamw, {}), ("adamw", adamw, {"weight_decay": 0.3, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3}),
    ("rmsprop", rmsprop, {}), ("rmsprop", rmsprop, {"rho": 0.8, "eps": 1e-3, "momentum": 0.5, "centered": True,
                                                    "weight_decay": 0.1}),
    ("adagrad", adagrad, {}), ("adagrad", adagrad, {"lr_decay": 0.1, "eps": 1e-3, "initial_accumulator": 0.5,
                                                    "weight_decay": 0.1}),
    ("adadelta", adadelta, {}), ("adadelta", adadelta, {"rho": 0.5, "eps": 1e-2, "weight_decay": 0.1}),
]


def program(name: str, settings: dict) -> Graph:
    """Three parameters, of which `slow` learns at a third of the rate and `bias` does not decay, with gradients as
    inputs."""
    graph = Graph("train")
    b = Builder(graph)
    gradients = {}
    for path, attrs in (("w", {}), ("slow", {"lr": 1 / 3}), ("bias", {"decay": False})):
        graph.add(Node(path, "parameter", (), TensorType("f32", (4,)), {"trainable": True, **attrs}))
        gradients[path] = b.input(f"d{path}", TensorType("f32", (4,)), "input").name
    add_optimizer(graph, gradients, {"optimizer": {"name": name, "args": settings}})
    return graph


@pytest.mark.parametrize("name, formula, settings", CASES, ids=lambda v: str(v) if not callable(v) else "")
def test_ten_steps_follow_the_published_formula(name, formula, settings):
    graph = program(name, settings)
    stream = np.random.default_rng(0)
    values = {n.name: np.zeros(4) for n in graph.leaves("parameter")}
    paths = ("w", "slow", "bias")
    values.update({p: stream.standard_normal(4) for p in paths})
    want, states = {p: values[p].copy() for p in paths}, {p: {} for p in paths}
    for t in range(1, 11):
        lr = 0.1 / t
        feeds = {f"d{p}": stream.standard_normal(4) for p in paths}
        results = run(graph, {**feeds, "lr": lr, "step": t}, values, "float64")
        values.update({p: results[n] for p, n in graph.updates.items()})
        for p in paths:
            mine = dict(settings)
            if p == "bias" and ("weight_decay" in mine or name == "adamw"):
                mine["weight_decay"] = 0.0
            want[p] = formula(want[p], feeds[f"d{p}"], states[p], t, lr / 3 if p == "slow" else lr, **mine)
            np.testing.assert_allclose(values[p], want[p], rtol=2e-6, atol=1e-6)


def test_every_optimizer_and_setting_is_checked():
    for name, (_, defaults) in OPTIMIZERS.items():
        tried = set().union(*(settings for n, _, settings in CASES if n == name))
        assert defaults.keys() == tried, name


def test_updates_are_elementwise_only():
    for name in OPTIMIZERS:
        graph = program(name, {})
        assert all(REGISTRY[n.op].pointwise for n in graph.nodes() if n.op not in ("input", "parameter", "constant"))
        states = {n.name for n in graph.leaves("parameter") if n.attrs.get("optimizer")}
        assert states == {p for p in graph.updates if "/" in p}


@pytest.mark.parametrize("config", [{"name": "newton"}, {"name": "sgd", "args": {"beta1": 0.9}}])
def test_unknown_names_are_refused(config):
    with pytest.raises(ValueError, match="newton|beta1"):
        add_optimizer(Graph(), {}, {"optimizer": config})


def test_bias_correction_is_exact_at_the_first_steps():
    graph = Graph()
    b = Builder(graph)
    graph.outputs["y"] = b.op("bias_correction", b.input("step", TensorType("f32", ())), beta=0.999).name
    got = run(graph, {"step": 1}, {})["bias_correction"]
    assert abs(got / 0.001 - 1) < 1e-6


def test_one_step_lowers_the_loss_of_any_batch():
    from compiler.autodiff import differentiate
    graph = Graph("regression")
    b = Builder(graph)
    n = symbol("N")
    x, y = b.input("x", TensorType("f32", (n, 3)), "input"), b.input("y", TensorType("f32", (n, 1)), "label")
    graph.add(Node("w", "parameter", (), TensorType("f32", (1, 3)), {"trainable": True}))
    p = b.op("dense", x, b.value("w"))
    graph.losses["loss"] = b.op("mse", p, y).name
    joint, gradients = differentiate(graph)
    add_optimizer(joint, gradients, {"optimizer": {"name": "sgd"}})
    for batch in (1, 7):
        stream = np.random.default_rng(batch)
        feeds = {"x": stream.standard_normal((batch, 3)), "y": np.ones((batch, 1)), "lr": 0.01}
        first = run(joint, feeds, {"w": np.zeros((1, 3))})
        second = run(joint, feeds, {"w": first[joint.updates["w"]]})
        assert second[joint.losses["loss"]] < first[joint.losses["loss"]]
