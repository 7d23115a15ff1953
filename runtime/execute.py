"""Running an artifact: its object file in an ORC JIT session, one flat parameter buffer, one arena.

Imports numpy and tvm_ffi only: no compiler, no `import tvm`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import platform
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from runtime import format
from runtime.arrays import ALIGNMENT, aligned
from runtime.errors import NetcError


class Parameters:
    """All weights, statistics and optimizer state of an artifact in one flat aligned buffer; `self[path]` is a view."""

    def __init__(self, manifest: Mapping[str, Any]):
        self.table = {entry["path"]: entry for entry in manifest["parameters"]}
        self.buffer = aligned((max(manifest["parameter_bytes"], 1),))
        self.buffer[:] = 0

    def __getitem__(self, path: str) -> np.ndarray:
        entry = self.table[path]
        raw = self.buffer[entry["offset"]:entry["offset"] + entry["bytes"]]
        return raw.view(entry["dtype"]).reshape(entry["shape"])

    def __contains__(self, path: str) -> bool:
        return path in self.table

    def paths(self, *kinds: str) -> list[str]:
        """Paths of the given kinds (all without any), in the order of the buffer."""
        return [path for path, entry in self.table.items() if not kinds or entry["kind"] in kinds]

    def tensors(self, *kinds: str) -> dict[str, np.ndarray]:
        return {path: self[path] for path in self.paths(*kinds)}

    def assign(self, tensors: Mapping[str, np.ndarray], where: str, kinds: tuple[str, ...] = ("weight", "state")) -> None:
        """Takes values by path. Raises NetcError E0610 when one is missing, unknown, or of another shape."""
        wanted = self.paths(*kinds)
        missing = [p for p in wanted if p not in tensors]
        unknown = [p for p in tensors if p not in self.table]
        if missing or unknown:
            what = (f"lacks `{missing[0]}`" if missing else f"has `{unknown[0]}`, which the net does not")
            more = len(missing or unknown) - 1
            raise NetcError("E0610", f"{where} does not fit this net: it {what}" + (f" (and {more} more)" if more else ""),
                            "give the parameters of the same net, with the same settings")
        for path in wanted:
            value = tensors[path]
            if list(value.shape) != list(self.table[path]["shape"]):
                raise NetcError("E0610", f"{where} does not fit this net: `{path}` has shape {list(value.shape)}, the net "
                                f"needs {list(self.table[path]['shape'])}", "give the parameters of the same net")
            self[path][...] = value


class Executable:
    """A loaded artifact: `exe(image=array)` runs the deployed net, `call` any of its programs.

    Threads may share one; their calls run one after the other.
    """

    def __init__(self, artifact: format.Artifact):
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.programs = self.manifest["programs"]
        self.parameters = Parameters(self.manifest)
        self.name = artifact.path or self.manifest["net"]
        self._module = _load(artifact)
        self._functions: dict[str, Any] = {}
        self._parameters = tvm_ffi.from_dlpack(self.parameters.buffer)
        self._arenas: dict[str, tuple[int, Any]] = {}
        self._lock = threading.Lock()
        if "parameters.safetensors" in artifact.members:
            from safetensors.numpy import load
            tensors = load(artifact.members["parameters.safetensors"])
            self.parameters.assign(tensors, self.name, kinds=("weight", "state", "constant"))
            self.prepare()

    @classmethod
    def load(cls, path: str | os.PathLike) -> Executable:
        """Reads, verifies and loads an artifact file."""
        return cls(format.read(path))

    def prepare(self) -> None:
        """Makes what kernels read of the parameters (folded, merged, packed weights). Call it after changing parameters."""
        if "prepare" in self.programs:
            self.call("prepare", {})

    def __call__(self, /, **inputs: Any) -> dict[str, np.ndarray]:
        """Runs the program `run`: arrays by input name in, arrays by output name out."""
        return self.call("run", inputs)

    def call(self, program: str, feeds: Mapping[str, Any], begin: int = 0, end: int | None = None,
             results: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Runs kernels [begin, end) of a program (all by default). `results` may supply arrays to write into."""
        bound = self.bind(program, feeds, results)
        bound(begin, end)
        entry = self.programs[program]
        return {name: array.reshape(()) if array.shape == (1,) and not self._shape(entry, name) else array
                for name, array in bound.results.items()}

    def bind(self, program: str, feeds: Mapping[str, Any], results: Mapping[str, np.ndarray] | None = None) -> Bound:
        """A program with its arguments checked and in place, to be run many times."""
        entry = self.programs[program]
        sizes: dict[str, int] = {}
        arguments, out = [], {}
        for argument in entry["arguments"]:
            if argument["kind"] == "input":
                array = self._input(argument, feeds, sizes)
            else:
                shape = tuple(format.size(s, sizes) for s in argument["shape"]) or (1,)
                array = results[argument["name"]].reshape(shape) if results else aligned(shape, argument["dtype"])
                out[argument["name"]] = array
            arguments.append(array)
        unknown = set(feeds) - {a["name"] for a in entry["arguments"] if a["kind"] == "input"}
        if unknown:
            names = ", ".join(f"`{a['name']}`" for a in entry["arguments"] if a["kind"] == "input")
            raise NetcError("E0612", f"`{sorted(unknown)[0]}` is no input of {self.name}", f"its inputs are {names}")
        tensors = [tvm_ffi.from_dlpack(array) for array in arguments]
        arena = self._arena(program, format.size(entry["arena"], sizes))
        return Bound(self._function(entry["symbol"]), [*tensors, self._parameters, arena], len(entry["kernels"]), out,
                     sizes, self._lock)

    def _function(self, symbol: str) -> Any:
        """A function of the module, looked up once: the linker takes a millisecond for each look."""
        if symbol not in self._functions:
            self._functions[symbol] = self._module[symbol]
        return self._functions[symbol]

    @staticmethod
    def _shape(entry: Mapping[str, Any], name: str) -> list:
        return next(a["shape"] for a in entry["arguments"] if a["kind"] == "output" and a["name"] == name)

    def _input(self, argument: Mapping[str, Any], feeds: Mapping[str, Any], sizes: dict[str, int]) -> np.ndarray:
        name = argument["name"]
        if name not in feeds:
            raise NetcError("E0611", f"the input `{name}` of {self.name} is missing", f"give {name}=…")
        array = _converted(name, _array(name, feeds[name]), np.dtype(argument["dtype"]))
        shape = argument["shape"]
        fits = array.ndim == len(shape)
        for size, given in zip(shape, array.shape):
            if isinstance(size, str):
                fits = fits and sizes.setdefault(size, given) == given
        fits = fits and all(format.size(s, sizes) == g for s, g in zip(shape, array.shape))
        if not fits:
            text = ", ".join(map(str, shape))
            raise NetcError("E0614", f"the input `{name}` has shape {list(array.shape)}, the net needs [{text}]",
                            "sizes named by a letter may be any number, the same wherever the letter stands")
        if not array.size:
            raise NetcError("E0614", f"the input `{name}` is empty: its shape is {list(array.shape)}",
                            "give at least one example")
        if not array.shape:
            array = array.reshape(1)
        if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous or not array.flags.writeable:
            copy = aligned(array.shape, array.dtype)
            copy[...] = array
            array = copy
        return array

    def _arena(self, program: str, bytes: int) -> Any:
        size, tensor = self._arenas.get(program, (-1, None))
        if size != bytes:
            tensor = tvm_ffi.from_dlpack(aligned((max(bytes, 1),)))
            self._arenas[program] = (bytes, tensor)
        return tensor


@dataclass(frozen=True)
class Bound:
    """A program with its tensors: calling it runs kernels [begin, end)."""

    function: Any
    tensors: list[Any]
    kernels: int
    results: dict[str, np.ndarray]
    sizes: dict[str, int]
    lock: threading.Lock  # calls of an executable share its arena

    def __call__(self, begin: int = 0, end: int | None = None) -> None:
        with self.lock:
            self.function(*self.tensors, begin, self.kernels if end is None else end)

    def view(self, result: Mapping[str, Any]) -> np.ndarray | None:
        """What a kernel wrote, by an entry of its `results` in the manifest; None for what is neither arena nor result."""
        if result["in"] == "output":
            whole = self.results[result["name"]]
        elif result["in"] == "arena":
            shape = [format.size(s, self.sizes) for s in result["shape"]]
            start = format.size(result["offset"], self.sizes)
            raw = np.from_dlpack(self.tensors[-1])[start:start + math.prod(shape) * np.dtype(result["dtype"]).itemsize]
            whole = raw.view(result["dtype"]).reshape(shape)
        else:
            return None
        part = result.get("part", ())
        return whole[tuple(slice(format.size(a, self.sizes), format.size(b, self.sizes)) for a, b in part)]



def _array(name: str, value: Any) -> np.ndarray:
    """A value as an array: without a copy where it is one, on the CPU, of numpy or by DLPack."""
    try:
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray) \
            else np.asarray(value)
    except (ValueError, BufferError, RuntimeError) as problem:
        raise NetcError("E0613", f"the input `{name}` is no array of numbers in the memory of the CPU: {problem}",
                        "give a numpy array, nested lists of numbers, or a tensor on the CPU") from problem


def _converted(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    """The array in the element type the net needs: any numbers as floats, whole numbers as others that can hold them."""
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in ("fiub" if wanted.kind == "f" else "iub"):
        raise NetcError("E0613", f"the input `{name}` is {array.dtype}, the net needs {wanted}", f"convert it to {wanted}")
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise NetcError("E0613", f"the input `{name}` holds {extreme}, which {wanted} cannot",
                                f"{wanted} runs from {limits.min} to {limits.max}")
    return array.astype(wanted)


_RUNTIME: ctypes.CDLL | None = None


def _load(artifact: format.Artifact) -> Any:
    """The functions of an artifact's host object, by symbol."""
    global _RUNTIME
    _check_machine(artifact.manifest["target"], artifact.path or artifact.manifest["net"])
    import tvm_ffi_orcjit
    if _RUNTIME is None:
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        spec = importlib.util.find_spec("tvm")
        if spec is None or not spec.origin:
            raise NetcError("E0606", "the TVM runtime library is not installed", "pip install apache-tvm")
        library = Path(spec.origin).parent / "lib" / "libtvm_runtime.so"
        _RUNTIME = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    # Kernels are plain C: naming no C++ compiler spares the process that would be started to find its runtime library.
    host = tvm_ffi_orcjit.default_session().load_module(artifact.members["host.o"], cxx=os.devnull)
    if "kernels.json" not in artifact.members:
        return host
    from runtime.cuda import Gpu
    return Gpu(host, artifact.members, artifact.manifest["programs"])


def _check_machine(target: Mapping[str, Any], name: str) -> None:
    """Raises NetcError E0609 for code of another processor, which would crash."""
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    machine = target.get("machine", "x86_64")
    if machine != here:
        raise NetcError("E0609", f"{name} holds {machine} code for {target['name']}; this machine is {here}",
                        "compile it for this machine (--target cpu), or run it where it belongs")
    needed = target.get("features")
    if not needed or not os.path.exists("/proc/cpuinfo"):
        return
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
        flags = next((line.partition(":")[2].split() for line in stream if line.startswith("flags")), needed)
    missing = sorted(set(needed) - set(flags))
    if missing:
        raise NetcError("E0609", f"{name} is compiled for {target['name']} and needs {', '.join(missing)}, which this "
                        "machine's CPU lacks", "compile it for this machine (--target cpu), or for cpu:generic")


def use_threads(count: int | None) -> None:
    """How many CPU threads kernels use; NETC_NUM_THREADS, or all cores, when None. Call before the first artifact loads."""
    chosen = count or os.environ.get("NETC_NUM_THREADS")
    if chosen:
        os.environ["TVM_NUM_THREADS"] = str(chosen)
