"""A maximum with its place, and the gradients of weight and bias: one call each, with the same numbers as two."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import programs
from compiler.build import Builder
from compiler.interpret import run
from compiler.ir import Graph, TensorType
from tests.compiler import harness
from tests.compiler.nets import N

CPU = programs.Options()


def pool(shape: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], pad: int = 0) -> Graph:
    """A maximum, its index, and what a gradient of ones becomes."""
    graph = Graph("pool")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, *shape)), "input")
    a = dict(kernel=kernel, stride=stride, dilation=(1,) * len(kernel), pad=((pad, pad),) * len(kernel), ceil=False)
    y, index = b.op("max_pool", x, **a), b.op("max_pool_index", x, **a)
    graph.outputs = {"y": b.op("relu", y).name, "index": index.name,
                     "dx": b.op("max_pool_grad", y, index, size=shape[1:], **a).name}
    return graph


def conv(outputs: int, inputs: int, kernel: tuple[int, ...], groups: int = 1, stride: int = 1) -> Graph:
    """The gradients of weight and bias from that of the output."""
    graph = Graph("conv")
    b = Builder(graph)
    sizes = (9, 11)[:len(kernel)]
    out = [(size + 2 * (k // 2) - k) // stride + 1 for size, k in zip(sizes, kernel)]
    g = b.input("g", TensorType("f32", (N, outputs, *out)), "input")
    x = b.input("x", TensorType("f32", (N, inputs, *sizes)), "input")
    a = dict(kernel=kernel, stride=(stride,) * len(kernel), dilation=(1,) * len(kernel), groups=groups,
             pad=tuple((k // 2, k // 2) for k in kernel))
    graph.outputs = {"weight": b.op("conv_weight_grad", g, x, **a).name,
                     "bias": b.op("sum", g, axes=(0, *range(2, g.type.rank)), keepdims=False).name}
    return graph


def kernels(graph: Graph) -> list[list[str]]:
    return [[graph[n].op for n in launch.nodes] for launch in programs.kernels(graph, CPU).kernels]


def check(graph: Graph, batch: int) -> None:
    stream = np.random.default_rng(batch)
    feeds = {n.name: stream.standard_normal([batch if d == N else d for d in n.type.shape]).astype("f4")
             for n in graph.leaves("input")}
    got = harness.executable({"run": graph}).call("run", feeds)
    want = run(graph, feeds, {})
    for key, node in graph.outputs.items():
        np.testing.assert_allclose(got[key], want[node], rtol=2e-5, atol=2e-5 * np.abs(want[node]).max(), err_msg=key)


@pytest.mark.parametrize("shape, kernel, stride, pad", [
    ((3, 9, 28), (3, 3), (1, 1), 1), ((5, 13, 13), (3, 3), (2, 2), 0), ((2, 8, 8), (2, 2), (2, 2), 0),
    ((4, 12), (3,), (2,), 1), ((1, 20, 18), (5, 3), (3, 2), 1), ((1, 40, 20), (17, 16), (5, 4), 0)])
def test_a_maximum_and_its_place(shape, kernel, stride, pad):
    graph = pool(shape, kernel, stride, pad)
    assert kernels(graph)[0] == ["max_pool", "relu", "max_pool_index"]
    assert graph["max_pool_index"].type.dtype == ("i32" if kernel == (17, 16) else "u8")
    for batch in (1, 3):
        check(graph, batch)


@pytest.mark.parametrize("outputs, inputs, kernel, groups, stride", [
    (16, 3, (3, 3), 1, 1), (7, 5, (1, 1), 1, 1), (50, 20, (5, 5), 1, 2), (24, 8, (3,), 1, 1), (32, 8, (3, 3), 4, 1),
    (3, 4, (3, 3), 1, 1), (8, 8, (3, 3), 8, 1)])
def test_gradients_of_weight_and_bias(outputs, inputs, kernel, groups, stride):
    """With few outputs a group, or one, no template does both: then each is emitted by itself, in the same call."""
    graph = conv(outputs, inputs, kernel, groups, stride)
    assert kernels(graph) == [["conv_weight_grad", "sum"]]
    for batch in (1, 5):
        check(graph, batch)


def test_nothing_is_joined_that_reads_something_else():
    graph = pool((3, 8, 8), (2, 2), (2, 2))
    graph.update("max_pool_index", attrs={**graph["max_pool_index"].attrs, "pad": ((0, 0), (0, 0)), "ceil": True})
    assert ["max_pool_index"] in kernels(graph)
    other = conv(16, 3, (3, 3))
    other.update("sum", attrs={"axes": (0, 2), "keepdims": False}, type=TensorType("f32", (16, 11)))
    assert len(kernels(other)) == 2


def test_the_later_one_is_not_moved_ahead_of_what_it_waits_for():
    """The input of the weight gradient is computed behind the sum."""
    graph = conv(16, 3, (3, 3))
    b = Builder(graph)
    scaled = b.op("softmax", b.value("x") * b.op("max", b.value("sum"), axes=(0,), keepdims=False), axis=3)
    graph.update("conv_weight_grad", inputs=("g", scaled.name))
    joint = programs.kernels(graph, CPU)
    assert all(len(launch.groups) == 1 for launch in joint.kernels)
    check(graph, 2)


def test_gpus_keep_them_apart():
    graph = conv(16, 3, (3, 3))
    assert len(programs.kernels(graph, programs.Options(machine="sm_90")).kernels) == 2
