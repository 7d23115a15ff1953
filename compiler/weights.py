"""What an artifact stores of its parameters: weights and running statistics, the user's way. Optimizer state starts at zero,
what is packed is made when the artifact is loaded, and constants of the compiler's are a member of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from runtime.errors import NetcError


def fill(manifest: Mapping[str, Any], given: Mapping[str, np.ndarray]) -> bytes:
    """The member with the weights of all halves of an artifact. given: arrays by path, of which those that the net has no use
    for are left out. Raises NetcError E0610 where one is missing or of another shape."""
    values = {}
    for entry in (e for half in (manifest, *manifest.get("halves", {}).values()) for e in half["parameters"]):
        if entry["kind"] not in ("weight", "state"):
            continue
        value, shape = given.get(entry["path"]), entry["shape"]
        if value is None or list(value.shape) != list(shape):
            what = "lack" if value is None else f"have shape {list(value.shape)} for"
            raise NetcError("E0610", f"the given parameters {what} `{entry['path']}`, which the net needs as {list(shape)}",
                            "give the parameters of the same net, with the same settings")
        values[entry["path"]] = np.ascontiguousarray(value, entry["dtype"])
    return save(values)
