"""specs/rules.net: every rule is right, and the rules do what the passes written in Python do."""

from __future__ import annotations

import pytest

from compiler import rules
from compiler.elaborate import load
from compiler.passes import pipeline
from compiler.passes.base import PASSES
from compiler.passes.select_mode import select_mode
from compiler.verify import verify
from tests.compiler.passes.nets import context
from tests.compiler.rules.texts import SPECS, applied, graph, ops, same

SHIPPED = rules.load(SPECS / "rules.net")


def test_every_rule_is_right():
    told = []
    assert rules.test(SPECS / "rules.net", samples=15, observe=told.append) == []
    assert [t.rule.name for t in told] == [rule.name for rule in SHIPPED]
    assert all(t.samples == 15 and t.error < 1e-10 for t in told)


def test_they_read_in_one_screen():
    lines = (SPECS / "rules.net").read_text().splitlines()
    assert len(lines) <= 130 and max(map(len, lines)) <= 120


# Nets, the pass that rewrites them, and the ops that are left.
ALIKE = [
    ("collapse_linear_chains", "output y = x -> dense(20) -> dense(3)", ["dense"]),
    ("collapse_linear_chains", "output y = x -> dense(20, bias = false) -> dense(30) -> dense(4, bias = false) -> relu",
     ["dense", "relu"]),
    ("collapse_linear_chains", "output y = x -> dense(20) -> dropout(0.5) -> dense(3)", ["dense"]),
    ("collapse_linear_chains", "output y = x -> dense(1) -> dense(40000)", ["dense", "dense"]),  # more work as one
    ("collapse_linear_chains", "output y = image -> conv(20, 3x3, pad = same) -> conv(4)", ["conv"]),
    ("collapse_linear_chains", "output y = image -> conv(20, 3x3, stride = 2) -> conv(4, stride = 2, bias = false)", ["conv"]),
    ("collapse_linear_chains", "output y = image -> conv(20) -> conv(5, 3x3)", ["conv"]),
    ("collapse_linear_chains", "output y = image -> conv(20, bias = false) -> conv(5, 3x3, pad = same)", ["conv"]),
    ("collapse_linear_chains", "output y = image -> conv(20) -> conv(5, 3x3, pad = same)", ["conv", "conv"]),  # the border
    ("fold_batch_norm", "output y = image -> conv(5, 3x3, pad = 1) -> batch_norm -> relu", ["conv", "relu"]),
    ("fold_batch_norm", "output y = image -> conv(6, 3x3, bias = false, groups = 2) -> batch_norm", ["conv"]),
    ("fold_batch_norm", "output y = x -> dense(5) -> batch_norm -> relu", ["dense", "relu"]),
    ("fold_batch_norm", "output y = image -> batch_norm -> conv(5, 3x3)", ["conv"]),
    ("fold_batch_norm", "output y = image -> batch_norm -> conv(5, 3x3, pad = 1)", ["batch_norm", "conv"]),
    ("fold_batch_norm", "output y = image -> conv(5, 3x3) -> scale(0.5, 0.25)", ["conv"]),
    ("fold_batch_norm", "output y = x -> scale(0.5) -> dense(5)", ["dense"]),
    ("fold_batch_norm", "output y = image -> scale(0.5) -> conv(5, 3x3, pad = 1)", ["conv"]),
    ("fold_batch_norm", "output y = image -> scale(0.5) -> flatten -> dense(5)", ["flatten", "dense"]),
    ("fold_batch_norm", "output y = image -> normalize([[1, 2, 3, 4]], [[1, 2, 1, 4]]) -> conv(5)", ["conv"]),
    ("move_pooling", "output y = image -> relu -> max_pool(2)", ["max_pool", "relu"]),
    ("move_pooling", "output y = image -> tanh -> max_pool(3, stride = 2, ceil)", ["max_pool", "tanh"]),
    ("move_pooling", "output y = image -> leaky_relu(0.1) -> max_pool(2)", ["max_pool", "leaky_relu"]),
    ("move_pooling", "output y = image -> silu -> max_pool(2)", ["silu", "max_pool"]),
    ("move_pooling", "output y = image -> conv(8) -> global_avg_pool -> flatten", ["global_avg_pool", "conv", "flatten"]),
    ("move_pooling", "output y = image -> conv(8) -> avg_pool(2)", ["avg_pool", "conv"]),
    ("move_pooling", "output y = image -> avg_pool(3, stride = 1, pad = 1) -> conv(2)", ["conv", "avg_pool"]),
    ("move_pooling", "output y = image -> avg_pool(3, stride = 1, pad = 1) -> conv(8)", ["avg_pool", "conv"]),
]


@pytest.mark.parametrize("name, body, left", ALIKE, ids=lambda value: value if isinstance(value, str) else "")
def test_they_leave_the_ops_that_the_pass_leaves(name, body, left):
    net = graph(body)
    ours, _ = applied(SHIPPED, net)
    assert [op for op in ops(ours) if op != "dropout"] == left
    theirs = net.copy()
    PASSES[name].run(theirs, context())
    assert [op for op in ops(theirs) if op != "dropout"] == left
    same(ours, theirs)


SIBLINGS = """a = image -> conv(8) -> relu -> conv(8, 3x3, pad = same)
b = image -> conv(8) -> relu -> conv(8, 3x3, pad = same)
c = image -> conv(8) -> relu -> conv(8, 3x3, pad = same)
output y = concat(a, b, c) -> relu"""


def test_siblings_become_one_and_are_split():
    ours, rewrites = applied(SHIPPED, graph(SIBLINGS), machine="sm_80")
    assert [r.what.split(":")[0] for r in rewrites if r.taken] == ["siblings_relu", "siblings_relu"]
    theirs = graph(SIBLINGS)
    PASSES["merge_sibling_convs"].run(theirs, context("sm_80"))
    assert sorted(ops(ours)) == sorted(ops(theirs)) and ops(ours).count("conv") == 4
    same(ours, theirs)


def test_siblings_that_differ_stay():
    body = "output y = concat(image -> conv(8) -> tanh, image -> conv(8, groups = 2) -> tanh, image -> conv(8, 3x3, pad = 1))"
    net, rewrites = applied(SHIPPED, graph(body), machine="sm_80")
    assert ops(net).count("conv") == 3 and not rewrites


@pytest.mark.parametrize("spec", ["squeezenet", "mobilenet", "digits"])
def test_networks_become_as_small_as_by_the_passes(spec):
    net = select_mode(load(SPECS / f"{spec}.net").graph, "deploy")
    ours, theirs = net.copy(), net.copy()
    rules.apply_rules(SHIPPED, ours, context())
    verify(ours, net)
    for name in pipeline.LAYERS:
        PASSES[name].run(theirs, context())
    assert [op for op in sorted(ops(ours)) if op != "dropout"] == [op for op in sorted(ops(theirs)) if op != "dropout"]


def test_a_chain_of_many_layers_becomes_one():
    net = graph("output y = x -> dense(6) ** 60")
    ours, rewrites = applied(SHIPPED, net)
    assert ops(ours) == ["dense"] and len(rewrites) == 59
