"""Reductions, pooling and element-wise work on the emulated GPU, in any layout, for any batch in one binary."""

import pytest

from compiler.build import Builder
from compiler.ir import Graph
from tests.compiler.schedule.emulated import LAST, N, check, f32, graph_of
from tests.runtime.emulated import needs_emulator

pytestmark = needs_emulator


@pytest.mark.parametrize("layout", [None, LAST])
@pytest.mark.parametrize("op, axes, tail", [("sum", (0, 2, 3), None), ("max", (1,), None), ("mean", (2, 3), "sqrt"),
                                            ("sum", (0, 1, 2, 3), None)])
def test_reductions(layout, op, axes, tail):
    graph = graph_of(op, dict(axes=axes, keepdims=False), [f32(N, 40, 5, 7)], (layout,),
                     tail=tail and (lambda b, y: b.op("mul", y, y)))
    check(graph, batches=(1, 9), design=9)


def test_long_sums_over_positions_are_made_in_parts():
    graph = Graph()
    b = Builder(graph)
    x = b.input("x", f32(N, 36, 6, 6), "input")
    y = b.op("relu", x)
    square = b.op("mul", y, y)
    graph.layouts |= {y.name: LAST, square.name: LAST}
    graph.outputs |= {"copy": b.op("copy", y).name, "sums": b.op("sum", square, axes=(0, 2, 3), keepdims=False).name}
    source = check(graph, batches=(2, 8), design=8)
    assert "netc_last_block(" in source


@pytest.mark.parametrize("layout", [None, LAST])
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
def test_pooling(layout, op):
    attrs = dict(kernel=(3, 2), stride=(2, 1), pad=((1, 0), (0, 1)), ceil=True)
    attrs |= {"dilation": (1, 1)} | ({"count_include_pad": False} if op == "avg_pool" else {})
    check(graph_of(op, attrs, [f32(N, 8, 7, 6)], (layout,), layout))


@pytest.mark.parametrize("layout", [None, LAST])
def test_sums_over_neighbouring_channels(layout):
    check(graph_of("channel_sum", dict(size=5), [f32(N, 12, 3, 4)], (layout,), layout))


def test_the_first_of_equal_maxima():
    check(graph_of("argmax", dict(axes=(1,), keepdims=False), [f32(N, 700)]), batches=(3,))

