"""The artifact on disk: a stored zip with a manifest, a hash of every member and one over the manifest.

The one leaf that compiler and runtime share; standard library only. Hashes show damage, not trust: an artifact holds
native code.

Manifest, format 1
  net, target {kind, name, …}, symbols [names of symbolic dims, the batch first]
  inputs      [{name, dtype, shape, role, classes}]; class_names [names of the label's classes] or null
  parameters  [{path, dtype, shape, offset, bytes, kind, trainable, layer}] in one flat buffer of parameter_bytes;
              kind is weight, state (running statistics), optimizer, constant, or packed (made by the program prepare)
  programs    {run | evaluate | step | prepare: {symbol, arguments, arena, kernels, update_from, parameter_bytes}}
     arguments [{kind: input|output|parameters|arena, name, dtype, shape}] in call order, followed by the kernel range
     arena     bytes of working memory
     kernels   [{name, ops, layers, macs, flops, bytes, results: [{in, name | offset, dtype, shape, part}]}] in execution order
     recompute: {budget, without, batch, tensors, seconds}, where --memory-budget had tensors computed again: the arena
       without it, how many tensors, and the predicted time that takes
               `function` of each is what runs; variants: where it is one of several that do the same, all of them
               memory: [{in, name, offset, bytes, write, tensor}] of each, for GPUs: the bytes of arguments, parameters and
               arena that it may touch, which the emulator checks
               reads: the parameters and constants that a kernel of `prepare` reads
     update_from: index of the first kernel that changes parameters
     batches: {symbol, programs: {batch: name}}, where `run` has variants made for these batches alone: programs with the same
       arguments, which take its place when the symbol has that value
     choices: how many numbers behind the kernel range say which variants run (`choice_words`)
     parameter_bytes: how much of the flat buffer, from its start, the program touches
  halves      {kind: {target, parameters, parameter_bytes, programs}} of a fat artifact: code for another kind of device
              beside that of `target`; its members (but weights and texts, which are everybody's) lie under `kind/`
  tuned       {device, batch} that `netc tune` timed variants on
  train, data: the resolved sections, or null
Sizes (of shapes, arenas, offsets) are numbers, symbols, or sums, products and maxima of sizes in prefix form; see `size`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import NetcError

FORMAT = 1
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
WEIGHTS, CONSTANTS = "parameters.safetensors", "constants.safetensors"  # the user's tensors; the compiler's
CHOICES = 31  # kernels whose choice, a number from 0 to 3, one word of a driver's arguments holds
HALF = ("target", "parameters", "parameter_bytes", "programs")  # what is said of each kind of device for itself


@dataclass(frozen=True)
class Artifact:
    """A compiled network: manifest and members (name → bytes), in memory or in its file (`Members`)."""

    manifest: dict[str, Any]
    members: Mapping[str, bytes] = field(repr=False)
    path: str | None = None


class _File:
    """An open file that is closed when nobody reads it any more."""

    def __init__(self, number: int):
        self.number = number
        self._close = os.close  # kept: at the end of the process modules are emptied before objects go

    def __del__(self) -> None:
        self._close(self.number)


class Members(Mapping[str, bytes]):
    """The members of an artifact in a file, which stays open as long as this is there."""

    def __init__(self, file: _File, name: str, places: Mapping[str, tuple[int, int]], digests: Mapping[str, str]):
        """places: where each begins and how long it is; digests: of those whose content is promised."""
        self._file, self._name, self._places, self._digests = file, name, places, digests

    def __getitem__(self, member: str) -> bytes:
        """Raises KeyError, NetcError E0603."""
        content = bytearray(self._places[member][1])
        self.read_into(content, member)
        if member in self._digests and hashlib.sha256(content).hexdigest() != self._digests[member]:
            raise _damaged(self._name, member)
        return bytes(content)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, member: object) -> bool:
        return member in self._places

    def only(self, names: Mapping[str, str]) -> Members:
        """Some of the members under other names. names: new → old."""
        return Members(self._file, self._name, {new: self._places[old] for new, old in names.items()},
                       {new: self._digests[old] for new, old in names.items()})

    def read_into(self, buffer: Any, member: str, start: int = 0) -> None:
        """Fills a writable buffer with what a member holds from `start` on, unverified. Raises NetcError E0603."""
        view, at = memoryview(buffer).cast("B"), self._places[member][0] + start
        while view:
            got = os.preadv(self._file.number, [view], at)
            if not got:
                raise _damaged(self._name, member)
            view, at = view[got:], at + got

    def verify(self, member: str) -> bool:
        """Whether the content is what was promised; little of it is in memory at a time."""
        digest, size, buffer = hashlib.sha256(), self._places[member][1], bytearray(1 << 18)
        for start in range(0, size, len(buffer)):
            part = memoryview(buffer)[:min(len(buffer), size - start)]
            self.read_into(part, member, start)
            digest.update(part)
        return digest.hexdigest() == self._digests[member]


def _damaged(name: str, member: str) -> NetcError:
    return NetcError("E0603", f"{name} is damaged: its member `{member}` does not match its hash", "compile it again")


def kinds(manifest: Mapping[str, Any]) -> list[str]:
    """What an artifact holds code for: cuda, cpu, or both."""
    return [manifest["target"]["kind"], *manifest.get("halves", {})]


def half(artifact: Artifact, kind: str) -> Artifact:
    """The code for one kind of device as an artifact of its own. kind: one of `kinds`."""
    manifest = artifact.manifest
    if manifest["target"]["kind"] == kind:
        return artifact
    prefix = f"{kind}/"
    names = {name.removeprefix(prefix): name for name in artifact.members if name.startswith((prefix, "source/")) or name == WEIGHTS}
    held = artifact.members
    members = held.only(names) if isinstance(held, Members) else {new: held[old] for new, old in names.items()}
    return Artifact({**manifest, **manifest["halves"][kind], "halves": {}}, members, artifact.path)


def join(halves: Sequence[tuple[Mapping[str, Any], Mapping[str, bytes]]]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and members of one artifact from those of several, of different kinds; the first comes first everywhere."""
    (first, members), *others = halves
    manifest, members = dict(first), dict(members)
    if others:
        manifest["halves"] = {m["target"]["kind"]: {key: m[key] for key in HALF} for m, _ in others}
    for other, theirs in others:
        prefix = f"{other['target']['kind']}/"
        members |= {prefix + name: data for name, data in theirs.items() if not name.startswith("source/")}
    return manifest, members


def write(path: str | os.PathLike, manifest: dict[str, Any], members: Mapping[str, bytes]) -> None:
    """Writes the artifact atomically: `path` is either the whole new file or what it was."""
    manifest = dict(manifest, format=FORMAT, members={
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(members.items())})
    text = json.dumps(manifest, indent=1).encode()
    with atomic(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        everything = {MANIFEST: text, DIGEST: hashlib.sha256(text).hexdigest().encode(), **dict(sorted(members.items()))}
        for name, data in everything.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def read(path: str | os.PathLike, held: bool = True) -> Artifact:
    """Reads and verifies an artifact. held: its members are in memory, whatever becomes of the file; else they stay there, and
    are read each time they are asked for. Raises NetcError E0601 (not there), E0602 (not an artifact), E0603 (damaged)."""
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise NetcError("E0601", f"there is no artifact {name}", "make one with `netc compile NET.net -o FILE.netb`")
    try:
        with open(name, "rb") as stream, zipfile.ZipFile(stream) as archive:
            file = _File(os.dup(stream.fileno()))
            places = {info.filename: _place(file, info) for info in archive.infolist()}
    except PermissionError as problem:
        raise NetcError("E0601", f"cannot read {name}: {problem.strerror}", "look at its permissions") from problem
    except (zipfile.BadZipFile, struct.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as problem:
        raise _unreadable(name, problem) from problem
    if MANIFEST not in places or DIGEST not in places:
        raise NetcError("E0602", f"{name} is a zip file, but not a netc artifact", "give a file made by `netc compile`")
    raw = Members(file, name, places, {})
    text = raw[MANIFEST]
    if hashlib.sha256(text).hexdigest().encode() != raw[DIGEST]:
        raise NetcError("E0603", f"{name} is damaged: its manifest does not match its hash", "compile it again")
    manifest = json.loads(text)
    if manifest.get("format") != FORMAT:
        raise NetcError("E0604", f"{name} has artifact format {manifest.get('format')}; this netc reads {FORMAT}",
                        "compile it again with this version")
    listed = manifest["members"]
    members = Members(file, name, {member: place for member, place in places.items() if member not in (MANIFEST, DIGEST)},
                      {member: entry["sha256"] for member, entry in listed.items()})
    for member in sorted({*listed, *members}):
        if member not in members or member not in listed or not members.verify(member):
            raise _damaged(name, member)
    return Artifact(manifest, dict(members) if held else members, name)


def _place(file: _File, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a member begins, and how long it is. Raises BadZipFile for one that is compressed or not there."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile("a member is compressed")
    head = os.pread(file.number, 30, info.header_offset)  # what zip files repeat ahead of each member
    if head[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"there is no `{info.filename}` where it should be")
    name, extra = struct.unpack_from("<HH", head, 26)
    return info.header_offset + len(head) + name + extra, info.file_size


def _unreadable(name: str, problem: Exception) -> NetcError:
    with open(name, "rb") as stream:
        ours = stream.read(2) == b"PK"
    if ours:
        return NetcError("E0603", f"{name} is damaged: {problem}", "compile it again")
    return NetcError("E0602", f"{name} is not a netc artifact", "give a file made by `netc compile`")


class atomic:
    """`with atomic(path) as stream`: a temporary file beside `path` that takes its place only when all went well."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __enter__(self):
        import tempfile  # with what it imports, more than the rest of this file; reading needs it not
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as problem:
            raise NetcError("E0605", f"cannot write {self.path}: {problem.strerror}", "choose another place") from problem
        self.stream = os.fdopen(handle, "wb")
        return self.stream

    def __exit__(self, kind, value, trace) -> None:
        try:
            with self.stream:
                if kind is None:
                    self.stream.flush()
                    os.fsync(self.stream.fileno())
            if kind is None:
                os.chmod(self.temporary, 0o666 & ~_umask())
                os.replace(self.temporary, self.path)
                return
        except OSError as problem:
            value = problem
        os.unlink(self.temporary)
        if isinstance(value, OSError):  # the disk is full, for one
            raise NetcError("E0605", f"cannot write {self.path}: {value.strerror}", "choose another place") from value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def choice_words(program: Mapping[str, Any]) -> list[int]:
    """What a driver is told of the variants to call: a choice takes 2 bits."""
    words = [0] * program.get("choices", 0)
    for index, kernel in enumerate(program["kernels"]):
        if "variants" in kernel:
            words[index // CHOICES] |= kernel["variants"].index(kernel["function"]) << 2 * (index % CHOICES)
    return words


def variant(program: Mapping[str, Any], sizes: Mapping[str, int]) -> str | None:
    """The program that takes the place of `program` (an entry of the manifest) at these sizes, if there is one."""
    batches = program.get("batches")
    return batches["programs"].get(str(sizes[batches["symbol"]])) if batches else None


def size(expression: int | str | list, env: Mapping[str, int]) -> int:
    """The value of a size of the manifest: a number, a symbol, or ["+" | "*" | "//" | "max", operand, …]."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return env[expression]
    operator, *operands = expression
    values = [size(operand, env) for operand in operands]
    if operator == "+":
        return sum(values)
    if operator == "max":
        return max(values)
    return math.prod(values) if operator == "*" else values[0] // values[1]
