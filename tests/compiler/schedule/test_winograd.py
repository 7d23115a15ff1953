"""Winograd convolutions against numpy: drawn shapes, borders, any batch in one binary, guard bands, other targets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ops import REGISTRY, namespace
from compiler.schedule.cpu_winograd import emit_winograd_conv, emit_winograd_weight
from compiler.target import CPUS
from tests.compiler.schedule import harness
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Compiled, Layout, assert_matches, f32

FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])


def attributes(tile, pad):
    return dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=pad, groups=1, tile=tile)


@st.composite
def convolutions(draw, lanes=HOST.lanes):
    """Any map and padding; the halo of the input may cover it, a part of it, or nothing."""
    pad = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    size = tuple(draw(st.integers(max(1, 3 - sum(p)), 19)) for p in pad)
    tile = draw(st.sampled_from([2, 4]))
    inputs, outputs = draw(st.integers(1, 4)) * lanes, draw(st.integers(1, 6)) * lanes
    halo = tuple(draw(st.integers(0, 3)) for _ in range(4))
    window = draw(st.sampled_from([3, tile + 2]))  # as it is, or transformed
    types = (f32(N, inputs, *size), f32(outputs, inputs, window, window), f32(outputs))
    layouts = (draw(st.sampled_from([Layout(lanes, 1, halo), Layout(lanes, 1), PLAIN])), Layout(lanes, 0), PLAIN)
    bias = draw(st.booleans())
    return Case("winograd_conv", attributes(tile, pad), types[:2 + bias], layouts[:2 + bias],
                draw(st.sampled_from([Layout(lanes, 1, (1, 0, 0, 1)), PLAIN])), relu=draw(st.booleans()))


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_convolution(case, batch):
    assert_matches(case, emit_winograd_conv, batch=batch)


@pytest.mark.parametrize("name", ["x86-64-v3", "generic"])
def test_other_targets_compute_the_same(name):
    cpu = CPUS[name]
    if HOST.llvm["mtriple"] != cpu.llvm["mtriple"] or HOST.lanes < cpu.lanes:
        pytest.skip("not a machine that runs it")
    types = (f32(N, 3 * cpu.lanes, 14, 15), f32(5 * cpu.lanes, 3 * cpu.lanes, 6, 6))
    layouts = (Layout(cpu.lanes, 1, (1, 1, 1, 1)), Layout(cpu.lanes, 0))
    assert_matches(Case("winograd_conv", attributes(4, ((1, 1), (1, 1))), types, layouts, Layout(cpu.lanes)),
                   emit_winograd_conv, cpu)


def test_whole_algorithm_is_as_exact_as_promised():
    """In f32, against a direct sum in f64: within 3e-5 of the largest, with room to spare."""
    rng = np.random.default_rng(3)
    c, o, lanes = 128, 4 * HOST.lanes, HOST.lanes
    x = np.maximum(rng.normal(size=(1, c, 14, 14)), 0).astype("f4")
    w = (rng.normal(size=(o, c, 3, 3)) / 34).astype("f4")
    a = attributes(4, ((1, 1), (1, 1)))
    weight = Case("winograd_weight", dict(tile=4), (f32(o, c, 3, 3),), (PLAIN,), PLAIN)
    u = Compiled(weight, emit_winograd_weight).run([w])
    layouts = (Layout(lanes, 1, (1, 1, 1, 1)), Layout(lanes, 0))
    case = Case("winograd_conv", a, (f32(1, c, 14, 14), f32(o, c, 6, 6)), layouts, Layout(lanes))
    got = Compiled(case, emit_winograd_conv).run([x, u])
    want = REGISTRY["conv"].numpy(namespace(a), x.astype("f8"), w.astype("f8"))
    assert abs(got - want).max() / abs(want).max() < 6e-6


@pytest.mark.parametrize("tile", [2, 4])
def test_meaning_is_that_of_convolution(tile):
    """The algorithm in f64 is a convolution."""
    rng = np.random.default_rng(4)
    x, w, bias = rng.normal(size=(2, 3, 7, 10)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    a = namespace(attributes(tile, ((2, 0), (1, 1))))
    u = REGISTRY["winograd_weight"].numpy(namespace({"tile": tile}), w)
    for weight in (u, w):
        np.testing.assert_allclose(REGISTRY["winograd_conv"].numpy(a, x, weight, bias),
                                   REGISTRY["conv"].numpy(a, x, w, bias), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("layout", [Layout(HOST.lanes, 0), PLAIN], ids=str)
def test_weight(tile, layout):
    case = Case("winograd_weight", dict(tile=tile), (f32(3 * HOST.lanes, 5, 3, 3),), (PLAIN,), layout)
    assert_matches(case, emit_winograd_weight)


@pytest.mark.parametrize("tile, window", [(2, 4), (4, 6), (4, 3)])
def test_any_schedule_can_compute_it(tile, window):
    """Plain weights have no template: one nest, one sum a result."""
    a = attributes(tile, ((1, 0), (2, 1)))
    harness.assert_matches(harness.Case("winograd_conv", a, (f32(N, 2, 5, 6), f32(3, 2, window, window), f32(3))))
