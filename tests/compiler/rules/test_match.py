"""What a pattern matches, and what it does not."""

from __future__ import annotations

import pytest

from compiler.rules.match import matches
from tests.compiler.rules.texts import applied, compiled, graph, ops, ruleset


def found(pattern: str, body: str, parameters: str = "x: tensor") -> int:
    """How often a pattern (with its condition) is found."""
    pattern, when, condition = pattern.partition(" when ")
    several = pattern.startswith("(") and pattern.endswith(")") and "," in pattern
    rule = compiled(f"rule f({parameters}) {{ {pattern} => {'(x, x)' if several else 'x'}{when}{condition} }}")
    net = graph(body)
    return sum(1 for node in net.nodes() for _ in matches(rule, net, node.name))


@pytest.mark.parametrize("body, count", [
    ("output y = x -> relu -> relu", 1), ("output y = x -> relu -> relu -> relu", 2), ("output y = x -> relu", 0),
    ("output y = x -> relu -> tanh -> relu", 0),
    ("a = x -> relu\noutput y = a -> relu\noutput z = a -> tanh", 0),  # what lies inside is read elsewhere
    ("a = x -> relu\noutput y = a -> relu\noutput a", 0),              # or is a result
    ("a = x -> relu\noutput y = (a -> relu) + (a -> relu)", 0),
])
def test_matches_are_contained(body, count):
    assert found("x -> relu -> relu", body) == count


@pytest.mark.parametrize("body, count", [
    ("output y = x + x", 1), ("output y = x + (x -> relu)", 0), ("a = x -> relu\noutput y = a + a", 1),
])
def test_one_name_is_one_value(body, count):
    assert found("x + x", body) == count


@pytest.mark.parametrize("body", ["output y = relu(x) * tanh(x)", "output y = tanh(x) * relu(x)"])
def test_sums_and_products_match_in_both_orders(body):
    assert found("relu(x) * tanh(y)", body, "x: tensor, y: tensor") == 1


def test_differences_and_quotients_do_not():
    assert found("relu(x) - tanh(y)", "output y = tanh(x) - relu(x)", "x: tensor, y: tensor") == 0


@pytest.mark.parametrize("pattern, number, count", [
    ("x * 2", "2", 1), ("2 * x", "2", 1), ("x * 2", "3", 0), ("x * 0.1", "0.1", 1), ("x * (1/3)", "(1/3)", 1),
])
def test_numbers(pattern, number, count):
    assert found(pattern, f"output y = x * {number}") == count


def test_a_number_becomes_a_parameter():
    rule = "rule f(x: f32[N, C], a: float, b: float) { x * a * b => x * (a * b) }"
    net, _ = applied(ruleset(rule), graph("output y = x * 0.5 * 0.25"))
    assert ops(net) == ["mul"]


@pytest.mark.parametrize("given, condition, pool, count", [
    ("2x2, stride = s", "true", "max_pool(2x2)", 1), ("2, stride = s", "true", "max_pool(2x2)", 1),
    ("3, stride = s", "true", "max_pool(2x2)", 0), ("stride = s", "s == 2", "max_pool(3x3, stride = 2)", 1),
    ("stride = s", "s == 2x1", "max_pool(3, stride = 2x1)", 1), ("stride = s", "s == 2", "max_pool(3, stride = 2x1)", 0),
    ("stride = s", "s != 1", "max_pool(3, stride = 2x1)", 1), ("stride = s", "s * s <= 4", "max_pool(3, stride = 2x1)", 1),
    ("stride = s, pad = same", "true", "max_pool(3, stride = 1, pad = 1)", 1),
    ("stride = s, pad = same", "true", "max_pool(3, stride = 1)", 0),
    ("stride = s, ceil", "true", "max_pool(3, stride = 2, ceil)", 1),
    ("stride = s, ceil", "true", "max_pool(3, stride = 2)", 0), ("stride = s", "not s > 1", "max_pool(3)", 0),
    ("k = s, stride = s", "true", "max_pool(3)", 1), ("k = s, stride = s", "true", "max_pool(3, stride = 2)", 0),
])
def test_arguments_and_conditions(given, condition, pool, count):
    assert found(f"x -> max_pool({given}) when {condition}", f"output y = image -> {pool}", "x: tensor, s: dims") == count


@pytest.mark.parametrize("type, count", [
    ("tensor[N, 4, H, W]", 1), ("tensor[N, 3, H, W]", 0), ("tensor[N, C]", 0), ("f32[N, C, H, H]", 1),
    ("u8[N, C, H, H]", 0), ("tensor[N, C, C*2, H]", 1), ("tensor[N, C, C + 1, H]", 0), ("weight", 0),
])
def test_types(type, count):
    assert found("x -> relu", "output y = image -> relu", f"x: {type}") == count


def test_dims_of_two_tensors_agree():
    types = "x: tensor[N, C], y: tensor[M, C]"
    assert found("matmul(x, y, transpose_b)", "output y = matmul(x, x -> dense(6), transpose_b)", types) == 1
    plain = "matmul(x, y, transpose_a = false)"
    assert found(plain, "output y = matmul(x, matmul(x, x, transpose_a))", types) == 1
    assert found(plain, "output y = matmul(x, matmul(x, x -> dense(5), transpose_a))", types) == 0


@pytest.mark.parametrize("zero, bias, count", [("", "true", 1), ("", "false", 0), (" = 0", "true", 1),
                                               (" = 0", "false", 1)])
def test_a_bias_that_may_be_missing(zero, bias, count):
    body = f"output y = x -> dense(3, bias = {bias})"
    assert found("x -> dense(weight = w, bias = b)", body, f"x: tensor, w: weight, b: weight{zero}") == count


def test_a_bias_that_must_be_missing():
    assert found("x -> dense(bias = false)", "output y = x -> dense(3, bias = false)") == 1
    assert found("x -> dense(bias = false)", "output y = x -> dense(3)") == 0


@pytest.mark.parametrize("units, count", [("3", 1), ("4", 0), ("2 + 1", 1)])
def test_what_the_weight_decides_can_be_asked_for(units, count):
    assert found(f"x -> dense({units})", "output y = x -> dense(3)") == count
    assert found(f"x -> conv({units}, 3x3)", "output y = image -> conv(3, 3x3)") == count


@pytest.mark.parametrize("left, right, count", [
    ("conv(5, 3x3, bias = false)", "conv(5, 3x3, bias = false)", 2), ("conv(5, 3x3, bias = false)", "conv(5, 3x3)", 0),
    ("conv(5, 3, pad = 1, stride = 2)", "conv(5, 3, pad = [[0, 1], [0, 1]], stride = 2)", 0),
])
def test_layers_of_one_name_are_alike(left, right, count):
    pattern = "(x -> l: conv(weight = v)) + (x -> l: conv(weight = w))"
    body = f"output y = (image -> {left}) + (image -> {right})"
    assert found(pattern, body, "x: tensor, v: weight, w: weight") == (count if "false" in left else 0)


def test_a_weight_depends_on_no_input():
    types = "x: tensor, w: weight"
    assert found("matmul(x, w)", "output y = matmul(x, matmul(x, x, transpose_a))", types) == 0
    body = "layer d = dense(6, bias = false)\noutput y = d(x) - d(x)"
    assert found("x -> dense(weight = w)", body, types) == 2


def test_several_results():
    pattern = "(x -> relu, x -> tanh)"
    assert found(pattern, "output y = (x -> relu) + (x -> tanh)") == 1
    assert found(pattern, "output y = (x -> relu) + (x -> neg -> tanh)") == 0
    assert found(pattern, "output y = x -> relu -> tanh") == 0
    assert found("(x -> relu, x -> relu)", "output y = x -> relu") == 0
    assert found("(x -> relu, x -> relu)", "output y = (x -> relu) + (x -> relu)") == 2


def test_a_result_may_not_need_another():
    pattern, types = "(relu(x), tanh(x) * y)", "x: tensor, y: tensor"
    assert found(pattern, "output y = tanh(x) * relu(x)", types) == 0
    assert found(pattern, "output y = relu(x) + tanh(x) * sigmoid(x)", types) == 1
