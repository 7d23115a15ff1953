"""Direct convolution in blocked layout against numpy: drawn shapes, any batch in one binary, guard bands, other targets."""

import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ops.conv import window_size
from compiler.schedule.cpu_blocked import emit_blocked_conv
from compiler.schedule.cpu_tile import cut, positions, tiling
from compiler.target import CPUS
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Compiled, Layout, assert_matches, f32

FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])


@st.composite
def convolutions(draw, lanes=HOST.lanes, depthwise=False):
    """A convolution whose result and weight are blocked, of a blocked input with a halo or a plain one."""
    groups = 1 if depthwise else draw(st.sampled_from([1, 1, 1, 2]))
    kernel = tuple(draw(st.sampled_from([1, 1, 2, 3, 5])) for _ in range(2))
    stride = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(2))
    dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(2))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    pad = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    size = tuple(draw(st.integers(max(1, r - lo - hi), 21)) for r, (lo, hi) in zip(reach, pad))
    out = [window_size(*axis) for axis in zip(size, kernel, stride, dilation, pad)]
    blocked = depthwise or draw(st.booleans())
    inputs = draw(st.integers(1, 4)) * lanes if blocked else draw(st.integers(1, 20))
    outputs = draw(st.integers(1, 6)) * lanes
    if depthwise:
        groups = outputs = inputs
    channels = inputs if depthwise else inputs * groups
    more = draw(st.integers(0, 2))
    halo = tuple(p + more for p in (pad[0][0], pad[1][0], pad[0][1], pad[1][1]))
    bias = draw(st.booleans())
    attrs = dict(kernel=kernel, stride=stride, dilation=dilation, pad=pad, groups=groups)
    w = f32(outputs if depthwise else outputs * groups, 1 if depthwise else inputs, *kernel)
    types = (f32(N, channels, *size), w, f32(w.shape[0]))
    layouts = (Layout(lanes, 1, halo) if blocked else PLAIN, Layout(lanes, 0), PLAIN)
    assert min(out) >= 1
    return Case("conv", attrs, types[:2 + bias], layouts[:2 + bias], draw(st.sampled_from([Layout(lanes, 1, (0, 0, more, 1)), PLAIN])),
                relu=draw(st.booleans()))


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_forward(case, batch):
    assert_matches(case, emit_blocked_conv, batch=batch)


@FEW
@given(convolutions(depthwise=True))
def test_depthwise(case):
    assert_matches(case, emit_blocked_conv)
