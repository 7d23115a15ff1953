"""Loading CUDA programs: is there an NVIDIA GPU, which machine code fits it, and how the host code finds its kernels.

The driver (host code) looks kernels up among the modules it imports; TVM's CUDA runtime makes such a module from a
stream of format name, launch metadata and code (`cuda_module.cc` in TVM), and launches on the current stream.
"""

from __future__ import annotations

import ctypes
import json
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from math import prod
from pathlib import Path
from typing import Any

import tvm_ffi

from runtime.errors import NetcError

# DLPack's type codes by the words of CudaModule.functions; a handle is an opaque pointer.
_TYPE_CODES = {"int": 0, "uint": 1, "float": 2, "handle": 3}


def gpu_arch(held: Sequence[str], index: int = 0) -> str:
    """The architecture of GPU `index`, e.g. "sm_90".

    Raises NetcError E0720, one line that names the architectures the artifact holds, where there is no such GPU.
    """
    def absent(reason: str) -> NetcError:
        return NetcError("E0720", f"this artifact holds CUDA code for {', '.join(held)}; this machine has {reason}",
                         "compile it for the CPU (--target cpu), or run it on a machine with an NVIDIA GPU")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise absent("no NVIDIA GPU (no driver: libcuda.so.1)") from None
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise absent("an NVIDIA driver but no GPU that it can use")
    if index >= count.value:
        raise absent(f"{count.value} NVIDIA GPU(s), so none with number {index}")
    device, parts = ctypes.c_int(), []
    driver.cuDeviceGet(ctypes.byref(device), index)
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        part = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
        parts.append(str(part.value))
    return "sm_" + "".join(parts)


def choose_binary(held: Sequence[str], gpu: str) -> str:
    """The architecture in `held` whose machine code runs best on `gpu`.

    Machine code runs on GPUs of its own major version with the same or a higher minor one (CUDA C Programming Guide,
    "Binary Compatibility"). Raises NetcError E0721 where none does.
    """
    major, minor = _version(gpu)
    fitting = [arch for arch in held if _version(arch)[0] == major and _version(arch)[1] <= minor]
    if not fitting:
        raise NetcError("E0721", f"this artifact holds CUDA code for {', '.join(held)}; this machine's GPU is {gpu}",
                        f"compile it with --target cuda:{gpu}")
    return max(fitting, key=_version)


def load(host: tvm_ffi.Module, binaries: Mapping[str, bytes], functions: Mapping[str, Mapping[str, Sequence[str]]],
         index: int = 0) -> None:
    """Make the kernels of an artifact known to its loaded host module; after this its functions can be called.

    binaries, functions: as in `compiler.cuda.CudaModule`. Raises NetcError E0720, E0721, E0722.
    """
    held = sorted(binaries, key=_version)
    arch = choose_binary(held, gpu_arch(held, index))
    load_runtime()
    create = tvm_ffi.get_global_func("ffi.Module.load_from_bytes.cuda")
    host.import_module(create(module_stream(binaries[arch], functions)))


def load_runtime() -> None:
    """Load TVM's CUDA runtime, once. Raises NetcError E0722 where the CUDA runtime library or TVM's is missing."""
    if tvm_ffi.get_global_func("ffi.Module.load_from_bytes.cuda", allow_missing=True) is not None:
        return
    try:
        ctypes.CDLL("libcudart.so.13", ctypes.RTLD_GLOBAL)
    except OSError:
        _load_from("nvidia/cu13/lib/libcudart.so.13", "the CUDA runtime library, libcudart.so.13,")
    _load_from("tvm/lib/libtvm_runtime_cuda.so", "TVM's CUDA runtime, libtvm_runtime_cuda.so,")


def _load_from(file: str, what: str) -> None:
    path = next((Path(root or ".", file) for root in sys.path if Path(root or ".", file).exists()), None)
    if path is None:
        raise NetcError("E0722", f"{what} is not installed", "pip install -e '.[cuda]' inside the clone")
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise NetcError("E0722", f"{what} cannot be loaded: {error}",
                        "pip install -e '.[cuda]' inside the clone; the NVIDIA driver must be for CUDA 13") from None


def module_stream(cubin: bytes, functions: Mapping[str, Mapping[str, Sequence[str]]]) -> bytes:
    """The bytes from which TVM's CUDA runtime makes a module: strings and arrays are a u64 count and their items."""
    def text(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data

    def dtype(word: str) -> bytes:
        kind, bits = re.fullmatch(r"([a-z]+)(\d*)", word).groups()
        return struct.pack("<BBH", _TYPE_CODES[kind], int(bits or 64), 1)

    def array(items: Sequence[bytes]) -> bytes:
        return struct.pack("<Q", len(items)) + b"".join(items)

    entries = [
        text(name.encode()) + text(name.encode()) + array([dtype(word) for word in function["args"]])
        + array([text(tag.encode()) for tag in function["launch"]])
        + array([struct.pack("<i", 0) for _ in function["args"]])  # ArgExtraTags::kNone
        for name, function in functions.items()
    ]
    return text(b"cubin") + array(entries) + text(cubin)


class Gpu:
    """The functions of a CUDA artifact by symbol, called as those of a CPU artifact are: with tensors in host memory.

    Host memory stays the truth: a call mirrors it on the GPU and copies back what the program writes. The arena is
    copied only for calls of a part of the kernels, whose results somebody wants to look at.
    """

    def __init__(self, host: tvm_ffi.Module, members: Mapping[str, bytes], programs: Mapping[str, Any], index: int = 0):
        """host: the loaded host.o. members, programs: of the artifact and its manifest. Raises as `load`."""
        binaries = {name.split(".")[1]: data for name, data in members.items() if name.endswith(".cubin")}
        load(host, binaries, json.loads(members["kernels.json"]), index)
        self._host = host
        self._programs = {entry["symbol"]: entry for entry in programs.values()}
        self._device = tvm_ffi.device("cuda", index)
        self._memory: dict[Any, Any] = {}
        self._allocate, self._copy, self._wait = (tvm_ffi.get_global_func(f"runtime.{name}") for name in (
            "TVMTensorAllocWithScope", "TVMTensorCopyFromTo", "Device_StreamSync"))

    def __getitem__(self, symbol: str) -> Callable[..., None]:
        """The driver `symbol`: its arguments, parameters, arena, begin, end. Raises NetcError E0723 when it runs out of
        GPU memory."""
        return partial(self._call, symbol)

    def _call(self, symbol: str, *arguments: Any) -> None:
        *mirrored, arena, begin, end = arguments
        program = self._programs[symbol]
        tensors = [self._mirror((symbol, i), tensor) for i, tensor in enumerate(mirrored)]
        work = self._mirror((symbol, "arena"), arena)
        whole = begin == 0 and end == len(program["kernels"])
        pairs = [*zip(mirrored, tensors), *([] if whole else [(arena, work)])]
        for ours, theirs in pairs:
            self._copy(ours, theirs)
        self._host[symbol](*tensors, work, begin, end)
        read_only = [a["kind"] == "input" for a in program["arguments"]]
        read_only.append(all(r["in"] != "parameter" for k in program["kernels"] for r in k["results"]))
        for (ours, theirs), keep in zip_longest(pairs, read_only):
            if not keep:
                self._copy(theirs, ours)
        self._wait(self._device, 0)

    def _mirror(self, key: Any, tensor: Any) -> Any:
        """Memory on the GPU for `tensor`, kept under `key` until another shape is asked for."""
        kept = self._memory.get(key)
        if kept is not None and kept.shape == tensor.shape:
            return kept
        self._memory.pop(key, None)
        try:
            kept = self._allocate(tensor.shape, tensor.dtype, self._device, None)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            bits = tensor.dtype.bits * prod(tensor.shape)
            raise NetcError("E0723", f"the GPU has no room for {bits // 8:,} more bytes",
                            "use a smaller batch, or end other programs on this GPU") from None
        self._memory[key] = kept
        return kept


def _version(arch: str) -> tuple[int, int]:
    number = int(arch.removeprefix("sm_"))
    return divmod(number, 10)
