"""A producer within its one reader: pool within 1×1, convolution within pool, 1×1 within k×k."""

import pytest

from tests.compiler.passes.kernels import check_numbers, lines, planned, source

PAIRS = frozenset({("max_pool", "conv"), ("avg_pool", "conv"), ("conv", "max_pool"), ("conv", "avg_pool"), ("conv", "conv")})
# So slow a memory that everything pays, and one so fast that nothing does.
SLOW, FAST = {"staged": PAIRS, "bandwidth": 1e8}, {"staged": PAIRS, "bandwidth": 1e15, "launch": 0.0}


@pytest.mark.parametrize("name, body, want", [
    ("fuse_pool_pointwise", "  output y = x -> max_pool(3x3, stride = 1, pad = same) -> conv(8) -> relu", ["(max_pool) conv relu"]),
    ("fuse_pool_pointwise", "  output y = x -> avg_pool(2x2) -> conv(8)", ["(avg_pool) conv"]),
    ("fuse_conv_pool", "  output y = x -> conv(16, 3x3) -> tanh -> max_pool(2x2)", ["(conv tanh) max_pool"]),
    ("fuse_conv_pool", "  output y = x -> conv(16, 3x3, pad = same) -> sigmoid -> avg_pool(3x3, stride = 2)", ["(conv sigmoid) avg_pool"]),
    ("fuse_pointwise_conv", "  output y = x -> conv(8) -> relu -> conv(16, 3x3, pad = same) -> relu", ["(conv relu) conv relu"]),
])
def test_the_pair_becomes_one_kernel_where_memory_is_slow(tmp_path, name, body, want):
    net = source(tmp_path, body)
    graph, steps = planned(net, **SLOW, off=("move_pooling", "choose_algorithm"))
    assert lines(graph) == want
    (rewrite,) = steps[name]
    assert rewrite.taken and rewrite.gain > 0 and len(rewrite.layers) >= 2
    assert len(lines(planned(net, **SLOW, off=("move_pooling", "choose_algorithm", name))[0])) == 2


def test_work_done_twice_must_pay(tmp_path):
    net = source(tmp_path, "  output y = x -> conv(64, 3x3) -> tanh -> max_pool(3x3, stride = 2)", shape="64, 200, 200")
    graph, steps = planned(net, **FAST, off=("choose_algorithm",))
    (rewrite,) = steps["fuse_conv_pool"]
    assert not rewrite.taken and rewrite.gain < 0 and "again" in rewrite.why and len(graph.kernels) == 2


@pytest.mark.parametrize("body, why", [
    ("  a = x -> max_pool(2x2)\n  output y = a -> conv(8)\n  output z = a -> conv(8) -> relu", "read by others"),
    ("  output a = x -> max_pool(2x2)\n  output y = a -> conv(8)", "result of the program"),
    ("  output y = x -> max_pool(2x2) -> conv(12)", "vectors do not hold channels"),
])
def test_refusals_say_why(tmp_path, body, why):
    net = source(tmp_path, body)
    graph, steps = planned(net, **SLOW, off=("merge_sibling_convs",))
    considered = steps["fuse_pool_pointwise"]
    assert considered and not any(r.taken for r in considered) and all(why in r.why for r in considered)
    assert not any("(" in line for line in lines(graph))


@pytest.mark.parametrize("body, pass_", [
    ("  output y = x -> max_pool(3x3, stride = 1, pad = same) -> conv(24, stride = 2)", "fuse_pool_pointwise"),
    ("  output y = x -> max_pool(3x3, stride = 1, pad = same) -> conv(8, 3x3)", "fuse_pool_pointwise"),
    ("  output y = x -> conv(16, 3x3, groups = 2) -> tanh -> max_pool(2x2)", "fuse_conv_pool"),
    ("  output y = x -> conv(16, 3x3) -> relu -> conv(8, 3x3)", "fuse_pointwise_conv"),
])
def test_what_is_no_such_pair_is_not_considered(tmp_path, body, pass_):
    assert not planned(source(tmp_path, body), **SLOW)[1][pass_]


@pytest.mark.parametrize("body", [
    "  output y = x -> max_pool(3x3, stride = 1, pad = same) -> conv(8) -> relu",
    "  a = x -> conv(16) -> relu -> max_pool(3x3, stride = 2, ceil = true) -> conv(24) -> tanh\n  output y = a -> conv(8)",
    "  output y = x -> conv(16, 3x3) -> tanh -> max_pool(2x2) -> conv(8, 3x3, pad = same)",
    "  output y = x -> conv(16, 3x3, pad = same, stride = 2) -> sigmoid -> avg_pool(3x3, stride = 1, pad = same) -> conv(16)",
])
def test_numbers(tmp_path, body):
    check_numbers(source(tmp_path, body))
