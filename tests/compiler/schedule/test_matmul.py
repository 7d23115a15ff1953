"""Matrix products against numpy, in every form, with the batch as rows and as the reduction."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler.schedule.harness import N, Case, assert_matches, f32

SIZES = st.integers(1, 70)
FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def matmul(x, y, *bias, ta=False, tb=False):
    return Case("matmul", dict(transpose_a=ta, transpose_b=tb), (x, y, *bias))


@FEW
@given(SIZES, SIZES, st.booleans(), st.sampled_from([1, 1000]))
def test_dense_forward(features, units, bias, batch):
    bias = [f32(units)] if bias else []
    assert_matches(matmul(f32(N, features), f32(units, features), *bias, tb=True), batch=batch)


@FEW
@given(SIZES, SIZES, st.sampled_from([1, 1000]))
def test_dense_gradients(features, units, batch):
    assert_matches(matmul(f32(N, units), f32(units, features)), batch=batch)
    assert_matches(matmul(f32(N, units), f32(N, features), ta=True), batch=batch)


@FEW
@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans())
def test_known_sizes(m, k, n, ta, tb):
    assert_matches(matmul(f32(*((k, m) if ta else (m, k))), f32(*((n, k) if tb else (k, n))), ta=ta, tb=tb))


@pytest.mark.parametrize("ta, tb", [(True, True), (False, True)])
def test_symbolic_reduction_and_columns(ta, tb):
    """No template has a vector here: the generic nest computes it."""
    shapes = (f32(9, N), f32(N, 9)) if ta else (f32(5, N), f32(7, N))
    assert_matches(matmul(*shapes, ta=ta, tb=tb))
