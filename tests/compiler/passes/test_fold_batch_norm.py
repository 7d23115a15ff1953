"""Normalization, scales and biases of channels become part of the layer beside them, and numbers stay."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ir import Node, TensorType
from compiler.passes import fold_batch_norm  # noqa: F401  (declares the pass)
from compiler.passes.base import PASSES
from compiler.passes.expand import expand
from compiler.passes.pipeline import optimize
from compiler.prepare import hoist
from tests.compiler.nets import N
from tests.compiler.passes.nets import apply, constant, context, net, ops, outputs

# Constants are f32 in the graph: with powers of two for divisors they are exact, and so is what is folded.
MEAN, STD = [0.5, 0.25, 0.75], [0.25, 0.5, 2.0]
QUICK = settings(max_examples=60, derandomize=True, database=None, deadline=None,
                 suppress_health_check=list(HealthCheck))


def taken(rewrites):
    return [(r.what, r.taken) for r in rewrites]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_behind_a_convolution(bias, groups):
    n, x = net((4, 5, 6))
    y = n.call("relu", n.call("batch_norm", n.call("conv", x, ch=6, k=3, pad="same", groups=groups, bias=bias)))
    assert ops(outputs(n, y).graph) == ["conv", "batch_norm", "relu"]
    graph, rewrites = apply("fold_batch_norm", n)
    assert ops(graph) == ["conv", "relu"]
    assert taken(rewrites) == [("conv · batch_norm -> conv", True)]
    assert rewrites[0].layers == ("v0", "v1") and rewrites[0].gain > 0
    conv = graph["v1"]
    assert conv.op == "conv" and len(conv.inputs) == 3 and {o.layer for o in conv.origins} == {"v0", "v1"}


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_behind_a_depthwise_convolution(bias, multiplier):
    """What MobileNet is made of."""
    n, x = net((4, 7, 6))
    y = n.call("conv", x, ch=4 * multiplier, k=3, stride=2, pad=1, groups=4, bias=bias)
    y = n.call("relu6", n.call("batch_norm", y))
    graph, rewrites = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["conv", "relu6"] and graph["v1"].attrs["groups"] == 4
    assert taken(rewrites) == [("conv · batch_norm -> conv", True)]


def test_before_a_depthwise_convolution():
    n, x = net((4, 7, 6))
    y = n.call("conv", n.call("batch_norm", n.call("relu", x)), ch=8, k=3, groups=4)
    graph, _ = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["relu", "conv"]


FORMS = {
    "scale": ("scale", {"by": 0.75}, False),
    "scale and offset": ("scale", {"by": 0.75, "offset": 0.25}, True),
    "normalize": ("normalize", {"mean": MEAN, "std": STD}, True),
    "normalize without mean": ("normalize", {"mean": [0, 0, 0], "std": STD}, False),
    "batch norm": ("batch_norm", {}, True),
}
LAYERS = {
    "1x1": {"k": 1}, "3x3": {"k": 3}, "3x3 padded": {"k": 3, "pad": "same"}, "strided, padded at one end":
    {"k": 2, "stride": 2, "pad": ((0, 1), (0, 0))}, "depthwise": {"k": 3, "groups": 3},
    "depthwise padded": {"k": 3, "groups": 3, "pad": 1}, "dilated": {"k": 2, "dilation": 2},
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_before_every_layer(form, layer, bias):
    """A shift does not fold into a convolution that pads with zeros: the border would be wrong; the pass says so."""
    op, given_, shifts = FORMS[form]
    n, x = net((3, 6, 5))
    y = n.call("conv", n.call(op, x, **given_), ch=3, bias=bias, **LAYERS[layer])
    graph, (rewrite,) = apply("fold_batch_norm", outputs(n, y))
    refused = shifts and "pad" in LAYERS[layer]
    assert ops(graph) == ([op, "conv"] if refused else ["conv"])
    assert rewrite.taken != refused and ("border" in rewrite.why) == refused and rewrite.layers == ("v0", "v1")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_behind_every_layer(form, layer, bias):
    op, given_, _ = FORMS[form]
    n, x = net((3, 6, 5))
    y = n.call(op, n.call("conv", x, ch=3, bias=bias, **LAYERS[layer]), **given_)
    graph, (rewrite,) = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["conv"] and rewrite.taken and rewrite.layers == ("v0", "v1")


@pytest.mark.parametrize("shift", [False, True])
def test_a_bias_of_ones_own(shift):
    """What a user writes as arithmetic: a learned factor and a learned bias."""
    n, x = net((3, 6, 5))
    b = n.builder
    b.graph.add(Node("own", "parameter", (), TensorType("f32", (6, 1, 1)),
                     {"trainable": True, "init": ("uniform", 0.5), "fans": (1, 1)}))
    y = n.call("conv", x, ch=6, k=3, pad=1, bias=False)
    y = n.call("add" if shift else "mul", y, b.value("own"))
    assert ops(apply("fold_batch_norm", outputs(n, y))[0]) == ["conv"]


def test_behind_a_dense_layer():
    n, x = net((7,))
    y = n.call("batch_norm", n.call("dense", x, units=3))
    assert ops(apply("fold_batch_norm", outputs(n, y))[0]) == ["dense"]


@pytest.mark.parametrize("groups", [1, 2])
def test_before_a_convolution_without_padding(groups):
    n, x = net((4, 5, 6))
    y = n.call("conv", n.call("batch_norm", n.call("relu", x)), ch=6, k=(3, 2), stride=2, groups=groups, bias=False)
    graph, rewrites = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["relu", "conv"] and len(graph[y.name].inputs) == 3
    assert taken(rewrites) == [("batch_norm · conv -> conv", True)]


def test_before_a_dense_layer_that_reads_flattened_maps():
    n, x = net((4, 5, 6))
    y = n.call("dense", n.call("flatten", n.call("batch_norm", x)), units=3)
    graph, _ = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["flatten", "dense"]
    assert {o.layer for o in graph["v1"].origins} == {"v0", "v1"}


def test_a_shift_does_not_fold_into_a_padded_convolution_behind_it():
    n, x = net((3, 5, 5))
    y = n.call("conv", n.call("normalize", x, mean=MEAN, std=STD), ch=2, k=3, pad=1)
    graph, rewrites = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["normalize", "conv"]
    assert not rewrites[0].taken and "border" in rewrites[0].why


def test_a_factor_alone_does():
    n, x = net((3, 5, 5))
    y = n.call("conv", n.call("normalize", x, mean=[0, 0, 0], std=STD), ch=2, k=3, pad=1)
    assert ops(apply("fold_batch_norm", outputs(n, y))[0]) == ["conv"]


def test_input_normalization_in_two_steps():
    n, x = net((3, 5, 5))
    y = n.call("normalize", n.call("scale", x, by=1 / 256), mean=MEAN, std=STD)
    assert ops(apply("fold_batch_norm", outputs(n, n.call("conv", y, ch=2, k=3)))[0]) == ["conv"]


@pytest.mark.parametrize("shape", [(), (1,), (6, 1, 1), (1, 6, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
def test_arithmetic_with_a_number_a_channel(op, shape):
    for constant_first in (False, True):
        n, x = net((3, 5, 5))
        y = n.call("conv", x, ch=6, k=3)
        c = constant(n, np.random.default_rng(0).uniform(0.5, 2, shape).astype("f4"))
        y = n.call(op, *((c, y) if constant_first else (y, c)))
        graph, _ = apply("fold_batch_norm", outputs(n, y))
        assert graph[y.name].op == ("div" if op == "div" and constant_first else "conv")


def test_a_number_for_each_pixel_is_left_alone():
    n, x = net((3, 5, 5))
    y = n.call("mul", n.call("conv", x, ch=6, k=3), constant(n, np.ones((6, 3, 3), "f4")))
    graph, rewrites = apply("fold_batch_norm", outputs(n, y))
    assert ops(graph) == ["conv", "mul"] and not rewrites


def test_what_others_read_stays():
    n, x = net((3, 5, 5))
    y = n.call("conv", x, ch=3, k=3, pad=1)
    n.graph.outputs["inner"] = y.name
    graph, rewrites = apply("fold_batch_norm", outputs(n, n.call("batch_norm", y)))
    assert ops(graph, graph.outputs["y"]) == ["conv", "batch_norm"]
    assert not rewrites[0].taken and "elsewhere" in rewrites[0].why

    n, x = net((3, 5, 5))
    y = n.call("batch_norm", x)
    y = n.call("add", n.call("conv", y, ch=3), y)
    graph, rewrites = apply("fold_batch_norm", outputs(n, y))
    assert not any(r.taken for r in rewrites) and "elsewhere" in rewrites[0].why


def test_bytes_become_numbers_first():
    n, _ = net((1,))
    image = n.builder.input("bytes", TensorType("u8", (N, 3, 5, 5)), "input")
    y = n.call("conv", n.call("scale", image, by=1 / 255), ch=2, k=3)
    n.graph.remove("image")
    assert ops(apply("fold_batch_norm", outputs(n, y))[0]) == ["scale", "conv"]


def test_folded_weights_are_made_when_parameters_are_loaded():
    n, x = net((4, 5, 6))
    outputs(n, n.call("batch_norm", n.call("conv", x, ch=6, k=3)))
    graph = expand(apply("fold_batch_norm", n)[0])
    prepare = hoist({"run": graph})
    assert sorted(node.op for node in graph.nodes()) == ["conv", "input", "parameter", "parameter"]
    assert len(prepare.updates) == 2


def test_not_in_training():
    n, x = net((4, 5, 6))
    outputs(n, n.call("batch_norm", n.call("conv", x, ch=6, k=3)))
    graph, (step,) = optimize(n.graph, context(training=True), names=["fold_batch_norm"])
    assert ops(graph) == ["conv", "batch_norm"]
    assert step.skipped == PASSES["fold_batch_norm"].reason and "batch" in step.skipped


@st.composite
def chains(draw):
    n, y = net((draw(st.sampled_from([2, 4])), 5, 6))
    branch = None
    for _ in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["conv", "conv", "batch_norm", "normalize", "scale", "vector", "relu", "flatten",
                                     "join"]))
        channels, rank = y.shape[1], y.type.rank
        if kind == "conv" and rank == 4:
            made = n.call("conv", y, ch=draw(st.sampled_from([2, 4])), k=draw(st.integers(1, 3)),
                          pad=draw(st.integers(0, 1)), stride=draw(st.integers(1, 2)),
                          groups=draw(st.sampled_from([1, 2])), bias=draw(st.booleans()))
        elif kind == "conv":
            made = n.call("dense", y, units=draw(st.integers(2, 4)), bias=draw(st.booleans()))
        elif kind == "normalize":
            numbers = np.arange(1, channels + 1) / 4
            made = n.call("normalize", y, mean=numbers * draw(st.sampled_from([0, 1])), std=2.0 ** np.arange(channels))
        elif kind == "scale":
            made = n.call("scale", y, by=0.75, offset=draw(st.sampled_from([0.0, 0.25])))
        elif kind == "vector":
            vector = constant(n, np.linspace(0.5, 1.5, channels).astype("f4").reshape(-1, *[1] * (rank - 2)))
            pair = (vector, y) if draw(st.booleans()) else (y, vector)
            made = n.call(draw(st.sampled_from(["add", "sub", "mul", "div"])), *pair)
        elif kind == "join":
            made = n.call("add", y, branch) if branch is not None and branch.shape == y.shape else None
            branch = y
        else:
            made = n.call(kind, y)
        y = made if made is not None else y
    n.graph.outputs["y"] = y.name
    n.graph.prune(keep=lambda node: node.op == "input")
    return n


@given(chains())
@QUICK
def test_numbers_stay_on_random_chains(n):
    graph, rewrites = apply("fold_batch_norm", n)
    again, more = apply("fold_batch_norm", n)
    assert [r.what for r in rewrites] == [r.what for r in more]
    assert sum(node.op == "conv" for node in graph.nodes()) == sum(node.op == "conv" for node in n.graph.nodes())
