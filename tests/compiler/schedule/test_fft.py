"""Convolutions by Fourier transforms against numpy: drawn shapes, any batch in one binary, guard bands, other targets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ops import REGISTRY, fft, namespace
from compiler.schedule import cpu_fourier
from compiler.schedule.cpu_fft import emit_fft_conv, emit_fft_weight
from compiler.target import CPUS
from tests.compiler.schedule import harness
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Compiled, Layout, assert_matches, f32

FEW = settings(max_examples=4, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])


def attributes(tile, kernel, pad=((0, 0), (0, 0)), groups=1):
    return dict(kernel=kernel, stride=(1, 1), dilation=(1, 1), pad=pad, groups=groups, tile=tile)


@st.composite
def convolutions(draw, lanes=HOST.lanes):
    """Any map, window and padding; inputs that are no multiple of the lanes, and maps that lie plain."""
    tile = draw(st.sampled_from([16, 16, 24]))
    kernel = tuple(draw(st.integers(2, tile - 4)) for _ in range(2))
    pad = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    size = tuple(draw(st.integers(max(1, k - sum(p)), 40)) for k, p in zip(kernel, pad))
    outputs = draw(st.integers(1, 2)) * lanes
    depthwise = draw(st.booleans())
    inputs = outputs if depthwise else draw(st.integers(1, 2 * lanes + 1))
    types = (f32(N, inputs, *size), f32(outputs, 1 if depthwise else inputs, tile, tile + 2), f32(outputs))
    blocked = [Layout(lanes), Layout(lanes, 1, (1, 2, 0, 1))] if inputs % lanes == 0 else []
    layouts = (draw(st.sampled_from([*blocked, PLAIN])), Layout(lanes, 0), PLAIN)
    bias = draw(st.booleans())
    return Case("fft_conv", attributes(tile, kernel, pad, inputs if depthwise else 1), types[:2 + bias], layouts[:2 + bias],
                draw(st.sampled_from([Layout(lanes, 1, (1, 0, 0, 1)), PLAIN])), relu=draw(st.booleans()))


@FEW
@given(convolutions(), st.sampled_from([1, 4]))
def test_convolution(case, batch):
    assert_matches(case, emit_fft_conv, batch=batch)


@pytest.mark.parametrize("name", ["x86-64-v3", "generic"])
def test_other_targets_compute_the_same(name):
    cpu = CPUS[name]
    if HOST.llvm["mtriple"] != cpu.llvm["mtriple"] or HOST.lanes < cpu.lanes:
        pytest.skip("not a machine that runs it")
    types = (f32(N, 3, 20, 15), f32(2 * cpu.lanes, 3, 16, 18))
    case = Case("fft_conv", attributes(16, (5, 7), ((2, 2), (3, 3))), types, (PLAIN, Layout(cpu.lanes, 0)), Layout(cpu.lanes))
    assert_matches(case, emit_fft_conv, cpu)


def test_whole_algorithm_is_as_exact_as_promised():
    """In f32, against a direct sum in f64: within 3e-5 of the largest, with room to spare."""
    rng = np.random.default_rng(3)
    c, o, lanes, tile = 32, HOST.lanes, HOST.lanes, 16
    x = np.maximum(rng.normal(size=(1, c, 30, 30)), 0).astype("f4")
    w = (rng.normal(size=(o, c, 9, 11)) / 55).astype("f4")
    a = attributes(tile, (9, 11), ((4, 4), (5, 5)))
    weight = Case("fft_weight", dict(tile=tile), (f32(o, c, 9, 11),), (PLAIN,), Layout(lanes, 0))
    u = Compiled(weight, emit_fft_weight).run([w])
    case = Case("fft_conv", a, (f32(1, c, 30, 30), f32(o, c, tile, tile + 2)), (Layout(lanes), Layout(lanes, 0)), Layout(lanes))
    got = Compiled(case, emit_fft_conv).run([x, u])
    want = REGISTRY["conv"].numpy(namespace(a), x.astype("f8"), w.astype("f8"))
    assert abs(got - want).max() / abs(want).max() < 2e-6


@pytest.mark.parametrize("groups", [1, 4])
def test_meaning_is_that_of_convolution(groups):
    """The algorithm in f64 is a convolution."""
    rng = np.random.default_rng(4)
    x, w, bias = rng.normal(size=(2, 4, 27, 31)), rng.normal(size=(4, 4 // groups, 11, 6)), rng.normal(size=4)
    a = namespace(attributes(24, (11, 6), ((5, 2), (0, 4)), groups))
    u = REGISTRY["fft_weight"].numpy(a, w)
    np.testing.assert_allclose(REGISTRY["fft_conv"].numpy(a, x, u, bias), REGISTRY["conv"].numpy(a, x, w, bias),
                               rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", fft.SIZES)
def test_straight_line_transforms(size):
    """The steps, one by one, are numpy's transforms."""
    rng = np.random.default_rng(5)
    real, numbers = rng.normal(size=size), rng.normal(size=size) + 1j * rng.normal(size=size)
    half = np.fft.rfft(real)

    def parts(xs):
        return {(i, part): (x.real, x.imag)[part] for i, x in enumerate(xs) for part in (0, 1)}

    def close(got, want):
        assert got.keys() == want.keys()
        np.testing.assert_allclose([got[k] for k in want], list(want.values()), rtol=0, atol=1e-12)

    close(computed(cpu_fourier.rows_forward(size), dict(enumerate(real))), parts(half))
    close(computed(cpu_fourier.columns(size, -1, size), parts(numbers)), parts(np.fft.fft(numbers)))
    close(computed(cpu_fourier.columns(size, 1, 5), parts(numbers)), parts(np.fft.ifft(numbers)[:5] * size))
    close(computed(cpu_fourier.rows_back(size, 7), parts(half)), dict(enumerate(real[:7] * size)))


def computed(code, given):
    values = []
    for kind, *of in code.steps:
        values.append(given[of[0]] if kind == "read" else values[of[0]] * of[1] if kind == "scale"
                      else values[of[0]] + values[of[1]] if kind == "add" else values[of[0]] - values[of[1]])
    return {what: 0.0 if step is None else values[step] for what, step in code.results.items()}


def test_weight():
    case = Case("fft_weight", dict(tile=16), (f32(2 * HOST.lanes, 3, 5, 9),), (PLAIN,), Layout(HOST.lanes, 0))
    assert_matches(case, emit_fft_weight)


def test_any_schedule_can_compute_it():
    """Plain weights have no template: one nest, one sum a result."""
    weight = harness.Case("fft_weight", dict(tile=16), (f32(3, 2, 5, 4),))
    harness.assert_matches(weight)
    a = attributes(16, (9, 11), ((1, 0), (2, 1)))
    harness.assert_matches(harness.Case("fft_conv", a, (f32(N, 1, 10, 9), f32(2, 1, 16, 18), f32(2))))
