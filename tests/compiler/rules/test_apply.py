"""Applying rules: where they pay, with origins united, as a pass of the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from compiler import programs, rules
from compiler.autodiff import differentiate
from compiler.elaborate import load
from compiler.interpret import relative_error, run
from compiler.passes import pipeline
from compiler.passes.base import PASSES
from compiler.rules.apply import Run
from compiler.verify import verify
from runtime.errors import NetcError
from tests.compiler.nets import nets
from tests.compiler.passes.nets import context
from tests.compiler.rules.texts import SPECS, applied, compiled, graph, ops, ruleset

TWICE = "rule twice(x: tensor) { x -> relu -> relu => x -> relu }"
COPY = "rule copy(x: f32[N, C]) { x + 0 => x }"


def test_a_rewrite_says_what_it_did_and_to_which_layers():
    net, (rewrite,) = applied(ruleset(TWICE), graph("output y = x -> dense(3) -> relu -> relu"))
    assert ops(net) == ["dense", "relu"]
    assert rewrite.taken and rewrite.what == "twice: relu · relu -> relu"
    assert rewrite.layers == ("y/relu1", "y/relu2") and "FLOPs fewer" in rewrite.why
    assert {o.layer for o in net[net.outputs["y"]].origins} == {"y/relu1", "y/relu2"}


def test_it_is_applied_until_nothing_is_left():
    net, rewrites = applied(ruleset(TWICE), graph("output y = x -> relu -> relu -> relu -> relu"))
    assert ops(net) == ["relu"] and [r.taken for r in rewrites] == [True] * 3


def test_a_value_can_take_the_place_of_a_match():
    net, _ = applied(ruleset(COPY), graph("h = x -> tanh\noutput y = (h + 0) * 2 + (0 + h)"))
    assert sorted(ops(net)) == ["add", "mul", "tanh"]
    net, _ = applied(ruleset(COPY), graph("output y = x + 0"))
    assert net.outputs["y"] == "x" and {o.layer for o in net["x"].origins} == {"x", "y"}


def test_a_rule_that_does_not_pay_is_refused():
    text = "rule widen(x: tensor) { x -> p: max_pool -> relu => x -> relu -> p }"
    net, (rewrite,) = applied(ruleset(text), graph("output y = image -> max_pool(2) -> relu"))
    assert ops(net) == ["max_pool", "relu"] and not rewrite.taken and rewrite.gain <= 0
    assert "cost more" in rewrite.why or "save nothing" in rewrite.why


def test_one_that_makes_more_kernels_says_what_it_would_cost():
    rule = compiled("rule worse(x: tensor) { x -> max_pool(1) => x -> max_pool(1) -> max_pool(1) -> max_pool(1) }")
    net, (rewrite,) = applied([rule], graph("output y = image -> max_pool(1)"))
    assert not rewrite.taken and rewrite.gain < 0 and rewrite.why == "it would cost more than it saves"


def test_types_that_differ_where_it_is_applied():
    rule = compiled("rule wrong(x: tensor) { x -> max_pool => x -> relu }")
    net, (rewrite,) = applied([rule], graph("output y = image -> max_pool(2)"))
    assert ops(net) == ["max_pool"] and not rewrite.taken and "f32[N, 4, 8, 8]" in rewrite.why


def test_weights_are_arithmetic_on_the_users_parameters():
    text = """rule scaled(x: tensor, w: weight, b: weight = 0, f: float) {
      (x -> l: dense(weight = w, bias = b)) * f => x -> l(weight = w * f, bias = b * f)
    }"""
    net, _ = applied(ruleset(text), graph("output y = (x -> fc: dense(3)) * 0.5"))
    assert ops(net) == ["dense"]
    assert [n.name for n in net.leaves("parameter")] == ["y/fc.weight", "y/fc.bias"]
    net, _ = applied(ruleset(text), graph("output y = (x -> dense(3, bias = false)) * 0.5"))
    assert ops(net) == ["dense"] and len(net[net.outputs["y"]].inputs) == 2  # no bias of zeros


def test_blocks_and_lets_of_the_file_stand_in_a_replacement():
    text = """let half = 0.5
    block halved(w: f32[O, I]) -> y { y = w * half }
    rule f(x: tensor, w: weight) { (x -> dense(weight = w, bias = false)) * half => x -> dense(weight = halved(w)) }"""
    net, (rewrite,) = applied(ruleset(text), graph("output y = (x -> dense(3, bias = false)) * 0.5"))
    assert rewrite.taken and ops(net) == ["dense"]


def test_several_results():
    text = """rule both(x: tensor, v: weight[A, I], w: weight[B, I]) {
      (x -> dense(weight = v, bias = false), x -> dense(weight = w, bias = false))
        => x -> dense(weight = concat(v, w, axis = 0)) -> split(sizes = [A, B])
    }"""
    body = "a = x -> dense(3, bias = false)\nb = x -> dense(4, bias = false)\nc = x -> dense(5, bias = false)\n" \
        "output y = concat(a -> tanh, b -> tanh, c -> tanh)"
    (rule,) = ruleset(text)
    net = graph(body)
    work = Run([rule], net, context())
    work.gain = lambda found, new: (1.0, (0, 0))
    assert [r.taken for r in work.run()] == [True, True]
    assert ops(net).count("dense") == 1
    slices = [n for n in net.nodes() if n.op == "slice"]
    places = sorted((n.attrs["start"], n.attrs["stop"]) for n in slices)
    assert sorted(stop - start for start, stop in places) == [3, 4, 5]
    assert [start for start, _ in places] == [0, *(stop for _, stop in places[:-1])]
    assert {net[n.inputs[0]].op for n in slices} == {"dense"}
    concat = next(n for n in net.nodes() if n.op == "concat" and n.type.rank == 2 and n.attrs["axis"] == 0)
    assert [net[i].op for i in concat.inputs] == ["parameter"] * 3


def test_rules_that_go_on_without_end_are_stopped():
    rule = compiled("rule grow(x: tensor) { x -> tanh => x -> neg -> tanh -> neg }")
    work = Run([rule], graph("output y = x -> tanh"), context())
    work.gain = lambda found, new: (1.0, (0, 0))
    with pytest.raises(NetcError) as problem:
        work.run()
    assert problem.value.code == "E0445" and "`grow`" in problem.value.message


RULES = """
rule relu_pool(x: tensor) { x -> relu -> p: max_pool => x -> p -> relu }
rule pool_pool(x: tensor) { x -> max_pool(1, stride = 1, pad = 0) => x }
rule twice(x: tensor) { x -> relu -> relu => x -> relu }
rule minus(x: tensor) { -(-x) => x }
rule flat(x: tensor) { x -> flatten -> flatten => x -> flatten }
rule product(x: f32[N, C], a: float, b: float) { x * a * b => x * (a * b) }
rule scale(x: f32[N, C, H, W], a: float, b: float, c: float, d: float) {
  x -> scale(a, b) -> scale(c, d) => x -> scale(a * c, b * c + d)
}
"""
ALL = rules.load(SPECS / "rules.net") + ruleset(RULES)


@given(nets(steps=10, modules=2))
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_numbers_stay_on_random_nets(net):
    after = net.graph.copy()
    rules.apply_rules(ALL, after, context())
    verify(after, net.graph)
    values = {k: v.astype("f8") for k, v in net.parameters().items()}
    feeds = {k: v.astype("f8") if v.dtype == "f4" else v for k, v in net.feeds(2).items()}
    left, right = (run(g, feeds, values, "float64") for g in (net.graph, after))
    for key, name in net.graph.outputs.items():  # an eps in the IR is a constant in f32
        assert relative_error(left[name], right[after.outputs[key]]) <= 1e-7, f"{key}\n{net}"


def test_rules_join_the_pipeline_and_leave_it(tmp_path):
    path = tmp_path / "clean.net"
    path.write_text("lang 1\n" + TWICE + "\n" + COPY + "\n")
    before = list(pipeline.PIPELINE), list(pipeline.LAYERS), dict(PASSES)
    program = load("net f {\n  input x: f32[N, 6]\n  output y = x -> dense(3) -> relu -> relu\n}\n")
    with rules.joined([(str(path), "twice"), (str(path), None)]):
        assert pipeline.LAYERS[:2] == ["clean2", "clean3"]  # there is a pass called clean
        options = programs.Options(check=True)
        programs.of(program, "run", options)
        steps = {step.name: step for step in options.steps}
        assert steps["clean2"].taken == 1 and steps["clean3"].taken == 0
        options = programs.Options(off=["clean2"], check=True)
        programs.of(program, "run", options)
        assert {step.name: step.taken for step in options.steps}["clean3"] == 1
    assert before == (pipeline.PIPELINE, pipeline.LAYERS, PASSES)


def test_gradients_stay_in_training():
    """Whatever it costs: weights stay arithmetic on the user's parameters."""
    net = graph("a = image -> conv(16, bias = false) -> relu -> conv(3, 3x3)\nb = image -> conv(16) -> relu -> conv(3, 3x3)\n"
                "loss mean(square((a + b) -> relu -> max_pool(2) -> flatten -> dense(3) -> dense(2)))\noutput z = a")
    after = net.copy()
    work = Run(ALL, after, context(training=True))
    work.gain = lambda found, new: (1.0, (0, 0))
    names = {rewrite.what.split(":")[0] for rewrite in work.run()}
    assert names == {"siblings_relu", "relu_max_pool", "dense_dense"}
    stream = np.random.default_rng(0)
    feeds = {"image": stream.standard_normal((2, 4, 8, 8))}
    values = {n.name: stream.standard_normal(n.type.shape) for n in net.leaves("parameter")}
    found = []
    for one in (net, after):
        joint, gradients = differentiate(one)
        joint.outputs = dict(gradients)
        got = run(joint, feeds, values, "float64")
        found.append({name: got[node] for name, node in gradients.items()})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 11
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-9, atol=1e-9 * abs(found[0][name]).max())
