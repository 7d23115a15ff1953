"""Direct convolution in blocked layout against numpy: drawn shapes, any batch in one binary, guard bands, targets."""

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
    result = draw(st.sampled_from([Layout(lanes, 1, (0, 0, more, 1)), PLAIN]))
    return Case("conv", attrs, types[:2 + bias], layouts[:2 + bias], result, relu=draw(st.booleans()))


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_forward(case, batch):
    assert_matches(case, emit_blocked_conv, batch=batch)


@FEW
@given(convolutions(depthwise=True))
def test_depthwise(case):
    assert_matches(case, emit_blocked_conv)


SAME3 = dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=((1, 1), (1, 1)), groups=1)


def same(lanes, channels=2, outputs=5, size=13, layout=None):
    """A padded 3x3 convolution of `channels` blocks to `outputs` blocks."""
    types = (f32(N, channels * lanes, size, size), f32(outputs * lanes, channels * lanes, 3, 3), f32(outputs * lanes))
    layouts = (Layout(lanes, 1, (1, 1, 1, 1)), Layout(lanes, 0), PLAIN)
    return Case("conv", SAME3, types, layouts, layout or Layout(lanes))


@pytest.mark.parametrize("name", ["x86-64-v3", "generic"])
def test_other_targets_compute_the_same(name):
    cpu = CPUS[name]
    if HOST.llvm["mtriple"] != cpu.llvm["mtriple"] or HOST.lanes < cpu.lanes:
        pytest.skip("not a machine that runs it")
    assert_matches(same(cpu.lanes), emit_blocked_conv, cpu)


@pytest.mark.parametrize("name, fma, sums", [
    ("x86-64-v3", r"vfmadd\w+ps.*%ymm", 12), ("x86-64-v4", r"vfmadd\w+ps.*%zmm", 27), ("generic", r"mulps", 12),
    ("aarch64", r"fmla\s+v\d+\.4s", 24)])
def test_every_target_gets_its_register_tile(name, fma, sums):
    """Cross-compiled: the inner loops are products of the target's vectors, and no accumulator is on the heap."""
    cpu = CPUS[name]
    compiled = Compiled(same(cpu.lanes, size=56), emit_blocked_conv, cpu)
    assert len(re.findall(fma, compiled.source("asm"))) >= sums
    assert "AllocWorkspace" not in compiled.source("ll")


def test_no_register_is_spilled():
    """Within the innermost loop of an AVX2 tile nothing is stored."""
    text = Compiled(same(8, size=56), emit_blocked_conv, CPUS["x86-64-v3"]).source("asm")
    bodies = [body for body in re.split(r"(?m)^\.LBB", text) if len(re.findall(r"vfmadd\w+ps", body)) >= 48]
    assert bodies
    for body in bodies:
        inner = body[body.index("vfmadd"):body.rindex("vfmadd")]
        assert not re.search(r"vmovups\s+%ymm\d+, \S*\(%rsp\)", inner)


@pytest.mark.parametrize("registers, lanes, tile", [(16, 8, (4, 3)), (32, 16, (9, 3)), (16, 4, (4, 3))])
def test_tiles_follow_from_the_registers(registers, lanes, tile):
    m, n = tile
    assert positions(replace(CPUS["generic"], registers=registers, lanes=lanes), n) == m
    assert m * n + n + 1 <= registers


@given(st.integers(1, 300), st.integers(1, 20))
def test_cuts_cover_everything_once(total, most):
    runs = cut(total, most)
    pieces = [(run.first + i * run.size, run.size) for run in runs for i in range(run.count)]
    assert [start for start, _ in pieces] == [sum(size for _, size in pieces[:i]) for i in range(len(pieces))]
    assert sum(size for _, size in pieces) == total
    sizes = {size for _, size in pieces}
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_groups_cover_all_blocks(blocks, height, width):
    tiles = tiling(16, 8, blocks, height, width, 100)
    covered = [run.first + i * run.size + j for run in tiles.groups for i in range(run.count) for j in range(run.size)]
    assert covered == list(range(blocks))


def test_results_that_go_to_several_tensors():
    """Each vector of channels is stored under the segment that it is in."""
    lanes = HOST.lanes
    case = replace(same(lanes), segments=((0, 2 * lanes), (2 * lanes, 5 * lanes)))
    assert_matches(case, emit_blocked_conv)
