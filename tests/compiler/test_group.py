"""Which nodes share a kernel: never such that kernels wait for each other, never two long exponentials in a chain; and the
kernels that come of it compile, whatever stands behind a convolution in training."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import programs
from compiler.build import Builder
from compiler.dims import symbol
from compiler.group import LONG, group
from compiler.interpret import relative_error, run as interpret
from compiler.ir import Graph, Node, TensorType
from compiler.ops import REGISTRY
from tests.compiler.harness import executable
from tests.compiler.nets import Net

N = symbol("N")


def start(width: int = 4) -> tuple[Builder, object, object]:
    b = Builder(Graph("g"))
    b.graph.add(Node("w", "parameter", (), TensorType("f32", (width, width)), {}))
    return b, b.input("x", TensorType("f32", (N, width)), "input"), b.value("w")


def members(graph: Graph) -> list[list[str]]:
    return [g.members for g in group(graph)]


def test_two_kernels_never_wait_for_each_other():
    b, x, w = start()
    a, p = b.op("dense", x, w, name="a"), b.op("dense", x, w, name="p")
    y = b.op("add", p, a, name="y")      # joins p and reads a,
    r = b.op("relu", a, name="r")        # which joins a;
    z = b.op("add", r, p, name="z")      # joining r it would make a's kernel read p's
    b.graph.outputs = {"y": y.name, "z": z.name}
    assert members(b.graph) == [["a", "r"], ["p", "y", "z"]]


def test_one_long_exponential_along_a_chain():
    b, x, w = start()
    y = b.op("dense", x, w, name="m")
    for i, op in enumerate(("tanh", "relu", "sigmoid", "relu", "exp")):
        y = b.op(op, y, name=f"{op}{i}")
    side = b.op("exp", b.value("m"), name="side")
    b.graph.outputs = {"p": y.name, "side": side.name}
    assert members(b.graph) == [["m", "tanh0", "relu1", "side"], ["sigmoid2", "relu3"], ["exp4"]]


def test_long_ops_are_those_whose_expression_is_long():
    from tvm import tirx

    from compiler import scalar
    from compiler.ops import namespace
    x = tirx.Var("x", "float32")
    for name, op in REGISTRY.items():
        if op.pointwise and op.has("scalar") and op.signature and len([a for a in op.args() if a.kind == "tensor"]) == 1:
            attrs = {a.name: a.default for a in op.args() if a.kind != "tensor"} | {"exponent": 2.0, "low": 0.0, "high": 1.0,
                                                                                    "by": 1.0, "dtype": "f32"}
            length = str(op.scalar(scalar, namespace(attrs), x)).count("x")
            assert (length > 40) <= (name in LONG), f"{name} writes its operand {length} times"


@pytest.mark.parametrize("op", ["relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "hard_swish", "prelu"])
def test_training_a_convolution_with_any_activation(op):
    net = Net()
    b = net.builder
    y = net.call("conv", b.input("image", TensorType("f32", (N, 2, 7, 8)), "input"), ch=3, k=3, pad=1)
    for _ in range(2):
        y = net.call(op, y)
    net.graph.losses["loss"] = net.call("mean", net.call("square", y)).name
    graph = programs.step(net.graph, {"optimizer": {"name": "sgd", "args": {"momentum": 0.9}}})
    values = {n.name: np.random.default_rng(0).standard_normal(n.type.shape).astype("f4") for n in graph.leaves("parameter")}
    exe = executable({"step": graph}, values)
    feeds = net.feeds(3) | {"lr": np.float32(0.1)}
    want = interpret(graph, feeds, values, dtype="float64")
    got = exe.call("step", feeds)
    assert relative_error(want[graph.losses["loss"]], got["loss"]) < 1e-5
    for path, node in graph.updates.items():
        assert relative_error(want[node], exe.parameters[path]) < 1e-5
