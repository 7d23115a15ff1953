"""The generic nest against numpy: element-wise work, reductions in each direction, windows, searches."""

import numpy as np
import pytest

from compiler.ir import TensorType
from tests.compiler.schedule.harness import N, Case, Compiled, assert_matches, f32

WINDOW = dict(kernel=(3, 3), dilation=(1, 1), ceil=False)


@pytest.mark.parametrize("shapes", [
    [(N, 3, 5, 7), (N, 3, 5, 7)], [(N, 3, 5, 7), (3, 1, 1)], [(N, 3, 5, 7), (N, 1, 5, 1)], [(N, 3, 5, 7), ()],
    [(N,), (1,)], [(), ()], [(40_001,), (40_001,)], [(N, 17), (N, 1)]], ids=str)
@pytest.mark.parametrize("batch", [1, 10_000])
def test_elementwise(shapes, batch):
    assert_matches(Case("add", {}, tuple(f32(*s) for s in shapes)), batch=batch)


def test_elementwise_is_vectorized_over_all_axes():
    """Rows of three elements still make full vectors."""
    source = Compiled(Case("add", {}, (f32(16, 8, 3, 3), f32(16, 8, 3, 3)))).source("ll")
    assert "fadd <" in source


@pytest.mark.parametrize("op", ["sum", "mean", "max"])
@pytest.mark.parametrize("shape, axes", [
    ((N, 5, 6, 7), (0, 2, 3)), ((N, 70), (0,)), ((N, 70), (1,)), ((N, 5, 40, 40), (2, 3)), ((N, 4, 9), (1,)),
    ((N, 33), (0, 1)), ((3, 200), (0, 1)), ((N, 5, 1, 1), (2, 3)), ((N, 3, 50), (0,))], ids=str)
def test_reductions(op, shape, axes):
    for keepdims, batch in ((False, 1), (True, 10_000)):
        assert_matches(Case(op, dict(axes=axes, keepdims=keepdims), (f32(*shape),)), batch=batch)


@pytest.mark.parametrize("stride, pad, size", [
    ((1, 1), ((1, 1), (1, 1)), (9, 14)), ((2, 2), ((0, 0), (0, 0)), (9, 33)),
    ((2, 3), ((1, 0), (0, 1)), (8, 10))], ids=str)
def test_windows(stride, pad, size):
    for op in ("max_pool", "avg_pool"):
        attrs = dict(WINDOW, stride=stride, pad=pad)
        if op == "avg_pool":
            attrs["count_include_pad"] = False
        for batch in (1, 1000):
            assert_matches(Case(op, attrs, (f32(N, 4, *size),)), batch=batch)


def test_a_sum_is_fixed_by_its_shape():
    compiled = Compiled(Case("sum", dict(axes=(0, 2, 3), keepdims=False), (f32(N, 64, 30, 30),)), batch=64)
    import tvm

    threads = tvm.get_global_func("runtime.config_threadpool")
    array = np.random.default_rng(0).normal(size=(5, 64, 30, 30))
    results = []
    try:
        for count in (1, 2):
            threads(1, count)
            results.append(compiled.run([array], 5))
    finally:
        threads(1, 0)
    assert results[0].tobytes() == results[1].tobytes()


def test_bytes_in_floats_out():
    assert_matches(Case("cast", dict(dtype="f32"), (TensorType("u8", (N, 3, 9)),)))
