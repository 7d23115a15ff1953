"""The Python face: loading, compiling and training nets. Heavy rooms are imported where they are needed."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import NetcError

if TYPE_CHECKING:

    from compiler.c_entry import Deployed
    from compiler.elaborate import Program
    from compiler.ir import Graph
    from runtime.execute import Executable
    from runtime.format import Artifact


@dataclass(frozen=True)
class Net:
    """One net of a `.net` file, checked and elaborated."""

    program: Program
    path: str

    @property
    def graph(self) -> Graph:
        """The source graph; `graph.nx` is the networkx graph."""
        return self.program.graph

    @property
    def train_config(self) -> dict[str, Any] | None:
        """The resolved train section."""
        return self.program.train.to_json() if self.program.train else None

    @property
    def data_config(self) -> dict[str, Any] | None:
        """The resolved data section."""
        return self.program.data

    @cached_property
    def fields(self) -> list[dict[str, Any]]:
        """Inputs and labels as the manifest lists them."""
        from compiler.artifact import input_entries
        return input_entries(self.graph)

    def build(self, mode: str = "run", target: str = "cpu", params: Any = None, seed: int = 0, batch: int | Sequence[int] = 1,
              **how: Any) -> Artifact:
        """The artifact in memory, taken from the cache where it was built before. mode: run, evaluate (and run), or train (all
        programs). batch: what kernels are made for (any batch runs), or several, each of which gets a variant of `run` of its
        own on CPUs, chosen by the batch of a call. target: as `netc compile --target` takes it; GPUs bring the code of this CPU. how: off, passes of the
        optimizer to leave out; memory, bytes that intermediate tensors may take at the design batch (NetcError E0414 where
        that is too little); exact, True for no algorithm that rounds otherwise than a direct sum; search, seconds to look
        for an order of rewrites in; precision, f32, bf16, f16 or tf32 (docs/passes/choose_precision.md); variants, up to 3
        ways to make a GPU's kernel, for `netc tune`."""
        from compiler.target import halves
        from netc import kept
        return kept.build(self.program, halves(target), choices(mode, batch, **how), params, seed)

    def emit_c(self, folder: str | os.PathLike, target: str = "cpu", params: Any = None, seed: int = 0,
               batch: int | Sequence[int] = 1, **how: Any) -> Deployed:
        """Writes a header, a shared library and a file of weights that need neither Python nor TVM (docs/c.md).

        Raises NetcError E0730 and E0731 (C compiler), E0732 (a GPU as target), E0609 (a CPU of another kind).
        """
        from compiler import c_entry
        from runtime.execute import Executable
        if "cuda" in target:
            raise NetcError("E0732", f"a C library holds code for a CPU, not for `{target}`",
                            "leave --target away, or write e.g. --target cpu:x86-64-v3")
        c_entry.compiler()  # asked for before anything takes long
        artifact = self.build("run", target, params, seed, batch, **how)
        parameters = Executable(artifact).parameters.block
        return c_entry.write(folder, artifact, parameters.read(0, artifact.manifest["parameter_bytes"]))

    def compile(self, mode: str = "run", target: str | None = None, params: Any = None, seed: int = 0,
                batch: int | Sequence[int] = 1, device: str | None = None, **how: Any) -> Executable:
        """Compiles and loads. target: cpu by default, or what `device` needs (cpu, cuda, cuda-emulator, or auto: a GPU if there
        is one). params: a .safetensors file or arrays by path; without, a seeded initialization. how: see `build`.

        Raises NetcError E0703 for an unknown device, E0720 where there is no GPU."""
        from netc import kept
        from runtime.execute import Executable
        target = target or target_of(device or "cpu")
        built = kept.build(self.program, [target], choices(mode, batch, **how), params, seed)
        return Executable(built, device or "auto")


def load(path: str | os.PathLike, *, settings: Mapping[str, Any] | None = None, net: str | None = None,
         train: str | None = None, data: str | None = None) -> Net:
    """Reads and checks a `.net` file. settings: values for the net's parameters.

    Raises `dsl.diagnostics.DiagnosticError` with every error of the text.
    """
    from compiler.elaborate import load as elaborate
    texts = {key: value if isinstance(value, str) else repr(value).lower() if isinstance(value, bool) else repr(value)
             for key, value in (settings or {}).items()}
    return Net(elaborate(Path(path), settings=texts, net=net, train=train, data=data), os.fspath(path))


def load_artifact(path: str | os.PathLike, device: str = "auto") -> Executable:
    """Loads a compiled `.netb`. device: cpu, cuda, cuda-emulator, or auto: a GPU if there is one and code for it."""
    from runtime.execute import Executable
    return Executable.load(path, device)


def target_of(device: str) -> str:
    """What to compile for, to run here at once on a device; auto is the GPU where there is one, and all that its code takes.

    Raises NetcError E0703 (no such device), E0720 (no GPU)."""
    from runtime import cuda, devices
    if device not in devices.NAMES:
        raise NetcError("E0703", f"there is no device `{device}`", f"known are {', '.join(devices.NAMES)}")
    if device == devices.CUDA or device == devices.AUTO and _can_use_gpu():
        return f"cuda:{cuda.gpu_arch([])}"
    return devices.CPU if device == devices.AUTO else device


def _can_use_gpu() -> bool:
    """Whether there is a GPU, and CUDA's compiler and libraries to make and run code for it."""
    from runtime import cuda
    if not cuda.present():
        return False
    from compiler.cuda import find_compiler
    try:
        find_compiler()
        cuda.load_runtime()
    except NetcError:
        return False
    return True


def train(path: str | os.PathLike, *, out: str | os.PathLike | None = None, resume: bool = False, device: str = "cpu",
          **choices: Any):
    """Compiles for training and trains; returns the result of `runtime.train.train`. device: as `Net.compile` takes it. See
    `load` for `choices`."""
    from runtime.train import train as run
    net = load(path, **choices)
    exe = net.compile("train", device=device, seed=(net.train_config or {}).get("seed", 0))
    return run(exe, net.train_config, net.data_config, Path(out or f"runs/{net.program.net}"), resume=resume)


def choices(mode: str, batch: int | Sequence[int] = 1, off: Collection[str] = (), memory: int | None = None, exact: bool = False,
            search: float = 0.0, precision: str = "f32", variants: int = 1, fast_math: bool = False,
            batches: Sequence[int] = ()) -> dict[str, Any]:
    """What `compiler.artifact.code` takes beside program and target."""
    names = {"run": ["run"], "evaluate": ["run", "evaluate"], "train": ["run", "evaluate", "step"]}[mode]
    if not isinstance(batch, int):
        batch, batches = 1, batch
    if not all(isinstance(one, int) and one > 0 for one in batches):
        raise NetcError("E0417", f"{list(batches)} is no list of batches", "give whole numbers from 1 on: batch=(1, 16)")
    return {"names": names, "batch": batch, "batches": sorted(set(batches)), "off": sorted(off), "memory": memory, "exact": exact, "search": search,
            "precision": precision, "variants": variants, "fast_math": fast_math}
