"""The exponentials that kernels compute, on this machine's CPU, against f64."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.interpret import run
from compiler.ir import Graph, TensorType
from tests.compiler.harness import executable

OPS = {"exp": {}, "tanh": {}, "sigmoid": {}, "erf": {}, "softplus": {}, "elu": {"alpha": 1.0}, "selu": {}, "silu": {},
       "gelu": {"approximate": "none"}, "relu": {}}


@pytest.fixture(scope="module")
def programs():
    graph = Graph("exponentials")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (symbol("N"),)), "input")
    graph.outputs = {op: b.op(op, x, **attrs).name for op, attrs in OPS.items()}
    return graph, executable({"run": graph})


@pytest.mark.parametrize("low, high", [(-10, 10), (-80, 88), (-1e-3, 1e-3), (-1e-20, 1e-20)])
def test_relative_error(programs, low, high):
    graph, exe = programs
    x = np.linspace(low, high, 50_000).astype("f4")
    got, exact = exe(x=x), run(graph, {"x": x}, {}, "float64")
    for op, node in graph.outputs.items():
        # gelu is x/2 * (1 + erf), whose sum cancels for negative x: there its error is relative to x
        scale = np.abs(exact[node]) + (np.abs(x) if op == "gelu" else 0)
        normal = np.abs(exact[node]) > 3e-38
        assert (np.abs(got[op] - exact[node])[normal] < 5e-7 * scale[normal]).all(), op
        assert (np.abs(got[op][~normal]) < 6e-38).all(), op


def test_special_values(programs):
    graph, exe = programs
    x = np.array([np.nan, np.inf, -np.inf, 89.0, -104.0], "f4")
    got = exe(x=x)
    assert [op for op in OPS if not np.isnan(got[op][0])] == ["erf"]
    np.testing.assert_array_equal(got["exp"][1:], [np.inf, 0, np.inf, 0])
    np.testing.assert_array_equal(got["sigmoid"][1:], [1, 0, 1, 0])
    for op in ("tanh", "erf"):
        np.testing.assert_array_equal(got[op][1:], [1, -1, 1, -1])
    np.testing.assert_array_equal(got["relu"][1:], [np.inf, 0, 89, 0])
