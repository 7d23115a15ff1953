"""Winograd convolutions against numpy: drawn shapes, borders, any batch in one binary, guard bands, other targets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ops import REGISTRY, namespace
from compiler.schedule.cpu_winograd import emit_winograd_conv, emit_winograd_weight
from compiler.target import CPUS
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
    types = (f32(N, inputs, *size), f32(outputs, inputs, tile + 2, tile + 2), f32(outputs))
    layouts = (draw(st.sampled_from([Layout(lanes, 1, halo), Layout(lanes, 1), PLAIN])), Layout(lanes, 0), PLAIN)
    bias = draw(st.booleans())
    return Case("winograd_conv", attributes(tile, pad), types[:2 + bias], layouts[:2 + bias],
                draw(st.sampled_from([Layout(lanes, 1, (1, 0, 0, 1)), PLAIN])), relu=draw(st.booleans()))


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_convolution(case, batch):
    assert_matches(case, emit_winograd_conv, batch=batch)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("layout", [Layout(HOST.lanes, 0), PLAIN], ids=str)
def test_weight(tile, layout):
    case = Case("winograd_weight", dict(tile=tile), (f32(3 * HOST.lanes, 5, 3, 3),), (PLAIN,), layout)
    assert_matches(case, emit_winograd_weight)
