"""What makes a training run what it is (net, train section, data), and in which words two of them differ."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.data import DataConfig, Dataset, Part
from runtime.train_config import TrainConfig

if TYPE_CHECKING:
    from runtime.execute import Executable

SAMPLE = 64  # examples of a part that are looked at


def identify(executable: Executable, config: TrainConfig, data: DataConfig, dataset: Dataset) -> dict[str, Any]:
    """The identity of a run as JSON: `net`, `train`, `data` (the folder it lies in left out), `parts`."""
    settings = data.to_json()
    del settings["root"]
    return {"net": _net(executable), "train": config.to_json(), "data": settings,
            "parts": {name: _part(part) for name, part in dataset.parts.items()}}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first difference that keeps a run from being resumed, in words; None if there is none.

    How long to run and how patient to be may change: neither touches what was done already.
    """
    for kind in ("train", "data"):
        old, new = _flat(before[kind]), _flat(now[kind])
        for key in [*old, *(k for k in new if k not in old)]:
            free = kind == "train" and (key.split(".")[0] in ("run", "patience") or _follows_run(key, before, now))
            if old.get(key) != new.get(key) and not free:
                return f"`{key}` of the {kind} section was {_word(old.get(key))} and is {_word(new.get(key))} now"
    for name in {**before["parts"], **now["parts"]}:
        old, new = before["parts"].get(name), now["parts"].get(name)
        if old != new:
            counts = [f"{part['examples']} examples" if part else "no such part" for part in (old, new)]
            return f"the {name} part of the data had {counts[0]} and has {counts[1]} now" if counts[0] != counts[1] \
                else f"the examples of the {name} part changed"
    return _net_difference(before["net"], now["net"])


def _net(executable: Executable) -> dict[str, Any]:
    manifest = executable.manifest
    parameters = {p["path"]: f"{p['dtype']}{p['shape']}" for p in manifest["parameters"]
                  if p["kind"] in ("weight", "state", "optimizer")}
    return {"name": manifest["net"], "parameters": parameters, "program": _program(executable)}


def _program(executable: Executable) -> str:
    """A digest of what the program `step` computes: its graph without the places in the text, or else its kernels."""
    artifact = getattr(executable, "artifact", None)
    if artifact is not None and "ir/step.txt" in artifact.members:
        text = artifact.members["ir/step.txt"].decode()
        text = "\n".join(re.sub(r" @ \[.*\]$", "", line) for line in text.splitlines())
    else:
        text = json.dumps([[k["name"], k["ops"]] for k in executable.programs["step"]["kernels"]])
    return hashlib.sha256(text.encode()).hexdigest()


def _part(part: Part) -> dict[str, Any]:
    """How many examples, and a digest of which they are and of some of them, evenly spaced."""
    sample = np.unique(np.linspace(0, len(part) - 1, SAMPLE).astype(np.int64))
    digest = hashlib.sha256(np.ascontiguousarray(part.rows, np.int64).tobytes())
    for name, array in sorted(part.gather(sample).items()):
        digest.update(name.encode() + array.tobytes())
    return {"examples": len(part), "digest": digest.hexdigest()}


def _net_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    old, new = before["parameters"], now["parameters"]
    for path in [*old, *(p for p in new if p not in old)]:
        if path not in new:
            return f"the net has no parameter `{path}` any more"
        if path not in old:
            return f"the net has a new parameter `{path}`"
        if old[path] != new[path]:
            return f"the parameter `{path}` was {old[path]} and is {new[path]} now"
    if before["program"] != now["program"]:
        return "the net computes something else now, with the same parameters"
    return None


def _follows_run(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether `key` is the span of a schedule that was, and is, the whole run."""
    return key.startswith("schedule.args.over") and all(
        side["train"]["schedule"]["args"].get("over") == side["train"]["run"] for side in (before, now))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        inner = [_flat(part, f"{path}.{name}" if path else name) for name, part in value.items()]
        return {key: plain for flat in inner for key, plain in flat.items()}
    return {path: value}


def _word(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
