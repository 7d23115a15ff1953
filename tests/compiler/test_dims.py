"""Dims have one normal form: arithmetic on them agrees with arithmetic on numbers, and text reads back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.dims import Poly, as_json, evaluate, maximum, parse, product, symbol, symbols
from runtime.format import size

N, T = symbol("N"), symbol("T")
LEAVES = st.one_of(st.integers(-5, 9), st.sampled_from([N, T]))
DIMS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.tuples(inner, inner).map(lambda p: p[0] + p[1]), st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
    st.tuples(inner, inner).map(lambda p: p[0] - p[1]), st.tuples(inner, st.integers(1, 5)).map(lambda p: p[0] // p[1]),
    st.lists(inner, min_size=1, max_size=3).map(lambda dims: maximum(*dims))), max_leaves=6)


@given(DIMS, DIMS, st.integers(1, 7), st.integers(1, 7))
def test_arithmetic_agrees_with_numbers(one, other, n, t):
    env = {"N": n, "T": t}
    x, y = evaluate(one, env), evaluate(other, env)
    assert evaluate(one + other, env) == x + y
    assert evaluate(one - other, env) == x - y
    assert evaluate(one * other, env) == x * y
    assert evaluate(one // 3, env) == x // 3
    assert evaluate(maximum(one, other, 4), env) == max(x, y, 4)


@given(DIMS)
def test_text_and_manifest_forms_read_back(dim):
    assert parse(str(dim)) == dim
    env = {"N": 3, "T": 5}
    assert size(as_json(dim), env) == evaluate(dim, env)


def test_normal_form():
    assert N * 2 + N == 3 * N and N * T == T * N and N - N == 0 and isinstance(N - N, int)
    assert (N * 4) // 2 == N * 2 and str((N + 1) // 2) == "((N + 1)//2)"
    assert symbols(N * T + (N + 1) // 2) == {"N", "T"} and symbols(3) == frozenset()
    assert maximum(N, 3, T, 5) == maximum(5, T, N) and maximum(2, 7) == 7 and maximum(N, N) == N
    assert symbols(maximum(N, T * 2)) == {"N", "T"} and str(maximum(N, 3) * 2) == "max(N, 3)*2"
    assert product([2, N, 3]) == 6 * N and isinstance(product([]), int)


@pytest.mark.parametrize("text", ["", "N +", "2 N", "(N", "N / 2", "$"])
def test_what_is_no_dim_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)


def test_division_by_a_symbol_is_refused():
    with pytest.raises(ValueError):
        N // 0
    assert isinstance(N, Poly)
