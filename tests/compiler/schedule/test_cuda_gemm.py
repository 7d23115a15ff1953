"""Convolutions and matrix products as tiled products on the emulated GPU: any window, any layout, any batch in one binary."""

import pytest

from tests.compiler.schedule.emulated import LAST, PACKED, N, check, f32, graph_of
from tests.runtime.emulated import needs_emulator

pytestmark = needs_emulator
TILED = "__shared__"  # what the generic schedule of these ops does not use


def windows(kernel, stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)), groups=1):
    return dict(kernel=kernel, stride=stride, dilation=dilation, pad=pad, groups=groups)


SAME = windows((3, 3), pad=((1, 1), (1, 1)))
ODD = windows((3, 2), stride=(2, 1), dilation=(1, 2), pad=((1, 0), (0, 1)))


@pytest.mark.parametrize("x, w, attrs, layouts, result", [
    ((8, 6, 6), (12, 8, 3, 3), SAME, (LAST, PACKED), LAST),
    ((8, 6, 6), (12, 8, 3, 3), SAME, (), None),
    ((3, 9, 7), (8, 3, 3, 2), ODD, (), None),
    ((4, 9, 7), (8, 4, 3, 2), ODD, (LAST,), LAST),
    ((16, 5, 4), (12, 8, 1, 1), windows((1, 1), groups=2), (LAST, PACKED), LAST),
    ((5, 4, 4), (7, 5, 1, 1), windows((1, 1)), (), LAST),
])
def test_convolution(x, w, attrs, layouts, result):
    graph = graph_of("conv", attrs, [f32(N, *x), f32(*w), f32(w[0])], layouts, result, lambda b, y: b.op("relu", y))
    assert TILED in check(graph)


def test_one_dimension():
    graph = graph_of("conv", dict(kernel=(3,), stride=(2,), dilation=(1,), pad=((1, 1),), groups=1), [f32(N, 6, 11), f32(9, 6, 3)])
    assert TILED in check(graph)


@pytest.mark.parametrize("op, shapes", [("conv_input_grad", ((6, 4, 6), (6, 8, 3, 2))), ("conv_weight_grad", ((6, 4, 6), (8, 7, 7)))])
@pytest.mark.parametrize("layout", [None, LAST])
def test_gradients(op, shapes, layout):
    g, other = shapes
    attrs = windows((3, 2), (2, 1), (1, 2), ((1, 1), (0, 1)))
    if op == "conv_input_grad":
        graph = graph_of(op, attrs | {"size": (8, 7, 7)}, [f32(N, *g), f32(*other)], (layout,), layout)
    else:
        graph = graph_of(op, attrs, [f32(N, *g), f32(N, *other)], (layout, layout))
    assert TILED in check(graph)


@pytest.mark.parametrize("op", ["conv_input_grad", "conv_weight_grad"])
@pytest.mark.parametrize("layout", [None, LAST])
def test_gradients_of_single_positions(op, layout):
    attrs = windows((1, 1), groups=2)
    if op == "conv_input_grad":
        graph = graph_of(op, attrs | {"size": (8, 6, 4)}, [f32(N, 16, 6, 4), f32(16, 4, 1, 1)], (layout,), layout)
    else:
        graph = graph_of(op, attrs, [f32(N, 16, 6, 4), f32(N, 8, 6, 4)], (layout, layout))
    assert TILED in check(graph)


@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
def test_matmul(transposed):
    x = (N, 20) if not transposed[0] else (20, N)
    y = (20, 12) if not transposed[1] else (12, 20)
    graph = graph_of("matmul", dict(zip(("transpose_a", "transpose_b"), transposed)), [f32(*x), f32(*y), f32(12)])
    assert TILED in check(graph)


def test_matmul_over_the_batch():
    graph = graph_of("matmul", dict(transpose_a=True, transpose_b=False), [f32(N, 10), f32(N, 9)])
    assert TILED in check(graph, batches=(1, 37), design=64)


def test_products_larger_than_a_tile_in_every_direction():
    graph = graph_of("conv", SAME, [f32(N, 40, 12, 12), f32(72, 40, 3, 3), f32(72)], (LAST, PACKED), LAST,
                     lambda b, y: b.op("relu", y))
    check(graph, batches=(2,), order="reverse")


@pytest.mark.parametrize("order", ["forward", "random:4"])
def test_parts_of_long_sums_are_added_by_the_last_block(order):
    graph = graph_of("conv", SAME, [f32(N, 96, 5, 5), f32(24, 96, 3, 3), f32(24)], (LAST, PACKED), LAST, lambda b, y: b.op("relu", y))
    source = check(graph, batches=(1, 3, 1), order=order)
    assert "netc_last_block(" in source.split('extern "C" __global__')[-1] or source.count("netc_last_block(") > 1


def test_parts_of_long_sums_over_the_batch():
    attrs = windows((3, 3), pad=((1, 1), (1, 1)))
    graph = graph_of("conv_weight_grad", attrs, [f32(N, 8, 9, 9), f32(N, 8, 9, 9)], (LAST, LAST))
    assert check(graph, batches=(1, 12), design=12).count("netc_last_block(") > 1
