"""Linear layers in a row become one where that saves work, and numbers stay."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler import programs
from compiler.elaborate import load
from compiler.initialize import initialize
from compiler.interpret import relative_error, run
from compiler.passes import collapse_linear_chains  # noqa: F401  (declares the pass)
from compiler.passes.base import PASSES
from compiler.passes.pipeline import optimize
from compiler.prepare import hoist
from compiler.text import to_text
from compiler.verify import verify
from tests.compiler.passes.nets import apply, chain, context, net, ops, outputs

QUICK = settings(max_examples=60, derandomize=True, database=None, deadline=None,
                 suppress_health_check=list(HealthCheck))
PASS = "collapse_linear_chains"
SPECS = Path(__file__).parents[3] / "specs"
DEEP_BOUND = 2e-5  # of 1000 orthogonal layers in f32, against f64


def dense(units, **given_):
    return "dense", {"units": units, **given_}


def conv(ch, k=1, **given_):
    return "conv", {"ch": ch, "k": k, **given_}


FLAT, DROP, RELU = ("flatten", {}), ("dropout", {}), ("relu", {})


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_two_dense_layers(first, second):
    n = chain((9,), dense(8, bias=first), dense(7, bias=second), RELU)
    graph, rewrites = apply(PASS, n)
    assert ops(graph) == ["dense", "relu"]
    assert [(r.what, r.taken, r.layers) for r in rewrites] == [("dense · dense -> dense", True, ("v0", "v1"))]
    assert rewrites[0].gain > 0 and len(graph["v1"].inputs) == 2 + (first or second)
    assert {o.layer for o in graph["v1"].origins} == {"v0", "v1"}


def test_the_text_before_and_after():
    n = chain((9,), dense(8, bias=False), dense(7, bias=False))
    assert "%v0 = dense(%image, %v0.weight) {} : f32[N, 8]" in to_text(n.graph)
    text = to_text(apply(PASS, n)[0])
    assert "%v1/collapsed/matmul = matmul(%v1.weight, %v0.weight)" in text
    assert "%v1 = dense(%image, %v1/collapsed/matmul) {} : f32[N, 7]" in text and "%v0 =" not in text


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("calls, expected", [
    ([conv(8, 3, stride=2, pad=1, dilation=2), conv(8)], {"kernel": (3, 3), "stride": (2, 2), "pad": ((1, 1), (1, 1))}),
    ([conv(8, 3, pad=1), conv(8, stride=3)], {"kernel": (3, 3), "stride": (3, 3), "pad": ((1, 1), (1, 1))}),
    ([conv(8), conv(8, (2, 3), stride=2)], {"kernel": (2, 3), "stride": (2, 2)}),
    ([conv(8, stride=2), conv(8, 2, dilation=2)], {"kernel": (2, 2), "stride": (2, 2), "dilation": (4, 4)}),
    ([conv(8, stride=2), conv(8, stride=2)], {"kernel": (1, 1), "stride": (4, 4)}),
])
def test_a_convolution_and_a_1x1(calls, expected, first):
    calls[0][1]["bias"] = first
    graph, rewrites = apply(PASS, chain((8, 11, 12), *calls))
    assert ops(graph) == ["conv"] and rewrites[0].taken
    assert expected.items() <= graph["v1"].attrs.items()


def test_a_padded_convolution_behind_a_1x1_only_where_that_has_no_bias():
    graph, _ = apply(PASS, chain((8, 9, 9), conv(8, bias=False), conv(8, 3, pad=1)))
    assert ops(graph) == ["conv"]
    graph, rewrites = apply(PASS, chain((8, 9, 9), conv(8), conv(8, 3, pad=1)))
    assert ops(graph) == ["conv", "conv"]
    assert not rewrites[0].taken and "padding" in rewrites[0].why


@pytest.mark.parametrize("size", [9, 10])
def test_a_padded_convolution_behind_a_1x1_with_stride(size):
    graph, _ = apply(PASS, chain((8, size, size), conv(8, stride=2, bias=False), conv(8, 3, pad=1)))
    assert ops(graph) == ["conv"] and graph["v1"].attrs["pad"] == ((2, 2), (2, 2))


@pytest.mark.parametrize("between", [[FLAT], [FLAT, DROP]])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_dense_layer_that_reads_the_maps_of_a_convolution(between, groups):
    n = chain((4, 7, 6), conv(16, 3, stride=2, pad=1, groups=groups), *between, dense(3))
    graph, rewrites = apply(PASS, n)
    assert ops(graph) == ["flatten", "dense"] and rewrites[0].what == "conv · dense -> dense"
    n = chain((4, 7, 6), conv(2, 3, stride=3, groups=groups), *between, dense(300))
    graph, rewrites = apply(PASS, n)
    assert "conv" in ops(graph) and not rewrites[0].taken and rewrites[0].gain < 0


@pytest.mark.parametrize("calls, why", [
    ([conv(2), conv(64)], "more work"),
    ([conv(8, 3), conv(8, 3)], "neither is 1×1"),
    ([conv(8, 3, groups=2), conv(8)], "grouped"),
    ([dense(2), dense(900)], "more work"),
])
def test_refusals(calls, why):
    n = chain((64, 9, 9) if calls[0][0] == "conv" else (900,), *calls)
    graph, rewrites = apply(PASS, n)
    assert ops(graph) == [op for op, _ in calls]
    assert [r.taken for r in rewrites] == [False] and why in rewrites[0].why


def test_what_others_read_stays():
    n = chain((9,), dense(9), dense(9))
    n.graph.outputs["inner"] = "v0"
    graph, rewrites = apply(PASS, n)
    assert graph["v0"].op == "dense" and not rewrites[0].taken and "elsewhere" in rewrites[0].why


def test_a_chain_is_cut_where_it_is_narrow():
    n = chain((256,), dense(300), dense(4), dense(300), dense(200))
    graph, rewrites = apply(PASS, n)
    assert ops(graph) == ["dense", "dense"] and graph["v1"].type.shape[1] == 4
    assert [r.taken for r in rewrites] == [True, False, True]


def test_products_are_made_from_the_narrow_place():
    """9 → 100 → 2 → 100 → 9: (W4 W3)(W2 W1) multiplies through 2, so no product is wider than 9."""
    n = chain((9,), *(dense(units, bias=False) for units in (100, 2, 100, 9)))
    graph = n.graph.copy()
    known = collapse_linear_chains.Layers(context())
    names = ["v0", "v1", "v2", "v3"]
    numbers = [known.number(collapse_linear_chains._layer(graph, graph[name])) for name in names]
    collapse_linear_chains._collapse(graph, known, names, numbers)
    shapes = sorted(node.type.shape for node in graph.nodes() if node.op == "matmul")
    assert shapes == [(2, 9), (9, 2), (9, 9)]


def test_not_in_training():
    n = chain((9,), dense(9), dense(9))
    graph, (step,) = optimize(n.graph, context(training=True), names=[PASS])
    assert ops(graph) == ["dense", "dense"] and step.skipped == PASSES[PASS].reason and "every step" in step.skipped


def test_a_thousand_layers_become_one():
    """The features of 1000 layers of linear transformations can be reproduced by a single layer."""
    program = load(SPECS / "deep_linear.net")
    assert sum(node.op == "dense" for node in program.graph.nodes()) == 1000
    graph = program.graph.copy()
    rewrites = PASSES[PASS].run(graph, context())
    verify(graph, before=program.graph)
    assert ops(graph) == ["dense"] and [r.what for r in rewrites] == ["1000 linear layers -> dense"]
    assert len(rewrites[0].layers) == 1000
    values = initialize(program.graph, seed=0)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 32)).astype("f4")}
    exact = run(program.graph, feeds, values, "float64")[program.graph.outputs["y"]]
    assert relative_error(exact, run(graph, feeds, values, "float64")[graph.outputs["y"]]) <= 1e-12
    assert relative_error(exact, run(graph, feeds, values)[graph.outputs["y"]]) <= DEEP_BOUND


@st.composite
def chains(draw):
    n, y = net((draw(st.sampled_from([2, 6])), 7, 8))
    seen = []
    for _ in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["conv", "conv", "conv", "flatten", "relu", "dropout", "join"]))
        if kind == "conv" and y.type.rank == 4:
            made = n.call("conv", y, ch=draw(st.sampled_from([2, 6, 12])), k=draw(st.sampled_from([1, 1, 2, 3])),
                          pad=draw(st.integers(0, 1)), stride=draw(st.integers(1, 2)), dilation=draw(st.integers(1, 2)),
                          groups=draw(st.sampled_from([1, 1, 2])), bias=draw(st.booleans()))
        elif kind == "conv":
            made = n.call("dense", y, units=draw(st.sampled_from([2, 6, 30])), bias=draw(st.booleans()))
        elif kind == "join":
            alike = [v for v in seen if v.shape == y.shape and v.name != y.name]
            made = n.call("add", y, alike[0]) if alike else None
        else:
            made = n.call(kind, y)
        y = made if made is not None else y
        seen.append(y)
    return outputs(n, y)


@given(chains())
@QUICK
def test_numbers_stay_on_random_chains(n):
    graph, rewrites = apply(PASS, n)
    assert all(r.gain >= 0 for r in rewrites if r.taken)
    assert all(r.why for r in rewrites if not r.taken)
    after = PASSES[PASS].run(graph, context())
    assert not any(r.taken for r in after)


def test_programs_whose_chains_differ_share_no_wrong_weight():
    """A loss that reads the second of four layers: `run` makes one layer of them, `evaluate` two, named alike."""
    n = chain((9,), dense(9), dense(9), dense(9), dense(9))
    n.graph.losses["loss"] = n.call("mean", n.call("square", n.values[1])).name
    graphs = {"run": programs.run(n.graph), "evaluate": programs.evaluate(n.graph)}
    values, feeds = {k: v.astype("f8") for k, v in n.parameters().items()}, n.feeds(2)
    before = {name: run(graph, feeds, values, "float64") for name, graph in graphs.items()}
    prepare = hoist(graphs)
    made = run(prepare, {}, values | {k: np.zeros(prepare[k].type.shape) for k in prepare.updates}, "float64")
    values |= {packed: made[node] for packed, node in prepare.updates.items()}
    for name, graph in graphs.items():
        assert sum(node.op == "matmul" for node in graph.nodes()) == {"run": 1, "evaluate": 2}[name]
        after = run(graph, feeds, values, "float64")
        for node in graph.results():
            assert relative_error(before[name][node], after[node]) <= 1e-12
