"""Templates on tensors of 16 bits against numpy: what they read is widened, what they store is rounded once."""

from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compiler.ir import TensorType
from compiler.schedule.cpu_bf16 import emit_widened_conv
from compiler.schedule.cpu_blocked import emit_blocked_conv
from compiler.schedule.cpu_blocked_pool import emit_blocked_pool
from compiler.schedule.cpu_winograd import emit_winograd_conv
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Layout, assert_matches, bf16, f32
from tests.compiler.schedule.test_blocked import convolutions, same

FEW = settings(max_examples=6, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def low(case: Case, dtype: str = "bf16") -> Case:
    """The same case with operands (but the bias) and result of 16 bits."""
    return replace(case, types=tuple(TensorType(dtype, t.shape) if i < 2 else t for i, t in enumerate(case.types)))


@FEW
@given(convolutions(), st.sampled_from([1, 16]))
def test_a_blocked_input_is_widened_once(case, batch):
    assume(case.layouts[0].block > 1 and (case.types[0].shape[1] // case.attrs["groups"]) % HOST.lanes == 0)
    assert_matches(low(case), emit_widened_conv, batch=batch)


def test_positions_of_a_large_map_are_taken_in_stretches():
    """More channels than L2 has room for at once, and threads that share an image."""
    lanes = HOST.lanes
    attrs = dict(kernel=(1, 1), stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)), groups=1)
    case = Case("conv", attrs, (bf16(N, 4 * lanes, 9, 7), bf16(5 * lanes, 4 * lanes, 1, 1), f32(5 * lanes)),
                (Layout(lanes), Layout(lanes, 0), PLAIN), Layout(lanes), relu=True)
    for cpu in (HOST, replace(HOST, l2=16 * lanes * 40), replace(HOST, llvm={**HOST.llvm, "num-cores": 3})):
        assert_matches(case, emit_widened_conv, cpu)


@FEW
@given(convolutions())
def test_any_other_input_is_copied(case):
    assume(case.layouts[0].block == 1)
    assert_matches(low(case), emit_blocked_conv)


@FEW
@given(convolutions(depthwise=True))
def test_depthwise(case):
    assert_matches(low(case), emit_blocked_conv)


def test_pooling():
    lanes = HOST.lanes
    attrs = dict(kernel=(3, 3), stride=(2, 2), dilation=(1, 1), pad=((0, 1), (0, 1)), ceil=False)
    case = Case("max_pool", attrs, (bf16(N, 2 * lanes, 13, 13),), (Layout(lanes, 1, (1, 1, 1, 1)),), Layout(lanes))
    assert_matches(case, emit_blocked_pool)


def test_winograd_transforms_what_it_widens():
    """Of windows of 16 bits, and of weights that were transformed before, in f32."""
    case = low(same(HOST.lanes))
    attrs = {**case.attrs, "tile": 4}
    assert_matches(replace(case, op="winograd_conv", attrs=attrs), emit_winograd_conv, tolerance=1e-4)
    u = f32(*case.types[1].shape[:2], 6, 6)
    before = replace(case, op="winograd_conv", attrs=attrs, types=(case.types[0], u, case.types[2]))
    assert_matches(before, emit_winograd_conv, tolerance=1e-4)
