"""Concats and slices that are places in memory: nothing is copied, and the numbers are the interpreter's."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.interpret import run as interpret
from compiler.ir import Graph, Node, TensorType
from compiler.kernels import with_kernels
from tests.compiler.harness import executable

N = symbol("N")


class Net:
    """A graph under construction with one input of 4 channels, and convolutions with weights of their own."""

    def __init__(self):
        self.graph = Graph("views")
        self.b = Builder(self.graph)
        self.x = self.b.input("x", TensorType("f32", (N, 4, 6, 5)), "input")
        self.values = {}

    def conv(self, x, channels: int, kernel: int = 1):
        name = f"w{len(self.values)}"
        shape = (channels, x.shape[1], kernel, kernel)
        self.graph.add(Node(name, "parameter", (), TensorType("f32", shape), {}))
        self.values[name] = np.random.default_rng(len(self.values)).standard_normal(shape).astype("f4")
        pad = ((kernel // 2, kernel // 2),) * 2
        return self.b.op("conv", x, self.b.value(name), kernel=(kernel, kernel), stride=(1, 1), dilation=(1, 1), pad=pad, groups=1)

    def kernels(self, **outputs) -> list[list[str]]:
        """Checks the outputs for two batches; returns the ops of each kernel of the compiled program."""
        self.graph.outputs = {name: value.name for name, value in outputs.items()}
        exe = executable({"run": self.graph}, self.values)
        for batch in (1, 3):
            x = np.random.default_rng(batch).standard_normal((batch, 4, 6, 5)).astype("f4")
            want = interpret(self.graph, {"x": x}, self.values)
            for name, got in exe(x=x).items():
                np.testing.assert_allclose(got, want[self.graph.outputs[name]], rtol=1e-4, atol=1e-5)
        return [k["ops"] for k in exe.programs["run"]["kernels"]]


def test_branches_write_into_their_part_of_the_concat():
    net = Net()
    a, b = net.b.op("relu", net.conv(net.x, 3)), net.conv(net.x, 5, 3)
    both = net.b.op("concat", a, b, axis=1)
    assert net.kernels(p=net.conv(both, 2, 3), q=net.conv(a, 2)) == [["conv", "relu"], ["conv"], ["conv"], ["conv"]]


def test_a_concat_in_a_concat_and_a_concat_as_output():
    net = Net()
    inner = net.b.op("concat", net.conv(net.x, 2), net.conv(net.x, 3), axis=1)
    outer = net.b.op("concat", net.conv(net.x, 1), inner, axis=1)
    assert net.kernels(p=outer, q=net.conv(inner, 2)) == [["conv"]] * 4


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_other_axes(axis):
    net = Net()
    both = net.b.op("concat", net.conv(net.x, 2), net.conv(net.x, 2, 3), axis=axis)
    assert net.kernels(p=net.b.op("relu", both))[:2] == [["conv"]] * 2


def test_slices_are_read_in_place():
    net = Net()
    y = net.conv(net.x, 6)
    first, last = (net.b.op("slice", y, axis=1, start=s, stop=e) for s, e in ((0, 2), (3, 6)))
    kernels = net.kernels(p=net.conv(first, 3, 3), q=net.conv(last, 2, 1), r=net.b.op("slice", net.x, axis=2, start=1, stop=4))
    assert kernels.count(["slice"]) == 1 and len(kernels) == 4  # only the output is a copy


def test_a_slice_of_a_part_of_a_concat():
    net = Net()
    a = net.conv(net.x, 4)
    part = net.b.op("slice", a, axis=1, start=1, stop=3)
    both = net.b.op("concat", net.conv(net.x, 2), a, axis=1)
    assert net.kernels(p=net.conv(both, 2), q=net.conv(part, 2)) == [["conv"]] * 4


def test_what_cannot_be_placed_is_copied():
    net = Net()
    a = net.conv(net.x, 2)
    twice = net.b.op("concat", a, a, axis=1)
    with_input = net.b.op("concat", net.x, net.conv(net.x, 1), axis=1)
    flat = net.b.op("reshape", net.conv(net.x, 2), shape=(N, 60))
    kernels = net.kernels(p=net.conv(twice, 1), q=net.conv(with_input, 1), r=net.b.op("concat", flat, flat, axis=1))
    assert sum("concat" in ops for ops in kernels) == 3


def test_no_two_operands_share_memory():
    net = Net()
    parts = [net.conv(net.x, c) for c in (1, 2, 3)]
    whole = net.b.op("concat", *parts, axis=1)
    net.graph.outputs = {"p": net.conv(whole, 1).name}
    graph = with_kernels(net.graph)
    assert whole.name not in {name for launch in graph.kernels for name in launch.nodes}
    covered = sorted((graph.places[p.name].starts[1], graph.places[p.name].starts[1] + p.shape[1]) for p in parts)
    assert covered == [(0, 1), (1, 3), (3, 6)]
