"""Equality saturation: what equals what, that the cheapest is taken, and that it beats one pass after another where it can."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from compiler.cost import MACHINES, seconds
from compiler.initialize import initialize
from compiler.interpret import relative_error, run
from compiler.passes.search import RULES
from compiler.passes.select_mode import select_mode
from compiler.saturate import Equal, Extraction, saturate
from compiler.verify import verify
from tests.compiler.nets import nets
from tests.compiler.passes.kernels import planned, source

MODULE = """  b1 = x -> conv(16) -> relu
  b3 = x -> conv(24) -> relu -> conv(32, 3x3, pad = same) -> relu
  bp = x -> avg_pool(3x3, stride = 1, pad = same) -> conv(8) -> relu
  output y = concat(b1, b3, bp)"""


def saturated(graph):
    equal = Equal(graph)
    assert saturate(equal, RULES.items(), time.perf_counter() + 20, 2000)
    return equal


@pytest.mark.parametrize("body, rule", [
    ("  output y = x -> relu -> max_pool(2x2)", "max_pool·f = f·max_pool"),
    ("  output y = x -> max_pool(2x2) -> tanh", "f·max_pool = max_pool·f"),
    ("  output y = x -> conv(4) -> avg_pool(2x2)", "avg_pool·conv1x1 = conv1x1·avg_pool"),
    ("  output y = x -> avg_pool(3x3, pad = 1, stride = 2) -> conv(4)", "conv1x1·avg_pool = avg_pool·conv1x1"),
    ("  output y = x -> conv(4, 3x3) -> conv(5)", "conv1x1·conv = conv"),
    ("  output y = x -> conv(4)\n  output z = x -> conv(5, 3x5, pad = same)", "1x1 as k×k"),
    ("  output y = x -> conv(4, 3x3)\n  output z = x -> conv(5, 3x3)", "siblings = one conv, sliced"),
])
def test_every_offer_of_every_rule_holds(tmp_path, body, rule):
    """In f64, whatever is taken alone gives the numbers of the source; nodes of one class have one type."""
    net = source(tmp_path, body, shape="3, 9, 8")
    graph = select_mode(net.graph, "deploy")
    equal = saturated(graph)
    assert rule in {o.rule for o in equal.offers}
    for members in equal.members.values():
        assert len({equal.graph[m].type for m in members}) == 1
    values = {k: v.astype("f8") for k, v in initialize(net.graph, 0).items()}
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 8))}
    want = run(graph, feeds, values, "float64")
    for offer in equal.offers:
        choice = Extraction(equal, lambda node: 0.0)
        choice.taken = {**choice.taken, **{equal.find(old): new for old, new in offer.choices}}
        if choice.total(choice.taken) == 0.0:  # finite: no value needs itself
            made = verify(choice.graph(), before=graph)
            got = run(made, feeds, values, "float64")
            assert all(relative_error(want[graph.outputs[k]], got[made.outputs[k]]) < 1e-12 for k in graph.outputs)


@given(nets())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_taken_computes_the_same(net):
    graph = select_mode(net.graph, "deploy")
    equal = Equal(graph)
    saturate(equal, RULES.items(), time.perf_counter() + 5, 1000)
    choice = Extraction(equal, lambda node: seconds(equal.graph, [node], MACHINES["sm_80"], 1))
    before = choice.seconds
    choice.improve(time.perf_counter() + 2)
    assert choice.seconds <= before
    made = verify(choice.graph(), before=graph)
    values, feeds = net.parameters(), net.feeds(2)
    values = {k: v.astype("f8") for k, v in values.items()}
    feeds = {k: v.astype("f8") if v.dtype == "f4" else v for k, v in feeds.items()}
    want, got = (run(g, feeds, values, "float64") for g in (graph, made))
    assert all(relative_error(want[graph.outputs[k]], got[made.outputs[k]]) < 1e-11 for k in graph.outputs)


def test_it_finds_what_no_single_rewrite_pays_for(tmp_path):
    """A 1×1 made 3×3 costs; merged with its 3×3 sibling it saves a launch, which is worth more here."""
    net = source(tmp_path, "  a = x -> conv(8) -> relu\n  b = x -> conv(8, 3x3, pad = same) -> tanh\n  output y = a\n  output z = b")
    slow = {"launch": 1e-3, "together": lambda graph, anchor: False}
    greedy, _ = planned(net, machine="sm_80", **slow)
    found, steps = planned(net, machine="sm_80", search=5.0, **slow)
    assert len(found.kernels) < len(greedy.kernels) == 2
    (rewrite,) = steps["search"]
    assert rewrite.taken and rewrite.gain > 0.9e-3 and "one conv, sliced" in rewrite.what


def test_what_is_no_better_is_left(tmp_path):
    graph, steps = planned(source(tmp_path, MODULE), search=5.0)
    (rewrite,) = steps["search"]
    assert not rewrite.taken and rewrite.gain <= 0
    assert not planned(source(tmp_path, MODULE))[1]["search"]


def test_time_bounds_it(tmp_path):
    body = "".join(f"  a{i} = x -> conv(8) -> relu -> conv(8, 3x3, pad = same)\n" for i in range(12))
    net = source(tmp_path, body + "  output y = concat(" + ", ".join(f"a{i}" for i in range(12)) + ")")
    equal = Equal(select_mode(net.graph, "deploy"))
    assert not saturate(equal, RULES.items(), time.perf_counter(), 10_000)
    assert not saturate(equal, RULES.items(), time.perf_counter() + 60, 50)
