"""Checkpoints: tensors by path in a safetensors file, with what belongs to them as JSON in its metadata.

Written atomically, with a digest over all tensors and the JSON, so that a damaged file is refused and never half used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runtime.errors import NetcError
from runtime.format import atomic

FORMAT = 1
KEY = "netc"  # the one key of the metadata: safetensors keeps no order among several, and files should be reproducible


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. meta: empty for a safetensors file that netc did not write."""

    path: str
    tensors: dict[str, np.ndarray] = field(repr=False)
    meta: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Writes tensors (path → array) and `meta` (plain JSON) atomically. Raises NetcError E0605 where it cannot."""
    text = json.dumps(meta)
    envelope = json.dumps({"format": FORMAT, "digest": _digest(tensors, text), "meta": text})
    with atomic(path) as stream:
        stream.write(save({name: np.asarray(array, order="C") for name, array in tensors.items()}, {KEY: envelope}))


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Raises NetcError E0621 (not there), E0622 (no safetensors file, or damaged), E0623 (another format version).
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise NetcError("E0621", f"there is no checkpoint {name}",
                        "`netc train` writes best.safetensors and last.safetensors")
    try:
        with safe_open(name, framework="numpy") as file:
            envelope = (file.metadata() or {}).get(KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        outer = None if envelope is None else json.loads(envelope)
    except (SafetensorError, OSError, ValueError, TypeError) as problem:
        raise NetcError("E0622", f"{name} is damaged, or no safetensors file: {problem}",
                        "take another checkpoint of the run, or train again") from problem
    if outer is None:
        return Checkpoint(name, tensors)
    if not isinstance(outer, dict) or outer.get("format") != FORMAT:
        raise NetcError("E0623", f"{name} was written by another version of netc",
                        "read it with the version that wrote it")
    if outer.get("digest") != _digest(tensors, str(outer.get("meta"))):
        raise NetcError("E0622", f"{name} is damaged: its content does not match its digest",
                        "take another checkpoint of the run, or train again")
    return Checkpoint(name, tensors, json.loads(outer["meta"]))


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file by path, of netc's or another origin. Raises as `read_checkpoint` does."""
    return read_checkpoint(path).tensors


def _digest(tensors: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
