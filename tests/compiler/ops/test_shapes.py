"""Shape rules on drawn shapes: what is inferred with a symbolic batch is what numpy makes, forward and backward."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.autodiff import differentiate
from compiler.build import Builder
from compiler.dims import symbol
from compiler.interpret import relative_error, run
from compiler.ir import Graph, Node, TensorType
from compiler.ops import OpError
from compiler.passes.expand import expand
from tests.compiler.ops.table import call

N = symbol("N")
sizes = st.integers(1, 7)


@st.composite
def windows(draw):
    """An op with windows over [N, C, H, W] or [N, C, W], with any settings that may fit."""
    rank = draw(st.integers(1, 2))
    axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    op = draw(st.sampled_from(["conv", "max_pool", "avg_pool"]))
    groups = draw(st.integers(1, 3)) if op == "conv" else 1
    shape = (N, groups * draw(st.integers(1, 2)), *(draw(sizes) for _ in range(rank)))
    given = {"k": axis(1, 4), "stride": axis(1, 3)}
    given["pad"] = draw(st.sampled_from(["same", "valid"])) if draw(st.booleans()) else \
        tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank))
    if op != "avg_pool":
        given["dilation"] = axis(1, 2)
    if op == "conv":
        given |= {"ch": groups * draw(st.integers(1, 2)), "groups": groups}
    else:
        given["ceil"] = draw(st.booleans())
    if op == "avg_pool":
        given["count_include_pad"] = draw(st.booleans())
    return op, shape, given


@settings(max_examples=150, deadline=None)
@given(windows(), st.integers(1, 3))
def test_windows_of_any_shape(drawn, batch):
    op, shape, arguments = drawn
    graph = Graph()
    b = Builder(graph)
    x = b.input("x", TensorType("f32", shape), "input")
    scaled = b.op("mul", x, b.value(parameter(graph, "s", ())))
    try:
        y = call(b, op, [scaled], **arguments)
    except OpError:
        return
    graph.losses["loss"] = b.op("sum", b.op("square", y), axes=tuple(range(y.type.rank)), keepdims=False).name
    joint, gradients = differentiate(graph)
    stream = np.random.default_rng(0)
    feeds = {"x": stream.permutation(batch * int(np.prod(shape[1:]))).reshape(batch, *shape[1:]) / 7 - 1.05}
    values = {node.name: stream.standard_normal(node.type.shape) for node in graph.leaves("parameter")}
    values["s"] = np.array(1.5)
    everything = run(joint, feeds, values, "float64", every=True)
    # y is homogeneous of degree 1 in s, but for the bias: the loss's derivative is 2 * y * (y - bias) / s
    bias = values["y.bias"].reshape(-1, *[1] * (len(shape) - 2)) if op == "conv" else 0
    want = (2 * everything["y"] * (everything["y"] - bias) / 1.5).sum()
    assert abs(everything[gradients["s"]] - want) <= 1e-8 * np.abs(everything["y"] ** 2).sum() + 1e-12


def parameter(graph, name, shape):
    return graph.add(Node(name, "parameter", (), TensorType("f32", shape), {"trainable": True}))


@settings(max_examples=100, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=4), st.randoms(use_true_random=False), st.integers(1, 4))
def test_reshapes_with_a_symbolic_batch(tail, random, batch):
    total = int(np.prod(tail))
    new = []
    while total > 1:
        factor = random.choice([f for f in range(2, total + 1) if total % f == 0])
        new.append(factor)
        total //= factor
    hole = random.randrange(len(new) + 1)
    shape = [N, *new]
    shape[hole] = -1
    b = Builder(Graph())
    x = b.input("x", TensorType("f32", (N, *tail)), "input")
    y = call(b, "reshape", [x], shape=tuple(shape))
    assert y.shape == (N, *new)
    b.graph.outputs["y"] = y.name
    array = np.arange(batch * int(np.prod(tail)), dtype="f4").reshape(batch, *tail)
    np.testing.assert_array_equal(run(b.graph, {"x": array}, {})["y"], array.reshape(batch, *new))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reductions_and_softmax_of_any_axis(data):
    shape = data.draw(st.lists(sizes, min_size=2, max_size=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    array = data.draw(st.sampled_from([np.random.default_rng(1).standard_normal, np.zeros]))(shape)
    for op, given in (("softmax", {"axis": axis}), ("max", {"axes": (axis,), "keepdims": True}),
                      ("mean", {"axes": (axis,)})):
        graph = Graph()
        b = Builder(graph)
        x = b.input("x", TensorType("f32", (N, *shape[1:])), "input")
        graph.outputs["y"] = call(b, op, [x], **given).name
        want, got = (run(g, {"x": array}, {}, "float64")[g.outputs["y"]] for g in (graph, expand(graph)))
        assert relative_error(want, got) < 1e-12
        np.testing.assert_allclose(want, {"softmax": lambda: np.exp(array) / np.exp(array).sum(axis, keepdims=True),
                                          "max": lambda: array.max(axis, keepdims=True),
                                          "mean": lambda: array.mean(axis)}[op](), rtol=1e-12, atol=1e-15)
