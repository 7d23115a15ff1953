"""Running an artifact: its object file in the JIT, one flat parameter buffer, one arena for each program.

Imports numpy and no other library: no compiler, and nothing of TVM's Python packages.
"""

from __future__ import annotations

import math
import os
import platform
import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime import devices, format, native, threads, tiles
from runtime.arrays import ALIGNMENT, Block, address, aligned
from runtime.errors import NetcError
from runtime.stored import Stored


HOST_DEVICES = (1, 3, 11, 13)  # DLDeviceType of memory that a CPU reads: its own, pinned (CUDA, ROCm), managed


class Parameters:
    """All weights, statistics and optimizer state of an artifact in one flat aligned block of memory, by path.

    `self[path] = value` writes. `self[path]` reads: the memory itself on the CPU, where it may be written into as well,
    a read-only copy from a GPU.
    """

    def __init__(self, manifest: Mapping[str, Any], block: Block | None = None):
        self.table = {entry["path"]: entry for entry in manifest["parameters"]}
        self.block = block or Block(manifest["parameter_bytes"])
        self._left: dict[str, Stored] = {}  # what memory does not hold now, and where it is

    def leave(self, paths: Iterable[str], stored: Stored) -> None:
        """Gives the memory of some back, until one of them is asked for. stored: where they are."""
        for path in paths:
            entry = self.table[path]
            self.block.release(entry["offset"], entry["bytes"])
            self._left[path] = stored

    def fetch(self) -> None:
        """Has all in memory that was left. Raises NetcError E0603."""
        left, self._left = self._left, {}
        for stored in {id(stored): stored for stored in left.values()}.values():
            stored.verify()
        for path, stored in left.items():
            self[path] = stored[path]

    def __getitem__(self, path: str) -> np.ndarray:
        if path in self._left:
            self.fetch()
        entry = self.table[path]
        return self.block.read(entry["offset"], entry["bytes"]).view(entry["dtype"]).reshape(entry["shape"])

    def __setitem__(self, path: str, value: Any) -> None:
        if path in self._left:
            self.fetch()
        entry = self.table[path]
        array = np.ascontiguousarray(np.broadcast_to(np.asarray(value, entry["dtype"]), entry["shape"]))
        self.block.write(entry["offset"], array.reshape(-1).view(np.uint8))

    def __contains__(self, path: str) -> bool:
        return path in self.table

    def paths(self, *kinds: str) -> list[str]:
        """Paths of the given kinds (all without any), in the order of the buffer."""
        return [path for path, entry in self.table.items() if not kinds or entry["kind"] in kinds]

    def tensors(self, *kinds: str) -> dict[str, np.ndarray]:
        return {path: self[path] for path in self.paths(*kinds)}

    def assign(self, tensors: Mapping[str, np.ndarray], where: str, kinds: tuple[str, ...] = ("weight", "state")) -> None:
        """Takes values by path. Raises NetcError E0610 when one is missing, unknown, or of another shape."""
        for path in self.fitting({path: value.shape for path, value in tensors.items()}, where, kinds):
            self[path] = tensors[path]

    def fitting(self, tensors: Mapping[str, Sequence[int]], where: str, kinds: tuple[str, ...] = ("weight", "state")) -> list[str]:
        """The paths of some kinds, each of which has the right shape in `tensors`. Raises NetcError E0610."""
        wanted = self.paths(*kinds)
        missing = [p for p in wanted if p not in tensors]
        unknown = [p for p in tensors if p not in self.table]
        if missing or unknown:
            what = (f"lacks `{missing[0]}`" if missing else f"has `{unknown[0]}`, which the net does not")
            more = len(missing or unknown) - 1
            raise NetcError("E0610", f"{where} does not fit this net: it {what}" + (f" (and {more} more)" if more else ""),
                            "give the parameters of the same net, with the same settings")
        for path in wanted:
            shape = list(tensors[path])
            if shape != list(self.table[path]["shape"]):
                raise NetcError("E0610", f"{where} does not fit this net: `{path}` has shape {shape}, the net "
                                f"needs {list(self.table[path]['shape'])}", "give the parameters of the same net")
        return wanted


class Executable:
    """A loaded artifact: `exe(image=array)` runs the deployed net, `call` any of its programs.

    Threads may share one; their calls run one after the other.
    """

    def __init__(self, artifact: format.Artifact, device: str = "auto"):
        """device: auto (a GPU if there is one), cpu, cuda, or cuda-emulator, which runs CUDA kernels on the CPU.

        Raises NetcError E0703, E0744, E0745 for a device that the artifact is not for, E0609 for another CPU, and what
        `runtime.cuda.load` raises."""
        self.device = devices.choose(artifact, device)
        self.artifact = artifact = format.half(artifact, "cpu" if self.device == "cpu" else "cuda")
        self.manifest = artifact.manifest
        self.programs = self.manifest["programs"]
        self.name = artifact.path or self.manifest["net"]
        _check_machine(self.manifest["target"], self.name)
        os.environ["TVM_NUM_THREADS"] = str(threads.count())
        code = artifact.members["host.o"]
        self._module = native.link(code, threads.count() == 1) if self.device == "cpu" else native.load(code)
        self._memory = devices.memory(artifact, self._module, self.device)
        self.parameters = Parameters(self.manifest, self._memory.block(self.manifest["parameter_bytes"]))
        self._arguments = {name: [Argument.from_manifest(a) for a in entry["arguments"]]
                           for name, entry in self.programs.items()}
        self._plans: dict[str, Plan] = {}
        self._functions: dict[str, native.Object | native.Function] = {}
        self._lock = threading.Lock()
        self._spreads = (self._memory.device == Host.device and native.LAUNCH in code
                         and threads.count() > 1)
        if format.WEIGHTS in artifact.members:
            self._load(Stored(artifact.members, format.WEIGHTS, self.name), Stored(artifact.members, format.CONSTANTS, self.name))

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "auto") -> Executable:
        """Reads, verifies and loads an artifact file."""
        return cls(format.read(path, held=False), device)

    @property
    def place(self) -> str:
        """The name of what runs it: the GPU's, or that of the device."""
        return self._memory.name

    def choose(self, program: str, rank: int) -> None:
        """From now on runs variant `rank` of each of the program's kernels, the last for those that have fewer."""
        for kernel in self.programs[program]["kernels"]:
            if "variants" in kernel:
                kernel["function"] = kernel["variants"][min(rank, len(kernel["variants"]) - 1)]
        self._plans.pop(program, None)

    def _load(self, weights: Stored, constants: Stored) -> None:
        """Takes the stored parameters and prepares them. On the CPU what only preparing reads is in memory while it is read."""
        parameters = self.parameters
        shapes = {path: shape for path, shape in weights.shapes.items() if path in parameters}  # of a fat artifact, what is ours
        found = dict.fromkeys(parameters.fitting(shapes, self.name), weights)
        found |= dict.fromkeys(parameters.fitting(constants.shapes, self.name, ("constant",)), constants)
        steps = self.programs["prepare"]["kernels"] if "prepare" in self.programs else []
        kept = max((entry["parameter_bytes"] for name, entry in self.programs.items() if name != "prepare"), default=0)
        passing = {path for path in found if parameters.table[path]["offset"] >= kept} if self.device == "cpu" else set()
        passing &= {path for step in steps for path in step.get("reads", ())}
        for path in found:
            if path not in passing:
                parameters[path] = found[path][path]
        if not passing:
            self.prepare()
            return
        bound, pace = self.bind("prepare", {}), threads.Pace() if self._spreads else None
        last = {path: number for number, step in enumerate(steps) for path in step.get("reads", ())}
        here: set[str] = set()
        for number, step in enumerate(steps):
            for path in passing.intersection(step["reads"]) - here:
                parameters[path] = found[path][path]
                here.add(path)
            if pace is None:
                bound(number, number + 1)
            else:
                pace.run(lambda: bound(number, number + 1))
            for path in passing.intersection(step["reads"]):
                if last[path] == number:
                    parameters.leave([path], found[path])

    def prepare(self) -> None:
        """Makes what kernels read of the parameters (folded, merged, packed weights). Call it after changing parameters."""
        if "prepare" in self.programs:
            self.parameters.fetch()
            self.call("prepare", {})

    def __call__(self, /, **inputs: Any) -> dict[str, Any]:
        """Runs the program `run`: arrays by input name in, arrays by output name out. See `call`."""
        return self.call("run", inputs)

    def call(self, program: str, feeds: Mapping[str, Any], begin: int = 0, end: int | None = None,
             results: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        """Runs kernels [begin, end) of a program (all by default) and returns its results, which are complete then.

        feeds: arrays by input name: of numpy, nested lists, or anything with `__dlpack__`; contiguous arrays on a
        64-byte boundary are read in place. results: arrays to write into. For a CUDA artifact inputs may lie on its
        GPU, and if one does, the results do: they are `runtime.device.DeviceArray`, which speak DLPack.

        Raises NetcError E0611 to E0614, E0616 for what does not fit, E0650 for what TVM refuses.
        """
        bound = self.bind(program, feeds, results)
        bound(begin, end)
        return bound.results

    def local(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Inputs as arrays where the artifact runs, for calls that shall not copy them."""
        return self._memory.local(feeds)

    def bind(self, program: str, feeds: Mapping[str, Any], results: Mapping[str, np.ndarray] | None = None) -> Bound:
        """A program with its arguments checked and in place, to be run many times."""
        arguments = self._arguments[program]
        given = {a.name: self._take(a, feeds) for a in arguments if a.is_input}
        if len(feeds) > len(given):
            names = ", ".join(f"`{name}`" for name in given)
            raise NetcError("E0612", f"`{sorted(set(feeds) - set(given))[0]}` is no input of {self.name}",
                            f"its inputs are {names}")
        shapes = [array.shape for array in given.values()]
        try:
            plan = self._plans.get(program)
            if plan is None or plan.given != shapes:
                self._plans.pop(program, None)  # what another batch took is free before this one takes its own
                plan = self._plans[program] = self._plan(program, shapes)
            outputs = {}
            for argument, shape in zip(arguments, plan.shapes):
                if not argument.is_input:
                    outputs[argument.name] = self._memory.empty(shape, argument.dtype, given.values()) if results is None \
                        else _result(argument, shape, results)
            arrays = [(given if a.is_input else outputs)[a.name] for a in arguments]
            return self._memory.bound(plan, arrays, outputs, self._lock)
        except NetcError as problem:
            if problem.code != "E0723":
                raise
            hint = problem.hint  # the error itself would keep what it has of the GPU's memory
        self._plans.pop(program, None)
        raise self._too_large(program, shapes, hint)

    def _take(self, argument: Argument, feeds: Mapping[str, Any]) -> Any:
        if argument.name not in feeds:
            raise NetcError("E0611", f"the input `{argument.name}` of {self.name} is missing", f"give {argument.name}=…")
        return self._memory.take(argument, feeds[argument.name])

    def _plan(self, program: str, given: Sequence[tuple[int, ...]]) -> Plan:
        """The program for inputs of these shapes. Raises NetcError E0614."""
        entry, arguments = self.programs[program], self._arguments[program]
        sizes: dict[str, int] = {}
        for argument, shape in zip((a for a in arguments if a.is_input), given):
            argument.fit(shape, sizes)
        shapes = [tuple(format.size(s, sizes) for s in a.shape) for a in arguments]
        entry = self.programs[format.variant(entry, sizes) or program]
        arena = self._memory.block(format.size(entry["arena"], sizes))
        device = self._memory.device
        tensors = [native.tensor(0, shape or (1,), a.dtype, device) for shape, a in zip(shapes, arguments)]
        for block in (self.parameters.block, arena):
            tensors.append(native.tensor(block.address, (block.bytes,), np.dtype(np.uint8), device))
        return Plan(list(given), sizes, shapes, native.Call(self._function(entry["symbol"]), tensors,
                                                                        format.choice_words(entry)),
                    len(entry["kernels"]), arena, entry, {} if self._spreads else None)

    def _too_large(self, program: str, given: Sequence[tuple[int, ...]], hint: str | None) -> NetcError:
        """What a call that the GPU has no room for would take, and for how many examples there is room."""
        entry, arguments = self.programs[program], self._arguments[program]
        sizes: dict[str, int] = {}
        for argument, shape in zip((a for a in arguments if a.is_input), given):
            argument.fit(shape, sizes)

        def bytes(sizes: dict[str, int]) -> int:
            return format.size(entry["arena"], sizes) + sum(
                math.prod(format.size(s, sizes) for s in a.shape) * a.dtype.itemsize for a in arguments)

        free, batch = self._memory.room(), entry["symbols"][0] if entry["symbols"] else None
        what = f"`{program}` of {self.name} needs {bytes(sizes):,} bytes on the GPU"
        if batch is None:
            return NetcError("E0723", f"{what}, {free:,} are free", hint)
        fits = bisect_right(range(1, sizes[batch] + 1), free, key=lambda n: bytes({**sizes, batch: n}))
        hint = f"use a batch of {fits} at most" if fits else "not even one example fits: end other programs on this GPU"
        return NetcError("E0723", f"{what} for {batch} = {sizes[batch]}, {free:,} are free", f"{hint}, or --device cpu")

    def _function(self, symbol: str) -> native.Object | native.Function:
        """A function of the module, looked up once: the linker takes a millisecond for each look."""
        if symbol not in self._functions:
            self._functions[symbol] = native.member(self._module, symbol)
        return self._functions[symbol]


@dataclass(frozen=True)
class Argument:
    """An input or output of a program, as the manifest has it."""

    name: str
    is_input: bool
    dtype: np.dtype
    shape: Sequence[Any]

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any]) -> Argument:
        return cls(entry["name"], entry["kind"] == "input", np.dtype(entry["dtype"]), entry["shape"])

    def fit(self, given: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Checks the shape of an input, which may give symbols their `sizes`. Raises NetcError E0614."""
        fits = len(given) == len(self.shape)
        for size, number in zip(self.shape, given):
            if isinstance(size, str):
                fits = fits and sizes.setdefault(size, number) == number
        if not fits or any(format.size(s, sizes) != number for s, number in zip(self.shape, given)):
            raise NetcError("E0614", f"the input `{self.name}` has shape {list(given)}, the net needs "
                            f"[{', '.join(map(str, self.shape))}]",
                            "sizes named by a letter may be any number, the same wherever the letter stands")
        if not math.prod(given):
            raise NetcError("E0614", f"the input `{self.name}` is empty: its shape is {list(given)}",
                            "give at least one example")


@dataclass(frozen=True, eq=False)
class Plan:
    """A program for inputs of given shapes. shapes: of all arguments in order; call: takes their addresses; paces: how many
    threads each range of kernels uses, None where none can use more than one."""

    given: list[tuple[int, ...]]
    sizes: dict[str, int]
    shapes: list[tuple[int, ...]]
    call: native.Call
    kernels: int
    arena: Any  # arrays.Block, or device.DeviceBlock
    entry: Mapping[str, Any]  # of the program, in the manifest
    paces: dict[tuple[int, int], threads.Pace] | None = None


@dataclass(frozen=True)
class Bound:
    """A program with its arguments: calling it runs kernels [begin, end). `kept` is the memory the addresses lead to."""

    plan: Plan
    addresses: list[int]
    results: dict[str, Any]
    kept: Sequence[Any]
    lock: threading.Lock  # calls of an executable share its arena

    def __call__(self, begin: int = 0, end: int | None = None) -> None:
        plan, end = self.plan, self.plan.kernels if end is None else end
        with self.lock:
            if plan.paces is None or end - begin < 2:  # one kernel is called to look at it, and runs as the last call did
                plan.call(self.addresses, begin, end)
                return
            pace = plan.paces.get((begin, end)) or plan.paces.setdefault((begin, end), threads.Pace())
            pace.run(lambda: plan.call(self.addresses, begin, end))

    def view(self, result: Mapping[str, Any]) -> np.ndarray | None:
        """What a kernel wrote, by an entry of its `results` in the manifest; None for what is neither arena nor result."""
        sizes = self.plan.sizes
        if result["in"] == "output":
            whole = self.results[result["name"]]
            whole = whole if isinstance(whole, np.ndarray) else whole.numpy()
        elif result["in"] == "arena":
            shape = [format.size(s, sizes) for s in result["shape"]]
            count = math.prod(shape) * np.dtype(result["dtype"]).itemsize
            whole = self.plan.arena.read(format.size(result["offset"], sizes), count).view(result["dtype"]).reshape(shape)
        else:
            return None
        part = result.get("part", ())
        return whole[tuple(slice(format.size(a, sizes), format.size(b, sizes)) for a, b in part)]


class Host:
    """Where a CPU artifact's tensors lie: arrays of the caller and of numpy. `runtime.device.Gpu` is the other place."""

    name = "cpu"
    device = (native.CPU, 0)
    alignment = ALIGNMENT  # of the arrays that calls read on the host

    def block(self, bytes: int) -> Block:
        return Block(bytes)

    def take(self, argument: Argument, value: Any) -> np.ndarray:
        """An input as an array that kernels can read, itself where possible. Raises NetcError E0613, E0616."""
        array = value if type(value) is np.ndarray else as_array(argument.name, value)
        if array.dtype != argument.dtype:
            array = _converted(argument.name, array, argument.dtype)
        if not array.flags.c_contiguous or address(array) % self.alignment:
            copy = aligned(array.shape, array.dtype)
            copy[...] = array
            array = copy
        return array

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, inputs: Iterable[np.ndarray]) -> np.ndarray:
        """Room for a result."""
        return aligned(shape, dtype)

    def bound(self, plan: Plan, arrays: Sequence[np.ndarray], results: dict[str, np.ndarray], lock: threading.Lock) -> Bound:
        return Bound(plan, [address(array) for array in arrays], results, arrays, lock)

    def local(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        return feeds


def _result(argument: Argument, shape: tuple[int, ...], results: Mapping[str, np.ndarray]) -> np.ndarray:
    """The caller's array for a result. Raises NetcError E0616."""
    array = results[argument.name]
    if array.shape != shape or array.dtype != argument.dtype or not array.flags.c_contiguous or not array.flags.writeable \
            or address(array) % ALIGNMENT:
        raise NetcError("E0616", f"the array given for the result `{argument.name}` cannot take it",
                        f"give runtime.arrays.aligned({shape}, {argument.dtype.name!r})")
    return array


def as_array(name: str, value: Any) -> np.ndarray:
    """A value as an array: without a copy where it is one, on the CPU, of numpy or by DLPack. Raises NetcError E0613, E0616."""
    if hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] not in HOST_DEVICES:
        kind, index = value.__dlpack_device__()
        raise NetcError("E0616", f"the input `{name}` lies on {'GPU' if kind == native.CUDA else 'device'} {index}, "
                        "this artifact runs elsewhere", "give a tensor that lies where the artifact runs, or a numpy array")
    try:
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray) \
            else np.asarray(value)
    except (ValueError, BufferError, RuntimeError) as problem:
        raise NetcError("E0613", f"the input `{name}` is no array of numbers: {problem}",
                        "give a numpy array, nested lists of numbers, or a tensor") from problem


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
    if "amx_tile" in needed and not tiles.granted():
        raise NetcError("E0609", f"{name} is compiled for {target['name']} and needs tile registers (AMX), which the system "
                        "here does not let programs use", "compile it for cpu:cooperlake, or with --precision f32 for cpu:x86-64-v4")


def use_threads(count: int | None) -> None:
    """How many CPU threads kernels may use; when None, what `runtime.threads.count` says. Call before the first artifact loads."""
    if count:
        os.environ["NETC_NUM_THREADS"] = str(count)
