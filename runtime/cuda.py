"""Loading CUDA programs: is there an NVIDIA GPU, which machine code fits it, and how the host code finds its kernels.

The driver (host code) looks kernels up among the modules it imports; TVM's CUDA runtime makes such a module from a
stream of format name, launch metadata and code (`cuda_module.cc` in TVM), and launches on the current stream.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
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
    """One GPU with a loaded artifact. Host arrays stay the truth: a call mirrors them on the GPU and back."""

    def __init__(self, host: tvm_ffi.Module, binaries: Mapping[str, bytes], functions: Mapping[str, Any], index: int = 0):
        """See `load`."""
        load(host, binaries, functions, index)
        self._host, self._index = host, index
        self._device = tvm_ffi.device("cuda", index)
        self._memory: dict[Any, Any] = {}
        self._allocate, self._copy, self._wait = (tvm_ffi.get_global_func(f"runtime.{name}") for name in (
            "TVMTensorAllocWithScope", "TVMTensorCopyFromTo", "Device_StreamSync"))

    def call(self, symbol: str, arrays: Sequence[np.ndarray], written: Sequence[int], arena_bytes: int, *numbers: int) -> None:
        """Run the driver `symbol` on `arrays` (its tensors up to the parameters, C-contiguous), an arena and `numbers`.

        written: positions of the arrays that are copied back. The arena keeps its contents between calls of equal size,
        as on the CPU. Raises NetcError E0723 when the GPU's memory does not suffice.
        """
        tensors = [self._tensor((symbol, i), array.shape, str(array.dtype)) for i, array in enumerate(arrays)]
        arena = self._tensor((symbol, "arena"), (max(arena_bytes, 1),), "uint8")
        for array, tensor in zip(arrays, tensors):
            self._copy(tvm_ffi.from_dlpack(array), tensor)
        self._host[symbol](*tensors, arena, *numbers)
        for i in written:
            self._copy(tensors[i], tvm_ffi.from_dlpack(arrays[i]))
        self._wait(self._device, 0)

    def _tensor(self, key: Any, shape: Sequence[int], dtype: str) -> Any:
        """GPU memory that is kept under `key` until another shape is asked for."""
        kept = self._memory.get(key)
        if kept is not None and tuple(kept.shape) == tuple(shape) and str(kept.dtype) == dtype:
            return kept
        self._memory.pop(key, None)
        try:
            tensor = self._allocate(tvm_ffi.Shape(shape), tvm_ffi.dtype(dtype), self._device, None)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            raise NetcError("E0723", f"the GPU has no room for {prod(shape) * np.dtype(dtype).itemsize:,} more bytes",
                            "use a smaller batch, or end other programs on this GPU") from None
        self._memory[key] = tensor
        return tensor


def _version(arch: str) -> tuple[int, int]:
    number = int(arch.removeprefix("sm_"))
    return divmod(number, 10)
