"""Pooling and sums over channels in blocked layout against numpy: drawn windows, borders, guard bands."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.ops.conv import window_size
from compiler.schedule.cpu_blocked_pool import emit_blocked_pool
from compiler.schedule.cpu_channel_sum import emit_channel_sum
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Layout, assert_matches, f32

FEW = settings(max_examples=10, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])


@st.composite
def pools(draw, lanes=HOST.lanes):
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(2))
    stride = tuple(draw(st.sampled_from([1, 2, 2, 3])) for _ in range(2))
    op = draw(st.sampled_from(["max_pool", "avg_pool"]))
    dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(2)) if op == "max_pool" else (1, 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    pad = tuple(tuple(draw(st.integers(0, (k - 1) // 2)) for _ in range(2)) for k in kernel)
    size = tuple(draw(st.integers(max(r, k), 23)) for r, k in zip(reach, kernel))
    ceil = draw(st.booleans())
    attrs = dict(kernel=kernel, stride=stride, pad=pad, ceil=ceil, dilation=dilation)
    if op == "avg_pool":
        attrs["count_include_pad"] = draw(st.booleans())
    assert min(window_size(*axis, ceil) for axis in zip(size, kernel, stride, dilation, pad)) >= 1
    halo = tuple(draw(st.integers(0, 2)) for _ in range(4))
    return Case(op, attrs, (f32(N, draw(st.integers(1, 3)) * lanes, *size),), (Layout(lanes, 1, halo),),
                draw(st.sampled_from([Layout(lanes, 1, halo), PLAIN])), relu=draw(st.booleans()))


@FEW
@given(pools(), st.sampled_from([1, 16]))
def test_pools(case, batch):
    assert_matches(case, emit_blocked_pool, batch=batch)


@FEW
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_channel_sum(half, blocks, height, width, plain):
    case = Case("channel_sum", dict(size=2 * half - 1), (f32(N, blocks * HOST.lanes, height, width),),
                (PLAIN if plain else Layout(HOST.lanes, 1, (1, 1, 1, 1)),), Layout(HOST.lanes))
    assert_matches(case, emit_channel_sum)
