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
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime import native
from runtime.errors import NetcError

CUDA = 13  # the major version of the runtime library that TVM's is built for
UPDATE = "update the driver (CUDA 13 needs 580 or later), or use the CPU (--device cpu)"
_CREATE = "ffi.Module.load_from_bytes.cuda"  # TVM's function that makes a module of a stream

# DLPack's type codes by the words of CudaModule.functions; a handle is an opaque pointer.
_TYPE_CODES = {"int": 0, "uint": 1, "float": 2, "handle": 3}


def present() -> bool:
    """Whether this machine has an NVIDIA GPU that its driver can use."""
    return isinstance(_driver(), tuple)


def gpu_arch(held: Sequence[str], index: int = 0) -> str:
    """The architecture of GPU `index`, e.g. "sm_90". held: what an artifact brings; nothing where none is compiled yet.

    Raises NetcError E0720, one line that names the architectures the artifact holds, where there is no such GPU.
    """
    found = _driver()
    if isinstance(found, str) or index >= found[1]:
        reason = found if isinstance(found, str) else f"{found[1]} NVIDIA GPU(s), so none with number {index}"
        wanted = f"this artifact holds CUDA code for {', '.join(held)}" if held else "a GPU is asked for"
        raise NetcError("E0720", f"{wanted}; this machine has {reason}",
                        "run it on a machine with an NVIDIA GPU, emulate one (--device cuda-emulator), or use the CPU "
                        "(--device cpu; code for it is compiled with --target cpu)")
    driver, (device, parts) = found[0], (ctypes.c_int(), [])
    driver.cuDeviceGet(ctypes.byref(device), index)
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        part = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
        parts.append(str(part.value))
    return "sm_" + "".join(parts)


def gpu_name(index: int = 0) -> str:
    """What NVIDIA calls GPU `index`, e.g. "NVIDIA H100 80GB HBM3"; nothing where there is none."""
    found, name, device = _driver(), ctypes.create_string_buffer(256), ctypes.c_int()
    if isinstance(found, tuple):
        found[0].cuDeviceGet(ctypes.byref(device), index)
        found[0].cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


def _driver() -> tuple[ctypes.CDLL, int] | str:
    """NVIDIA's driver and how many GPUs it has, or what is there instead."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA GPU (no driver: libcuda.so.1)"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "an NVIDIA driver but no GPU that it can use"
    return driver, count.value


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


def load(host: native.Object, members: Mapping[str, bytes], index: int = 0) -> ctypes.CDLL:
    """Make the kernels of an artifact known to its loaded host module, whose functions can be called after this.

    members: of the artifact. Returns CUDA's runtime library, with GPU `index` chosen. Raises NetcError E0720, E0721,
    E0722, E0724.
    """
    binaries = {name.split(".")[1]: data for name, data in members.items() if name.endswith(".cubin")}
    held = sorted(binaries, key=_version)
    gpu = gpu_arch(held, index)
    try:
        arch = choose_binary(held, gpu)
    except NetcError as error:
        if any(name.startswith("cpu/") for name in members):
            error.hint += ", or run the CPU code that it holds too (--device cpu)"
        raise
    runtime = load_runtime()
    if runtime.cudaSetDevice(index):
        raise NetcError("E0720", f"CUDA cannot use GPU {index} of this machine", "`nvidia-smi` says in which state it is")
    stream = module_stream(binaries[arch], json.loads(members["kernels.json"]))
    native.function("ffi.ModuleImportModule")(host, native.function(_CREATE)(stream))
    return runtime


def _check_driver() -> None:
    """Raises NetcError E0724 where the driver is of an older major version than the runtime library: it takes neither that
    nor code compiled by the same CUDA (CUDA Compatibility, "Minor Version Compatibility")."""
    found, version = _driver(), ctypes.c_int()
    if isinstance(found, tuple) and not found[0].cuDriverGetVersion(ctypes.byref(version)) and version.value < 1000 * CUDA:
        raise NetcError("E0724", f"the NVIDIA driver is too old: it is for CUDA {version.value // 1000}."
                        f"{version.value % 1000 // 10}, this needs CUDA {CUDA}", UPDATE)


def explained(error: NetcError) -> NetcError:
    """An error of a launch in the user's words, where it is a known one: E0724 for code that the driver does not take."""
    refused = re.search(r"CUDA_ERROR_(INVALID_IMAGE|NO_BINARY_FOR_GPU|UNSUPPORTED_PTX_VERSION|UNSUPPORTED_DEVSIDE_SYNC"
                        r"|INVALID_SOURCE)|kernel image is (?:invalid|not)|no kernel image", error.message)
    return NetcError("E0724", "the NVIDIA driver is too old: it refuses the code of this artifact "
                     f"({refused[0]})", UPDATE) if refused else error


def load_runtime() -> ctypes.CDLL:
    """CUDA's runtime library, and below it TVM's. Raises NetcError E0722 where one of them is missing, E0724 for a driver that
    is too old for them."""
    _check_driver()
    library = f"libcudart.so.{CUDA}"
    try:
        runtime = ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError:
        runtime = _load_from(f"nvidia/cu{CUDA}/lib/{library}", f"the CUDA runtime library, {library},")
    if native.function(_CREATE) is None:
        _load_from("tvm/lib/libtvm_runtime_cuda.so", "TVM's CUDA runtime, libtvm_runtime_cuda.so,")
    return runtime


def _load_from(file: str, what: str) -> ctypes.CDLL:
    path = next((Path(root or ".", file) for root in sys.path if Path(root or ".", file).exists()), None)
    if path is None:
        raise NetcError("E0722", f"{what} is not installed",
                        "pip install -e '.[cuda]' inside the clone, or use the CPU (--device cpu)")
    try:
        return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
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


def _version(arch: str) -> tuple[int, int]:
    number = int(arch.removeprefix("sm_"))
    return divmod(number, 10)
