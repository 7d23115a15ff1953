"""Scalar expressions that ops are lowered with: TVM's own, under the names numpy uses.

The only file of `ops/`'s world that touches TVM, imported when lowering starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import DTYPES, LOW

TVM_DTYPES = {**DTYPES, "u64": "uint64", **dict.fromkeys(LOW, "float32")}

cos, log, sin, sqrt = T.cos, T.log, T.sin, T.sqrt
maximum, minimum, floordiv, floormod = T.max, T.min, T.floordiv, T.floormod


def dtype_of(value: Any) -> str:
    """TVM's word for the element type of an expression."""
    return str(value.ty.dtype)


def where(condition: Any, then: Any, otherwise: Any) -> Any:
    """One of two values; both are computed (no branch), so neither may read out of bounds."""
    return tirx.Select(condition, then, otherwise)


def guarded(condition: Any, then: Any, otherwise: Any) -> Any:
    """One of two values; `then` is computed only where `condition` holds, so it may read what lies inside only."""
    return T.if_then_else(condition, then, otherwise)


def cast(value: Any, dtype: str) -> Any:
    """`value` as the language's dtype word `dtype` (or u64)."""
    return tirx.Cast(TVM_DTYPES[dtype], value) if TVM_DTYPES[dtype] != dtype_of(value) else value


def const(value: float, dtype: str) -> Any:
    """A number of the language's dtype word `dtype` (or u64)."""
    return tirx.const(value, TVM_DTYPES[dtype])


def const_like(number: float, value: Any) -> Any:
    """A number of the element type of `value`."""
    return tirx.const(number, dtype_of(value))


def index(value: Any) -> Any:
    """An int or an integer expression as an index."""
    return tirx.const(value, "int64") if isinstance(value, int) else cast(value, "i64")


def lowest(dtype: str) -> Any:
    """The identity of max."""
    word = TVM_DTYPES[dtype]
    return tirx.const(float("-inf"), word) if word.startswith("f") else tirx.min_value(word)


def highest(dtype: str) -> Any:
    """The identity of min."""
    word = TVM_DTYPES[dtype]
    return tirx.const(float("inf"), word) if word.startswith("f") else tirx.max_value(word)


def all_of(*conditions: Any) -> Any:
    return tirx.all(*conditions) if len(conditions) > 1 else conditions[0]


def any_of(*conditions: Any) -> Any:
    return tirx.any(*conditions) if len(conditions) > 1 else conditions[0]


def equal(left: Any, right: Any) -> Any:
    """left == right as an expression."""
    return tirx.EQ(left, right if hasattr(right, "ty") else const_like(right, left))


def rsqrt(value: Any) -> Any:
    return const_like(1, value) / T.sqrt(value)


# --- what memory holds in few bits -------------------------------------------------------------------------------
#
# bf16 lies in memory as uint16 and is the upper half of an f32. TVM's own type is legalized by passes of its, and not on
# every path.

def widened(value: Any, dtype: str) -> Any:
    """What was read from memory that holds the dtype word `dtype`, as it is computed with."""
    if dtype == "bf16":
        return T.reinterpret("float32", T.shift_left(tirx.Cast("uint32", value), tirx.const(16, "uint32")))
    return tirx.Cast("float32", value) if dtype == "f16" else value


def narrowed(value: Any, dtype: str) -> Any:
    """What memory of the dtype word `dtype` holds for a value: the nearest, the even one of two; NaN stays one."""
    if dtype == "bf16":
        bits, nan = _nearest(T.bind(T.reinterpret("uint32", value)), 16)
        return tirx.Cast("uint16", T.shift_right(bits, _u32(16)) | (nan * _u32(64)))
    return tirx.Cast("float16", value) if dtype == "f16" else value


def rounded(value: Any, precision: str | None) -> Any:
    """An operand of a product that is computed in `precision`: tf32 has 10 bits of fraction, the nearest, the even one of two."""
    if precision != "tf32":
        return value
    bits, nan = _nearest(T.reinterpret("uint32", value), 13)
    return T.reinterpret("float32", (bits & _u32(0xFFFFE000)) | (nan * _u32(1 << 22)))


def _nearest(bits: Any, dropped: int) -> tuple[Any, Any]:
    """The bits of an f32 of which the last `dropped` may be dropped, and 1 for a NaN, which is left as it is. Nothing here
    wraps around: TVM's analyzer takes it that unsigned numbers do not."""
    nan = T.shift_right((bits & _u32(0x7FFFFFFF)) + _u32(0x007FFFFF), _u32(31))
    even = T.shift_right(bits, _u32(dropped)) & _u32(1)
    return bits + (_u32((1 << dropped - 1) - 1) + even) * (_u32(1) - nan), nan


def _u32(number: int) -> Any:
    return tirx.const(number, "uint32")


# --- exponentials ------------------------------------------------------------------------------------------------
#
# For f32 these are polynomials and bit operations, which vectorize (a call of the C library would be made element by
# element). Each is within 5e-7 of the exact value, relative to it; NaN stays NaN, for every comparison with it fails.
# Other types take TVM's own. An expression that is used several times is written several times: LLVM computes it once,
# but TVM's passes take time in proportion to the product of the uses, so chains of such uses are kept short. (TVM's Let
# does not help: its simplifier follows each use into the bound value.)

ERF = (1.1283792100207526, 0.6366164254205966, 0.10281488004628217, -0.01932301401493408, 0.00020748068109044393,
       0.0012505115664180472, -0.0003805761616387515, 4.065151181756321e-05)  # -log(erfc(x))/x on [0, 3.95], minimax

LOG1P = (0.9999999705406568, -0.49999501516786526, 0.3331927134249213, -0.24844369892403634, 0.19111431080335567,
         -0.1367476970500946, 0.07836166801253061, -0.029588507389053133, 0.005253457796061413)  # log(1+x)/x, Chebyshev

def polynomial(value: Any, coefficients: Sequence[float]) -> Any:
    """coefficients[0] + coefficients[1] * value + … by Horner's rule."""
    result = const_like(coefficients[-1], value)
    for coefficient in reversed(coefficients[:-1]):
        result = result * value + const_like(coefficient, value)
    return result


def limited(value: Any, low: float, high: float) -> Any:
    """A value within limits; a NaN stays one."""
    low, high = const_like(low, value), const_like(high, value)
    return where(value < low, low, where(value > high, high, value))


def growth(value: Any, bias: int) -> tuple[Any, Any]:
    """(2^(n + bias - 127), exp(r) - 1) for f32, where value = n log 2 + r with |r| <= log(2)/2."""
    n = T.floor(value * const_like(1.4426950408889634, value) + const_like(0.5, value))
    # log 2 in two parts, so that n times the first is exact
    r = value - n * const_like(0.693359375, value) - n * const_like(-2.12194440e-4, value)
    exponent = T.shift_left(tirx.Cast("int32", n) + tirx.const(bias, "int32"), tirx.const(23, "int32"))
    return T.reinterpret("float32", exponent), r * polynomial(r, [1 / math.factorial(k) for k in range(1, 8)])


def exp(value: Any) -> Any:
    """e to the power of value; 0 where that is below 2.5e-38."""
    if dtype_of(value) != "float32":
        return T.exp(value)
    # n may be 128, which has no bits of its own: so half of 2^n, twice
    half, grown = growth(limited(value, -86.6, 88.72), 126)
    inside = (half + half * grown) * const_like(2, value)
    return where(value < const_like(-86.6, value), const_like(0, value),
                 where(value > const_like(88.72, value), const_like(math.inf, value), inside))


def _expm1_within(value: Any) -> Any:
    """exp(x) - 1 of f32 from -20 to 88."""
    power, grown = growth(value, 127)
    return power * grown + (power - const_like(1, value))


def expm1(value: Any) -> Any:
    """exp(x) - 1, exact near 0 too."""
    if dtype_of(value) != "float32":
        return T.tanh(value * const_like(0.5, value)) * (T.exp(value) + const_like(1, value))
    return _expm1_within(limited(value, -20.0, 88.0))


def tanh(value: Any) -> Any:
    """(exp(2x) - 1) / (exp(2x) + 1)."""
    if dtype_of(value) != "float32":
        return T.tanh(value)
    e = _expm1_within(limited(value * const_like(2, value), -20.0, 20.0))
    return e / (e + const_like(2, value))


def sigmoid(value: Any) -> Any:
    one = const_like(1, value)
    return one / (one + exp(-value))


def log1p(value: Any) -> Any:
    """log(1 + x), for f32 between 0 and 1 only. (TVM takes its own apart into scalar calls, and loses bound vectors there.)"""
    if dtype_of(value) != "float32":
        return T.log1p(value)
    return value * polynomial(value, LOG1P)


def erf(value: Any) -> Any:
    """sign(x) * (1 - exp(-|x| p(|x|))); 1 for NaN."""
    if dtype_of(value) != "float32":
        return T.erf(value)
    size = T.min(T.fabs(value), const_like(3.95, value))
    e = _expm1_within(-(size * polynomial(size, ERF)))
    return where(value < const_like(0, value), e, -e)


def power(value: Any, exponent: float) -> Any:
    """value to a number, by square roots and products where it is a small multiple of a quarter."""
    quarters = exponent * 4
    if quarters != int(quarters) or abs(exponent) > 4:
        return T.pow(value, const_like(exponent, value))
    steps, result, root = abs(int(quarters)), None, value
    whole, rest = divmod(steps, 4)
    factors = [value] * whole
    if rest:
        root = T.sqrt(value)
        factors += [root] if rest & 2 else []
        factors += [T.sqrt(root)] if rest & 1 else []
    for factor in factors:
        result = factor if result is None else result * factor
    if result is None:
        return const_like(1, value)
    return const_like(1, value) / result if exponent < 0 else result
