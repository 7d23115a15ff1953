"""Whole artifacts kept from one compilation to the next, so that compiling the same again is reading files.

Two levels, in the cache of compiled kernels (`compiler/cache.py`). An elaborated net and how it is to be compiled name its
code, and with a seed its first weights. A command line and what the files it names hold name that net: where they are as
they were, neither the parser nor TVM is imported. What netc itself is, and the machine, are part of every name.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import cache
from runtime.format import WEIGHTS, Artifact, join

if TYPE_CHECKING:
    from compiler.elaborate import Program


def build(program: Program, targets: Sequence[str], choices: Mapping[str, Any], params: Any, seed: int) -> Artifact:
    """The artifact of a program. targets: of each half of it (`compiler.target.halves`); choices: what `compiler.artifact.code`
    takes; params: a file, arrays by path, or None."""
    from compiler import artifact
    from compiler.initialize import initialize
    store = cache.default()
    # The half for machines without a GPU computes in f32 what GPUs compute in tf32.
    beside = {"precision": "f32"} if len(targets) > 1 and choices["precision"] == "tf32" else {}
    beside |= {"fast_math": False} if len(targets) > 1 else {}
    found = join([_half(store, program, t, {**choices, **(beside if t.startswith("cpu") else {})}) for t in targets])
    name = key(program, targets[0], choices) if len(targets) == 1 else None
    made = _with_parameters(store, name, found, params, seed)
    if made is None:
        data = artifact.weights.fill(found[0], initialize(program.graph, seed))
        if name is not None:
            store.put(_seeded(name, seed), data)
        made = _artifact(found, data, None)
    if name is not None:
        store.trim()
    return made


def _half(store: cache.Cache, program: Program, target: str, choices: Mapping[str, Any]) -> tuple[dict, dict]:
    """The code of a program for one kind of device."""
    from compiler import artifact
    name = key(program, target, choices)
    found = _code(store, name)
    if found is None:
        found = artifact.code(program, target, **choices)
        if name is not None:
            store.put(name, _packed(*found))
    return found


def recall(asked: str | None, params: Any, seed: int) -> Artifact | None:
    """What was built for a request before, or None."""
    store = cache.default()
    pointer = store.get(asked) if asked is not None else None
    name = pointer.decode() if pointer is not None else None
    found = _code(store, name)
    return _with_parameters(store, name, found, params, seed) if found is not None else None


def remember(asked: str | None, place: Path, program: Program, target: str, choices: Mapping[str, Any]) -> None:
    """That a request is for this program. Not where the files that the request was named by are not all that were read."""
    from compiler.imports import files
    name, held = key(program, target, choices), files(place)
    if asked is None or name is None or held is None:
        return
    if {text.encode() for _, text in program.sources} <= {data.removeprefix(b"\xef\xbb\xbf") for data in held.values()}:
        cache.default().put(asked, name.encode())


def request(place: Path, settings: Sequence[str], target: str, **choices: Any) -> str | None:
    """The name of a request to compile what stands in a file; None where its files cannot be read without the parser, or
    the target is none whose compiler is netc's own."""
    from compiler.imports import files
    held = files(place) if _ours(target) and cache.default().folder is not None else None
    if held is None:
        return None
    texts = [part for name, data in sorted(held.items()) for part in (name, data)]
    return cache.key("request", _here(), str(place), target, json.dumps([list(settings), choices], sort_keys=True), *texts)


def key(program: Program, target: str, choices: Mapping[str, Any]) -> str | None:
    """The name of a program's code; None where ops or passes that are not netc's own may have a say, or other compilers."""
    from compiler.ops import REGISTRY
    from compiler.passes import pipeline
    from compiler.passes.base import PASSES
    from compiler.text import to_text
    makers = {*(type(op).__module__ for op in REGISTRY.values()), *(p.run.__module__ for p in PASSES.values())}
    if not _ours(target) or not all(m.startswith("compiler.") for m in makers) or cache.default().folder is None:
        return None
    rest = repr([(f.name, getattr(program, f.name)) for f in fields(program) if f.name not in ("graph", "warnings")])
    asked = json.dumps([pipeline.LAYERS, pipeline.PRIMITIVES, pipeline.KERNELS,
                        {k: sorted(v) if isinstance(v, (set, frozenset, tuple)) else v for k, v in choices.items()}], sort_keys=True)
    return cache.key("code", _here(), to_text(program.graph), rest, target, asked)


def _ours(target: str) -> bool:
    """Whether no compiler but netc's own has a hand in code for a target."""
    return target.startswith("cpu") and "+" not in target


def _code(store: cache.Cache, name: str | None) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Manifest and members as `compiler.artifact.code` gives them."""
    data = store.get(name) if name is not None else None
    if data is None:
        return None
    head, _, rest = data.partition(b"\n")
    manifest, sizes = json.loads(head)
    members, start = {}, 0
    for member, size in sizes:
        members[member] = rest[start:start + size]
        start += size
    return manifest, members


def _packed(manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> bytes:
    head = json.dumps([manifest, [(name, len(data)) for name, data in members.items()]])
    return b"\n".join([head.encode(), b"".join(members.values())])


def _with_parameters(store: cache.Cache, name: str | None, found: tuple[dict, dict], params: Any, seed: int) -> Artifact | None:
    """The artifact with the given parameters, or with seeded ones if those are kept; else None."""
    if params is None:
        data = store.get(_seeded(name, seed)) if name is not None else None
        return _artifact(found, data, None) if data is not None else None
    from compiler import weights
    values, class_names = read_parameters(params)
    return _artifact(found, weights.fill(found[0], values), class_names)


def _artifact(found: tuple[dict, dict], data: bytes, class_names: list[str] | None) -> Artifact:
    manifest, members = found
    names = class_names or (manifest["data"] or {}).get("classes")
    return Artifact({**manifest, "class_names": names}, {**members, WEIGHTS: data})


def _seeded(name: str, seed: int) -> str:
    return cache.key("weights", name, str(seed))


def read_parameters(params: Any) -> tuple[Mapping[str, Any], list[str] | None]:
    """Arrays by path from a .safetensors file or a mapping; and the names of classes that training left with them."""
    if isinstance(params, Mapping):
        return params, None
    from runtime.checkpoint import read_checkpoint
    found = read_checkpoint(params)
    return found.tensors, found.meta.get("class_names")


@lru_cache(maxsize=1)
def _here() -> str:
    """What netc, TVM and the machine are."""
    parts: list[str | bytes] = [sys.version, platform.machine(), str(os.cpu_count())]
    for room in ("dsl", "compiler", "runtime", "netc"):
        spec = find_spec(room)
        for folder in sorted(spec.submodule_search_locations or []) if spec is not None else []:
            for path in sorted(Path(folder).rglob("*")):
                if path.suffix in (".py", ".lark", ".h"):
                    parts += [str(path), path.read_bytes()]
    tvm = find_spec("tvm")
    library = Path(tvm.origin).parent / "lib" / "libtvm_compiler.so" if tvm is not None and tvm.origin else None
    if library is not None and library.exists():
        parts.append(f"{library} {library.stat().st_size} {library.stat().st_mtime_ns}")
    changing = ("processor", "cpu MHz", "bogomips", "apicid", "initial apicid", "core id")
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0].splitlines()
        parts += [line for line in first if line.partition("\t")[0].strip() not in changing]
        parts += [path.read_text() for path in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))]
    except OSError:
        pass
    return cache.key(*parts)
