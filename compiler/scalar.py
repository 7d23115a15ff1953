"""Scalar expressions that ops are lowered with: TVM's own, under the names numpy uses.

The only file of `ops/`'s world that touches TVM, imported when lowering starts.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import DTYPES

TVM_DTYPES = {**DTYPES, "u64": "uint64"}

exp, log, sqrt, tanh, erf, log1p = T.exp, T.log, T.sqrt, T.tanh, T.erf, T.log1p
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
    return tirx.const(float("-inf"), DTYPES[dtype]) if dtype.startswith("f") else tirx.min_value(DTYPES[dtype])


def highest(dtype: str) -> Any:
    """The identity of min."""
    return tirx.const(float("inf"), DTYPES[dtype]) if dtype.startswith("f") else tirx.max_value(DTYPES[dtype])


def all_of(*conditions: Any) -> Any:
    return tirx.all(*conditions) if len(conditions) > 1 else conditions[0]


def any_of(*conditions: Any) -> Any:
    return tirx.any(*conditions) if len(conditions) > 1 else conditions[0]


def equal(left: Any, right: Any) -> Any:
    """left == right as an expression."""
    return tirx.EQ(left, right if hasattr(right, "ty") else const_like(right, left))


def rsqrt(value: Any) -> Any:
    return const_like(1, value) / T.sqrt(value)


def expm1(value: Any) -> Any:
    """exp(x) - 1 without cancellation near 0: tanh(x/2) * (exp(x) + 1)."""
    return T.tanh(value * const_like(0.5, value)) * (exp(value) + const_like(1, value))


def sigmoid(value: Any) -> Any:
    one = const_like(1, value)
    return one / (one + exp(-value))


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
