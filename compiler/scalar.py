"""Scalar expressions that ops are lowered with: TVM's own, under the names numpy uses.

The only file of `ops/`'s world that touches TVM, imported when lowering starts.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ir import DTYPES

exp, log, sqrt, tanh, floor, erf, cos, sin = T.exp, T.log, T.sqrt, T.tanh, T.floor, T.erf, T.cos, T.sin
maximum, minimum, floordiv, floormod = T.max, T.min, T.floordiv, T.floormod


def where(condition: Any, then: Any, otherwise: Any) -> Any:
    """One of two values; both are computed (no branch), so neither may read out of bounds."""
    return tirx.Select(condition, then, otherwise)


def guarded(condition: Any, then: Any, otherwise: Any) -> Any:
    """One of two values; `then` is computed only where `condition` holds, so it may read what lies inside only."""
    return T.if_then_else(condition, then, otherwise)


def cast(value: Any, dtype: str) -> Any:
    """`value` as the language's dtype word `dtype`."""
    return tirx.Cast(DTYPES[dtype], value) if DTYPES[dtype] != str(value.ty.dtype) else value


def const(value: float, dtype: str) -> Any:
    """A number of the language's dtype word `dtype`."""
    return tirx.const(value, DTYPES[dtype])


def lowest(dtype: str) -> Any:
    """The identity of max."""
    return tirx.min_value(DTYPES[dtype])


def highest(dtype: str) -> Any:
    """The identity of min."""
    return tirx.max_value(DTYPES[dtype])


def all_of(*conditions: Any) -> Any:
    return tirx.all(*conditions) if len(conditions) > 1 else conditions[0]


def rsqrt(value: Any) -> Any:
    return const_like(1.0, value) / T.sqrt(value)


def const_like(number: float, value: Any) -> Any:
    return tirx.const(number, value.ty.dtype)


PI = math.pi
