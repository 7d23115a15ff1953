"""Which layer made a NaN or an infinity: kernels are run again one at a time, each result looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import NetcError

if TYPE_CHECKING:
    from runtime.execute import Bound, Executable


def blame(executable: Executable, program: str, bound: Bound, step: int, epoch: int, lr: float) -> NetcError:
    """The error for a loss that is not finite; `bound` is the program as it was run, short of changing parameters.

    E0632 when a parameter was not finite before the step, E0630 otherwise.
    """
    broken = blame_parameters(executable, step - 1)
    if broken:
        return broken
    entry = executable.programs[program]
    for index in range(entry["update_from"]):
        bound(index, index + 1)
        kernel = entry["kernels"][index]
        for result in kernel["results"]:
            value = bound.view(result)
            if value is not None and not _is_finite(value):
                return NetcError("E0630", f"{_kind(value)} in step {step} (epoch {epoch}): the first to make one is "
                                 f"{_name(kernel)}, in {_count(value)} of {value.size:,} values",
                                 f"lower the learning rate ({lr:g} in this step), add `warmup`, scale the inputs, or "
                                 "look for a division by zero or a logarithm of zero. The parameters are as they were "
                                 "before the step")
    return NetcError("E0630", f"the loss of step {step} (epoch {epoch}) is not a finite number, though each layer's "
                     "result is: their sum is too large", f"lower the learning rate ({lr:g} in this step)")


def blame_parameters(executable: Executable, step: int) -> NetcError | None:
    """E0632 for the first parameter that holds a NaN or an infinity after `step` steps; None if there is none."""
    for path, value in executable.parameters.tensors("weight", "state", "optimizer").items():
        if not _is_finite(value):
            return NetcError("E0632", f"`{path}` holds {_kind(value)} after step {step}, in {_count(value)} of "
                             f"{value.size:,} values", "lower the learning rate, or add `warmup`; the last checkpoint "
                             "was written before and is sound")
    return None


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _kind(value: np.ndarray) -> str:
    return "NaN" if np.isnan(value).any() else "infinity"


def _count(value: np.ndarray) -> str:
    return f"{int(np.count_nonzero(~np.isfinite(value))):,}"


def _name(kernel: Mapping[str, Any]) -> str:
    layers = [f"`{layer}`" for layer in kernel["layers"]] or [f"`{kernel['name']}`"]
    names = layers[0] if len(layers) == 1 else f"the kernel of {', '.join(layers[:-1])} and {layers[-1]}"
    return f"{names} ({', '.join(kernel['ops'])})"
