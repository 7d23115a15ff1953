"""What a fused group says about one output element when it is not a plain expression: a reduction.

A leaf shared by the lowering, which builds reductions, and the schedules, which turn them into loops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tvm.ir import Expr


def _identity(value: Expr) -> Expr:
    return value


@dataclass(frozen=True)
class Reduce:
    """One output element as a reduction over an index space of its own.

    kind: how two values are combined. "argmax" gives, as int32, the flat index (row-major over `extents`) of the first
      maximum.
    extents: size of each reduction axis; may hold the symbolic batch.
    value: from one index per axis to the value that is reduced; its dtype is the accumulator's.
    finish: from the reduced value (for "argmax" the index) to what is stored, e.g. a bias and an activation.
    """

    kind: Literal["sum", "max", "min", "argmax"]
    extents: Sequence[Expr]
    value: Callable[[list[Expr]], Expr]
    finish: Callable[[Expr], Expr] = _identity
