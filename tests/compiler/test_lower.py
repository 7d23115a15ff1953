"""Lowering: kernels are grouped, shared and called so that one binary runs any batch and updates in place."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.group import group
from compiler.interpret import run as interpret
from compiler.ir import Graph, Node, TensorType
from tests.compiler.harness import executable

N = symbol("N")
CONV = {"kernel": (3, 3), "stride": (1, 1), "dilation": (1, 1), "pad": ((1, 1), (1, 1)), "groups": 1}


def parameter(graph: Graph, name: str, *shape: int) -> None:
    graph.add(Node(name, "parameter", (), TensorType("f32", shape), {"trainable": True}))


def small() -> tuple[Graph, dict[str, np.ndarray]]:
    graph = Graph("small")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 3, 8, 8)), "input")
    parameter(graph, "w", 3, 3, 3, 3)
    parameter(graph, "c", 3)
    y = b.op("relu", b.op("conv", x, b.value("w"), b.value("c"), **CONV))
    z = b.op("conv", y, b.value("w"), **CONV) + y
    graph.outputs = {"p": z.name, "q": y.name}
    stream = np.random.default_rng(0)
    return graph, {"w": stream.standard_normal((3, 3, 3, 3)).astype("f4"), "c": stream.standard_normal(3).astype("f4")}


def test_one_binary_runs_any_batch():
    graph, values = small()
    exe = executable({"run": graph}, values)
    for batch in (1, 7, 64):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype("f4")
        want = interpret(graph, {"x": x}, values)
        got = exe(x=x)
        for name in ("p", "q"):
            np.testing.assert_allclose(got[name], want[graph.outputs[name]], rtol=1e-4, atol=1e-4)


def test_elementwise_work_joins_the_kernel_before_it():
    graph, _ = small()
    kinds = [[graph[m].op for m in g.members] for g in group(graph)]
    assert kinds == [["conv", "relu"], ["conv", "add"]]


def test_a_group_never_waits_for_itself():
    graph = Graph("diamond")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 2, 4, 4)), "input")
    parameter(graph, "w", 2, 2, 3, 3)
    y = b.op("relu", b.op("conv", x, b.value("w"), **CONV))
    z = b.op("conv", y, b.value("w"), **CONV)
    graph.outputs = {"p": (b.op("relu", y * 2.0) * z).name}
    exe = executable({"run": graph}, {"w": np.full((2, 2, 3, 3), 0.1, "f4")})
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype("f4")
    want = interpret(graph, {"x": x}, {"w": np.full((2, 2, 3, 3), 0.1, "f4")})
    np.testing.assert_allclose(exe(x=x)["p"], want[graph.outputs["p"]], rtol=1e-5, atol=1e-5)


def test_equal_kernels_are_compiled_once():
    graph = Graph("twice")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 2, 4, 4)), "input")
    for name in ("w1", "w2", "w3"):
        parameter(graph, name, 2, 2, 3, 3)
        x = b.op("relu", b.op("conv", x, b.value(name), **CONV))
    graph.outputs = {"p": x.name}
    exe = executable({"run": graph})
    assert len(exe.programs["run"]["kernels"]) == 3
    assert len({k["function"] for k in exe.programs["run"]["kernels"]}) == 1


def test_updates_write_in_place_after_every_reader():
    graph = Graph("update")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 4)), "input")
    lr = b.input("lr", TensorType("f32", ()))
    parameter(graph, "w", 4)
    parameter(graph, "m", 4)
    w, m = b.value("w"), b.value("m")
    y = x * w
    g = b.op("sum", y * x, axes=(0,), keepdims=False)
    new_m = m * 0.5 + g
    graph.outputs = {"y": y.name}
    graph.gradients = {"w": g.name}
    graph.updates = {"w": (w - lr * new_m).name, "m": new_m.name}
    values = {"w": np.arange(4, dtype="f4"), "m": np.ones(4, "f4")}
    exe = executable({"step": graph}, values)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("f4")
    want = interpret(graph, {"x": x, "lr": np.float32(0.1)}, values)
    entry = exe.programs["step"]
    before = exe.parameters["w"].copy()
    bound = exe.bind("step", {"x": x, "lr": np.float32(0.1)})
    bound(0, entry["update_from"])
    np.testing.assert_array_equal(exe.parameters["w"], before)
    bound(entry["update_from"])
    np.testing.assert_allclose(bound.results["y"], want[graph.outputs["y"]], rtol=1e-6)
    for path in ("w", "m"):
        np.testing.assert_allclose(exe.parameters[path], want[graph.updates[path]], rtol=1e-5)


def test_results_that_are_inputs_views_or_equal_get_memory_of_their_own():
    graph = Graph("aliases")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 2, 3)), "input")
    y = b.op("reshape", b.op("relu", x), shape=(N, 6))
    graph.outputs = {"same": x.name, "flat": y.name, "again": y.name}
    x = np.random.default_rng(0).standard_normal((3, 2, 3)).astype("f4")
    got = executable({"run": graph})(x=x)
    np.testing.assert_array_equal(got["same"], x)
    np.testing.assert_array_equal(got["flat"], np.maximum(x, 0).reshape(3, 6))
    np.testing.assert_array_equal(got["again"], got["flat"])


@pytest.mark.parametrize("offset", [1, 3])
def test_unaligned_inputs_are_copied_not_crashed_on(offset):
    graph, values = small()
    exe = executable({"run": graph}, values)
    raw = np.zeros(3 * 64 + 16, "f4")
    raw[:] = np.arange(len(raw)) / 100
    x = raw[offset:offset + 192].reshape(1, 3, 8, 8)
    np.testing.assert_allclose(exe(x=x)["p"], interpret(graph, {"x": x}, values)[graph.outputs["p"]], rtol=1e-4, atol=1e-4)
