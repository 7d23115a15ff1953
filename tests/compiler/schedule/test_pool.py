"""Pooling templates against numpy: drawn windows, forward and backward."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import dims
from compiler.ir import DTYPES, TensorType
from compiler.ops.pool import window_counts
from compiler.ops import namespace
from tests.compiler.schedule.harness import N, Case, Compiled, assert_matches, f32

FEW = settings(max_examples=10, deadline=None, derandomize=True, database=None)


@st.composite
def pools(draw):
    """Attributes and the input type of a pooling of one or two axes."""
    rank = draw(st.sampled_from([2, 2, 1]))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    stride = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    pad = tuple((draw(st.integers(0, r - 1)), draw(st.integers(0, r - 1))) for r in reach)
    size = tuple(draw(st.integers(r, 20)) for r in reach)
    attrs = dict(kernel=kernel, stride=stride, dilation=dilation, pad=pad, ceil=draw(st.booleans()))
    return attrs, f32(N, draw(st.integers(1, 5)), *size)


@FEW
@given(pools(), st.sampled_from([1, 1000]))
def test_maximum_and_its_place(pool, batch):
    attrs, x = pool
    assert_matches(Case("max_pool", attrs, (x,)), batch=batch)
    assert_matches(Case("max_pool_index", attrs, (x,)), batch=batch)


@FEW
@given(pools(), st.booleans())
def test_mean_and_its_gradient(pool, counted):
    attrs, x = pool
    kernel = attrs["kernel"]
    pad = tuple((min(lo, k - 1), min(hi, k - 1)) for (lo, hi), k in zip(attrs["pad"], kernel))
    attrs = dict(attrs, pad=pad, dilation=(1,) * len(kernel), count_include_pad=counted)
    assert_matches(Case("avg_pool", attrs, (x,)))
    g = f32(*x.shape[:2], *window_counts(namespace(attrs), x.shape[2:]))
    assert_matches(Case("avg_pool_grad", dict(attrs, size=x.shape[2:]), (g,)))


@FEW
@given(pools(), st.sampled_from([1, 1000]), st.sampled_from(["u8", "i32"]))
def test_gradient_of_the_maximum(pool, batch, dtype):
    attrs, x = pool
    shape = (*x.shape[:2], *window_counts(namespace(attrs), x.shape[2:]))
    compiled = Compiled(Case("max_pool_grad", dict(attrs, size=x.shape[2:]), (f32(*shape), TensorType(dtype, shape))),
                        batch=batch)
    rng = np.random.default_rng(5)
    for n in (1, 3):
        real = tuple(dims.evaluate(d, {"N": n}) for d in shape)
        g, index = rng.normal(size=real).astype("f4"), rng.integers(0, np.prod(attrs["kernel"]), real).astype(DTYPES[dtype])
        np.testing.assert_allclose(compiled.run([g, index], n), compiled.reference([g, index]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["max_pool", "avg_pool"])
def test_pooling_reads_vectors(target):
    attrs = dict(kernel=(3, 3), stride=(2, 2), dilation=(1, 1), pad=((1, 1), (1, 1)), ceil=True, count_include_pad=True)
    source = Compiled(Case(target, attrs, (f32(N, 4, 28, 28),))).source("ll")
    assert "load <8 x float>" in source or "load <4 x float>" in source or "load <16 x float>" in source
    assert "AllocWorkspace" not in source
