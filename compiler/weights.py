"""What an artifact stores of its parameters: weights, running statistics and constants. Optimizer state starts at zero, and
what is packed is made when the artifact is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from runtime.errors import NetcError

MEMBER = "parameters.safetensors"


def fill(manifest: Mapping[str, Any], constants: bytes, given: Mapping[str, np.ndarray]) -> bytes:
    """The member of a manifest's parameters. constants: the member with the constants alone; given: arrays by path, of which
    those that the net has no use for are left out. Raises NetcError E0610 where one is missing or of another shape."""
    values = load(constants)
    for entry in manifest["parameters"]:
        if entry["kind"] not in ("weight", "state"):
            continue
        value, shape = given.get(entry["path"]), entry["shape"]
        if value is None or list(value.shape) != list(shape):
            what = "lack" if value is None else f"have shape {list(value.shape)} for"
            raise NetcError("E0610", f"the given parameters {what} `{entry['path']}`, which the net needs as {list(shape)}",
                            "give the parameters of the same net, with the same settings")
        values[entry["path"]] = np.ascontiguousarray(value, entry["dtype"])
    return save(values)
