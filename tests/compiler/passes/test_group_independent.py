"""Independent kernels in one call, and never two of which one waits for the other."""

import networkx as nx

from compiler.passes.group_independent import dependences
from tests.compiler.passes.kernels import check_numbers, lines, planned, source

INCEPTION = """  b1 = x -> conv(16) -> relu
  b3 = x -> conv(24) -> relu -> conv(32, 3x3, pad = same) -> relu
  b5 = x -> conv(8) -> relu -> conv(16, 5x5, pad = same) -> relu
  bp = x -> max_pool(3x3, stride = 1, pad = same) -> conv(8) -> relu
  output y = concat(b1, b3, b5, bp) -> conv(8)"""


def test_an_inception_module_is_two_calls(tmp_path):
    net = source(tmp_path, INCEPTION)
    graph, steps = planned(net, staged=frozenset({("max_pool", "conv")}), off=("choose_algorithm",))
    assert lines(graph) == ["(max_pool) conv relu | conv relu slice slice slice", "conv relu | conv relu", "conv"]
    assert all(r.taken and r.gain > 0 for r in steps["group_independent"])
    check_numbers(net)


def test_switched_off_each_is_a_call(tmp_path):
    net = source(tmp_path, INCEPTION)
    before, _ = planned(net, off=("group_independent",))
    after, _ = planned(net)
    assert len(before.kernels) == sum(len(launch.groups) for launch in after.kernels) > len(after.kernels)
    check_numbers(net, off=("group_independent",))


def test_a_chain_stays_a_chain(tmp_path):
    net = source(tmp_path, "  output y = x -> conv(8, 3x3) -> relu -> conv(8, 3x3) -> relu -> conv(8, 3x3)")
    assert lines(planned(net)[0]) == ["conv relu", "conv relu", "conv"]


def test_no_kernel_waits_for_another_of_its_call(tmp_path):
    graph, _ = planned(source(tmp_path, INCEPTION))
    edges = dependences(graph)
    assert nx.is_directed_acyclic_graph(edges) and all(a < b for a, b in edges.edges)


def test_gpus_share_launches_too(tmp_path):
    graph, _ = planned(source(tmp_path, INCEPTION), machine="sm_80")
    assert lines(graph) == ["max_pool | conv relu slice slice slice", "conv relu | conv relu | conv relu", "conv"]
