"""Two kernels in one against numpy: what the first makes lives in bands of scratch only."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.schedule.cpu_staged import emit_staged
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Layout, assert_matches, f32

FEW = settings(max_examples=7, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])
LANES = HOST.lanes
SMALL = replace(HOST, l2=16 << 10)  # so that maps are several bands


def conv(draw, x, layout, staged=None, pointwise=False, out_layout=Layout(LANES)):
    """A convolution of what `staged` makes, or of a tensor of type x in memory."""
    rank = range(2)
    kernel = (1, 1) if pointwise else tuple(draw(st.sampled_from([1, 2, 3])) for _ in rank)
    stride = (1, 1) if pointwise else tuple(draw(st.sampled_from([1, 1, 2])) for _ in rank)
    pad = ((0, 0), (0, 0)) if pointwise else tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in rank)
    outputs = draw(st.integers(1, 5)) * LANES
    attrs = dict(kernel=kernel, stride=stride, dilation=(1, 1), pad=pad, groups=1)
    w, bias = f32(outputs, x.shape[1], *kernel), draw(st.booleans())
    layouts = (layout, Layout(LANES, 0), PLAIN)[:2 + bias]
    return Case("conv", attrs, (x, w, f32(outputs))[:2 + bias], layouts, out_layout,
                relu=draw(st.booleans()), staged={} if staged is None else {0: staged})


def pool(draw, x, layout, staged=None):
    op = draw(st.sampled_from(["max_pool", "avg_pool"]))
    kernel = tuple(draw(st.integers(1, min(3, size))) for size in x.shape[2:])
    pad = tuple((draw(st.integers(0, (k - 1) // 2)), draw(st.integers(0, (k - 1) // 2))) for k in kernel)
    stride = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    attrs = dict(kernel=kernel, stride=stride, pad=pad, dilation=(1, 1), ceil=False)
    if op == "avg_pool":
        attrs["count_include_pad"] = False
    return Case(op, attrs, (x,), (layout,), Layout(LANES, 1, (1, 0, 0, 1)), relu=draw(st.booleans()),
                staged={} if staged is None else {0: staged})


@st.composite
def maps(draw, plain=True):
    """A tensor in memory and its layout: blocked with or without a halo, or plain."""
    size = tuple(draw(st.integers(3, 20)) for _ in range(2))
    blocked = not plain or draw(st.booleans())
    channels = draw(st.integers(1, 3)) * LANES if blocked else draw(st.integers(1, 9))
    halo = draw(st.sampled_from([(0, 0, 0, 0), (2, 2, 3, 3)]))
    return f32(N, channels, *size), Layout(LANES, 1, halo) if blocked else PLAIN


@FEW
@given(st.data(), maps(plain=False))
def test_pool_within_convolution(data, source):
    made = pool(data.draw, *source)
    assert_matches(conv(data.draw, made.out, PLAIN, made, pointwise=data.draw(st.booleans())), emit_staged, SMALL)


@FEW
@given(st.data(), maps())
def test_convolution_within_pool(data, source):
    made = conv(data.draw, *source)
    assert_matches(pool(data.draw, made.out, PLAIN, made), emit_staged, SMALL)


@FEW
@given(st.data(), maps())
def test_convolution_within_convolution(data, source):
    made = conv(data.draw, *source, pointwise=data.draw(st.booleans()))
    assert_matches(conv(data.draw, made.out, PLAIN, made), emit_staged, SMALL)


def test_first_layer_within_pool():
    """A plain image: its rows are copied, convolved and pooled band by band; the last windows are partial."""
    attrs = dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=((1, 1), (1, 1)), groups=1)
    first = Case("conv", attrs, (f32(N, 3, 28, 28), f32(4 * LANES, 3, 3, 3)), (PLAIN, Layout(LANES, 0)), Layout(LANES),
                 relu=True)
    last = Case("max_pool", dict(kernel=(3, 3), stride=(2, 2), pad=((0, 0), (0, 0)), dilation=(1, 1), ceil=True),
                (first.out,), (PLAIN,), Layout(LANES), staged={0: first})
    assert_matches(last, emit_staged, SMALL)
