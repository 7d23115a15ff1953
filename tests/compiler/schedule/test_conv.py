"""Convolution templates against numpy: drawn shapes, any batch in one binary, guard bands, epilogues and producers."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ops.conv import window_size
from compiler.target import CPUS
from tests.compiler.schedule.harness import HOST, N, Case, Compiled, assert_matches, f32

FEW = settings(max_examples=14, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])


@st.composite
def convolutions(draw):
    """Attributes, input type, weight type and result type of a convolution of one or two axes."""
    rank = draw(st.sampled_from([2, 2, 2, 1]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    depthwise = draw(st.sampled_from([False, False, False, True]))
    per_group = 1 if depthwise else draw(st.integers(1, 70 // groups))
    outputs = draw(st.integers(1, 2)) if depthwise else draw(st.integers(1, 70 // groups))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    stride = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank))
    dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    pad = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank))
    size = tuple(draw(st.integers(max(1, r - lo - hi), 21)) for r, (lo, hi) in zip(reach, pad))
    attrs = dict(kernel=kernel, stride=stride, dilation=dilation, pad=pad, groups=groups)
    out = [window_size(*axis) for axis in zip(size, kernel, stride, dilation, pad)]
    x = f32(N, per_group * groups, *size)
    w = f32(outputs * groups, per_group, *kernel)
    return attrs, x, w, f32(N, outputs * groups, *out)


@FEW
@given(convolutions(), st.sampled_from([1, 16]), st.booleans())
def test_forward(convolution, design_batch, bias):
    attrs, x, w, _ = convolution
    types = (x, w, f32(w.shape[0])) if bias else (x, w)
    assert_matches(Case("conv", attrs, types), batch=design_batch)


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_input_gradient(convolution, design_batch):
    attrs, x, w, y = convolution
    assert_matches(Case("conv_input_grad", dict(attrs, size=x.shape[1:]), (y, w)), batch=design_batch)


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_weight_gradient(convolution, design_batch):
    attrs, x, _, y = convolution
    assert_matches(Case("conv_weight_grad", attrs, (y, x)), batch=design_batch)


SAME3 = dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=((1, 1), (1, 1)), groups=1)
POINT = dict(kernel=(1, 1), stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)), groups=1)


@pytest.mark.parametrize("attrs", [SAME3, POINT], ids=["3x3", "1x1"])
@pytest.mark.parametrize("batch", [1, 64])
def test_epilogue_and_inlined_producer(attrs, batch):
    """u8 pixels scaled in the reads; behind it a residual sum and ReLU."""
    x, w, bias = f32(N, 3, 14, 15), f32(20, 3, *attrs["kernel"]), f32(20)
    case = Case("conv", attrs, (x, w, bias),
                inline={0: ("u8", lambda t, v: t.cast(v, "f32") * t.const(1 / 255, "f32"))},
                tail=lambda t, v, residual: t.maximum(v + residual, t.const(0.0, "f32")), extra=(f32(N, 20, 14, 15),))
    rng = np.random.default_rng(1)
    compiled = Compiled(case, batch=batch)
    for n in (1, 3):
        arrays = [rng.integers(0, 256, (n, 3, 14, 15)).astype("u1"), rng.normal(size=w.shape), rng.normal(size=20),
                  rng.normal(size=(n, 20, 14, 15))]
        want = np.maximum(compiled.reference([arrays[0] / 255, *arrays[1:3]]) + arrays[3], 0)
        np.testing.assert_allclose(compiled.run(arrays, n), want, rtol=1e-4, atol=1e-5)


def test_inlined_gradient():
    """The gradient of ReLU computed while the gradient convolutions read."""
    x, w, g = f32(N, 9, 10, 11), f32(18, 9, 3, 3), f32(N, 18, 10, 11)
    scaled = {0: ("f32", lambda t, v: t.where(v > t.const(0.0, "f32"), v, t.const(0.0, "f32")))}
    rng = np.random.default_rng(2)
    for case in (Case("conv_input_grad", dict(SAME3, size=(9, 10, 11)), (g, w), inline=scaled),
                 Case("conv_weight_grad", SAME3, (g, x), inline=scaled)):
        compiled = Compiled(case)
        other = w.shape if case.op == "conv_input_grad" else (2, *x.shape[1:])
        arrays = [rng.normal(size=(2, *g.shape[1:])), rng.normal(size=other)]
        want = compiled.reference([np.maximum(arrays[0], 0), arrays[1]])
        np.testing.assert_allclose(compiled.run(arrays, 2), want, rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_threads():
    import tvm

    threads = tvm.get_global_func("runtime.config_threadpool")
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=(6, 32, 20, 20)), rng.normal(size=(6, 32, 20, 20))]
    compiled = Compiled(Case("conv_weight_grad", SAME3, (f32(N, 32, 20, 20), f32(N, 32, 20, 20))), batch=64)
    results = []
    try:
        for count in (1, 2):
            threads(1, count)
            results.append(compiled.run(arrays, 6))
    finally:
        threads(1, 0)
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("name, fma", [("x86-64-v3", r"vfmadd\w+ps.*%ymm"), ("x86-64-v4", r"vfmadd\w+ps.*%zmm"),
                                       ("generic", r"mulps"), ("aarch64", r"fmla\s+v\d+\.4s")])
def test_every_target_gets_vector_code_without_heap_calls(name, fma):
    """Cross-compiled: the inner loops are the target's vectors, and accumulators are not on the heap."""
    for case in (Case("conv", SAME3, (f32(N, 16, 14, 14), f32(32, 16, 3, 3))),
                 Case("conv_weight_grad", SAME3, (f32(N, 32, 14, 14), f32(N, 16, 14, 14)))):
        compiled = Compiled(case, CPUS[name])
        assert len(re.findall(fma, compiled.source("asm"))) >= 12
        assert "AllocWorkspace" not in compiled.source("ll")


def test_baseline_target_computes_the_same():
    if HOST.llvm["mtriple"] != CPUS["generic"].llvm["mtriple"]:
        pytest.skip("not an x86-64 machine")
    assert_matches(Case("conv", SAME3, (f32(N, 5, 13, 13), f32(7, 5, 3, 3))), cpu=CPUS["generic"])
    assert_matches(Case("conv_weight_grad", SAME3, (f32(N, 7, 13, 13), f32(N, 5, 13, 13))), cpu=CPUS["generic"])
