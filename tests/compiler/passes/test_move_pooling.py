"""Pooling moves to where it is less work; outputs, losses and gradients stay."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.autodiff import differentiate
from compiler.interpret import relative_error, run
from compiler.passes import move_pooling  # noqa: F401  (declares the pass)
from compiler.passes.base import PASSES
from compiler.text import to_text
from compiler.verify import verify
from tests.compiler.passes.nets import TOLERANCE, apply, chain, context, net, ops, outputs

QUICK = settings(max_examples=60, derandomize=True, database=None, deadline=None,
                 suppress_health_check=list(HealthCheck))
PASS = "move_pooling"


def conv(ch, k=1, **given_):
    return "conv", {"ch": ch, "k": k, **given_}


def max_pool(**given_):
    return "max_pool", {"k": 2, **given_}


def avg_pool(**given_):
    return "avg_pool", {"k": 2, **given_}


RELU, MEAN = ("relu", {}), ("global_avg_pool", {})


def test_an_activation_behind_a_convolution_is_free_where_it_is():
    graph, (rewrite,) = apply(PASS, chain((3, 8, 8), conv(4, 3), RELU, max_pool()))
    assert ops(graph) == ["conv", "relu", "max_pool"]
    assert not rewrite.taken and rewrite.gain == 0 and "costs nothing" in rewrite.why and rewrite.layers == ("v1", "v2")


def test_an_activation_with_a_kernel_of_its_own_moves():
    n = chain((3, 8, 8), RELU, max_pool(k=3, stride=2, ceil=True))
    graph, (rewrite,) = apply(PASS, n)
    assert ops(graph) == ["max_pool", "relu"] and rewrite.taken and rewrite.gain > 0
    text = to_text(graph)
    assert "%v1 = max_pool(%image)" in text and "%v0 = relu(%v1) {} : f32[N, 3, 4, 4]" in text
    assert "output y = %v0" in text
    assert [o.layer for o in graph["v0"].origins] == ["v0"]


def test_an_activation_beside_other_readers_of_its_operand_moves():
    n = chain((3, 8, 8), conv(4, 3), RELU, max_pool())
    n.graph.outputs["inner"] = "v0"
    graph, (rewrite,) = apply(PASS, n)
    assert ops(graph) == ["conv", "max_pool", "relu"] and rewrite.gain > 0


def test_in_training_the_mask_becomes_small():
    n = chain((3, 8, 8), conv(4, 3), RELU, max_pool())
    graph, (rewrite,) = apply(PASS, n, training=True)
    assert ops(graph) == ["conv", "max_pool", "relu"] and rewrite.gain > 0


@pytest.mark.parametrize("op", ["sigmoid", "tanh", "softplus", "elu", "selu"])
def test_fewer_exponentials(op):
    graph, (rewrite,) = apply(PASS, chain((3, 8, 8), conv(4, 3), (op, {}), max_pool(pad=1)))
    assert ops(graph) == ["conv", "max_pool", op] and rewrite.taken and "exponentials" in rewrite.why


@pytest.mark.parametrize("op, given_", [("silu", {}), ("gelu", {}), ("abs", {}), ("leaky_relu", {"slope": -0.1}),
                                        ("hard_swish", {}), ("softmax", {})])
def test_what_decreases_somewhere_stays(op, given_):
    graph, rewrites = apply(PASS, chain((3, 8, 8), (op, given_), max_pool()))
    assert ops(graph) == [op, "max_pool"] and not rewrites


def test_what_others_read_stays():
    n = chain((3, 8, 8), RELU, max_pool())
    n.graph.outputs["inner"] = "v0"
    graph, (rewrite,) = apply(PASS, n)
    assert not rewrite.taken and "elsewhere" in rewrite.why and ops(graph) == ["relu", "max_pool"]


def test_a_pool_that_makes_no_fewer_elements():
    _, (rewrite,) = apply(PASS, chain((3, 8, 8), RELU, max_pool(k=3, stride=1, pad=1)))
    assert not rewrite.taken and "as many" in rewrite.why


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_mean_of_maps_before_a_1x1_convolution(bias, groups):
    graph, (rewrite,) = apply(PASS, chain((4, 7, 8), conv(6, bias=bias, groups=groups), MEAN, ("flatten", {})))
    assert ops(graph) == ["global_avg_pool", "conv", "flatten"] and rewrite.gain > 0
    assert graph["v0"].type.shape[1:] == (6, 1, 1)


@pytest.mark.parametrize("first", [conv(6, 3), conv(6, stride=2), conv(6, pad=1)])
def test_only_1x1_without_stride_and_padding(first):
    graph, rewrites = apply(PASS, chain((4, 7, 8), first, MEAN))
    assert ops(graph) == ["conv", "global_avg_pool"] and not rewrites


@pytest.mark.parametrize("pad", ["valid", 1, ((1, 0), (0, 1))])
@pytest.mark.parametrize("bias", [False, True])
def test_a_mean_that_shrinks_comes_first(bias, pad):
    graph, (rewrite,) = apply(PASS, chain((16, 8, 8), conv(8, bias=bias), avg_pool(pad=pad, ceil=True)))
    assert ops(graph) == ["avg_pool", "conv"] and rewrite.taken and rewrite.gain > 0


def test_a_mean_that_does_not_comes_where_channels_are_few():
    n = chain((64, 8, 8), avg_pool(k=3, stride=1, pad=1), conv(4), RELU)
    graph, (rewrite,) = apply(PASS, n)
    assert ops(graph) == ["conv", "avg_pool", "relu"] and rewrite.taken
    graph, (rewrite,) = apply(PASS, chain((4, 8, 8), avg_pool(k=3, stride=1, pad=1), conv(64)))
    assert ops(graph) == ["avg_pool", "conv"] and not rewrite.taken and rewrite.gain < 0 and "cheaper" in rewrite.why


def test_a_bias_and_padding_that_counts():
    given_ = {"pad": 1, "count_include_pad": True}
    graph, (rewrite,) = apply(PASS, chain((16, 8, 8), conv(8), avg_pool(**given_)))
    assert ops(graph) == ["conv", "avg_pool"] and not rewrite.taken and "bias" in rewrite.why
    graph, (rewrite,) = apply(PASS, chain((16, 8, 8), conv(8, bias=False), avg_pool(**given_)))
    assert ops(graph) == ["avg_pool", "conv"] and rewrite.taken


@pytest.mark.parametrize("tail", [[], [RELU]])
def test_a_bias_stays_behind_a_mean_that_counts_padding(tail):
    n = chain((64, 8, 8), avg_pool(k=3, stride=1, pad=1, count_include_pad=True), conv(4), *tail)
    graph, (rewrite,) = apply(PASS, n)
    assert ops(graph) == ["conv", "avg_pool", "add", *("relu" for _ in tail)] and rewrite.taken
    assert len(graph["v1"].inputs) == 2 and [o.layer for o in graph["v1/moved/bias"].origins] == ["v1"]


def test_pooling_passes_several_layers():
    graph, rewrites = apply(PASS, chain((16, 8, 8), conv(12), conv(8), MEAN))
    assert ops(graph) == ["global_avg_pool", "conv", "conv"] and [r.taken for r in rewrites] == [True, True]


@st.composite
def chains(draw):
    n, y = net((draw(st.sampled_from([2, 8])), draw(st.integers(6, 9)), 8))
    for _ in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["conv", "conv", "avg_pool", "max_pool", "activation", "activation", "mean"]))
        if kind == "conv":
            made = n.call("conv", y, ch=draw(st.sampled_from([2, 8, 16])), k=draw(st.sampled_from([1, 1, 3])),
                          groups=draw(st.sampled_from([1, 2])), bias=draw(st.booleans()))
        elif kind in ("avg_pool", "max_pool"):
            include = {"count_include_pad": draw(st.booleans())} if kind == "avg_pool" else {}
            made = n.call(kind, y, k=draw(st.integers(2, 3)), stride=draw(st.integers(1, 3)),
                          pad=draw(st.integers(0, 1)), ceil=draw(st.booleans()), **include)
        elif kind == "activation":
            op = draw(st.sampled_from(sorted(move_pooling.MONOTONE)))
            made = n.call(op, y, **({"low": -0.5, "high": 0.9} if op == "clip" else {}))
        else:
            made = n.call("global_avg_pool", y)
        y = made if made is not None else y
    n.graph.losses["loss"] = n.call("mean", n.call("square", y)).name
    return outputs(n, y)


@given(chains(), st.sampled_from(["cpu", "sm_90"]))
@QUICK
def test_numbers_and_gradients_stay_on_random_chains(n, machine):
    values = {k: v.astype("f8") for k, v in n.parameters().items()}
    feeds = {k: v.astype("f8") for k, v in n.feeds(2).items()}
    for training in (False, True):
        graph, rewrites = apply(PASS, n, machine=machine, training=training)
        assert all(r.why for r in rewrites if not r.taken)
        again = PASSES[PASS].run(graph, context(machine=machine, training=training))
        assert not any(r.taken for r in again)
    found = []
    for g in (n.graph, graph):
        joint, gradients = differentiate(g)
        verify(joint)
        joint.outputs = dict(gradients)
        got = run(joint, feeds, values, "float64")
        found.append({p: got[name] for p, name in gradients.items()})
    before, after = found
    assert before.keys() == after.keys()
    largest = max((np.abs(v).max() for v in before.values()), default=0)
    for path in before:
        # A bias in front of a saturated activation has a gradient of rounding noise only: measured against the largest.
        assert relative_error(before[path], after[path]) <= TOLERANCE or \
            np.abs(before[path] - after[path]).max() <= TOLERANCE * largest, path
