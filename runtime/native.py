"""Machine code in this process, and TVM's C interface by ctypes. Object files for the CPU are loaded by `runtime/elf.py`,
others by TVM's ORC JIT; functions take tensors by address.

Of TVM this needs shared libraries and none of its Python packages, whose import takes longer than a small net; code that
runs on one thread needs none of them. The structures are those of `tvm/ffi/c_api.h` and `dlpack.h`.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from runtime import elf
from runtime.errors import NetcError

CPU, CUDA = 1, 2  # DLDeviceType
LAUNCH = b"TVMBackendParallelLaunch"  # what an object file calls that has parallel regions
_NONE, _INT, _TENSOR, _TEXT, _BYTES, _OBJECT = 0, 1, 7, 8, 9, 64  # TVMFFITypeIndex; objects are numbered from 64
_HEADER = 24  # bytes of TVMFFIObject, before what a kind of object holds
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode by numpy's letter


class _Value(ctypes.Structure):  # TVMFFIAny
    _fields_ = [("type", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_int64)]


class _Bytes(ctypes.Structure):  # TVMFFIByteArray
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class Tensor(ctypes.Structure):
    """DLTensor: memory of somebody else with a shape, contiguous."""

    _fields_ = [("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("index", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64)]


def tensor(address: int, shape: Sequence[int], dtype: np.dtype, device: tuple[int, int] = (CPU, 0)) -> Tensor:
    """A tensor over memory at `address`, which the caller keeps alive."""
    return Tensor(address, *device, len(shape), _KINDS[dtype.kind], dtype.itemsize * 8, 1,
                  (ctypes.c_int64 * len(shape))(*shape), None, 0)


class Object:
    """A counted reference to an object of TVM: a function, a module, an array."""

    def __init__(self, handle: int):
        self.handle = handle
        self.entry = _interface().TVMFFIFunctionCall
        self._release = _interface().TVMFFIObjectDecRef  # kept: at the end of the process globals are gone before objects

    def __del__(self) -> None:
        self._release(self.handle)

    def __call__(self, *arguments: Any) -> Object | int | None:
        """Calls a function object on None, whole numbers, text, bytes and objects. Raises NetcError E0650."""
        values, kept = (_Value * len(arguments))(), []
        for slot, argument in zip(values, arguments):
            if isinstance(argument, Object):
                slot.type, slot.value = _OBJECT, argument.handle
                slot.type = ctypes.c_int32.from_address(argument.handle + 8).value
            elif isinstance(argument, int):
                slot.type, slot.value = _INT, argument
            elif argument is not None:
                data = argument.encode() if isinstance(argument, str) else argument
                kept.append(_Bytes(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data)))
                kept.append(data)
                slot.type, slot.value = _BYTES, ctypes.addressof(kept[-2])
                if isinstance(argument, str):
                    slot.type, slot.value = _TEXT, kept[-2].data
        result = _Value()
        _checked(_interface().TVMFFIFunctionCall(self.handle, ctypes.addressof(values), len(values),
                                                 ctypes.addressof(result)))
        return Object(result.value) if result.type >= _OBJECT else result.value if result.type == _INT else None


class Call:
    """A driver with its tensors, to be called many times: at other addresses, with other ranges of kernels."""

    def __init__(self, driver: Object, tensors: Sequence[Tensor], words: Sequence[int] = ()):
        """words: whole numbers that follow the range of kernels."""
        count = len(tensors) + 2 + len(words)
        self._values = (_Value * count)(*((_TENSOR, 0, ctypes.addressof(t)) for t in tensors), (_INT, 0, 0), (_INT, 0, 0),
                                        *((_INT, 0, word) for word in words))
        self._begin, self._end = self._values[len(tensors)], self._values[len(tensors) + 1]
        self._result = _Value()
        self._driver, self._tensors, self._call = driver, tensors, driver.entry
        self._placed: Sequence[int] | None = None
        self._arguments = (ctypes.c_void_p(driver.handle), ctypes.c_void_p(ctypes.addressof(self._values)),
                           ctypes.c_int32(count), ctypes.c_void_p(ctypes.addressof(self._result)))

    def __call__(self, addresses: Sequence[int], begin: int, end: int) -> None:
        """Runs kernels [begin, end) with the first tensors at `addresses`. One thread at a time. Raises NetcError E0650."""
        if addresses is not self._placed:
            for tensor, address in zip(self._tensors, addresses):
                tensor.data = address
            self._placed = addresses
        self._begin.value, self._end.value = begin, end
        if self._call(*self._arguments):
            if (told := _told()) is not None:
                raise NetcError("E0650", f"the compiled code reports {told}", "`netc explain E0650` says what this may be")
            _checked(-1)


class Function:
    """A driver in an object file that is loaded without TVM. handle: what it gets as itself, which it does not look at."""

    handle = None

    def __init__(self, code: elf.Code, address: int):
        self._code = code  # kept: its memory is where the function is
        self.entry = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_void_p)(address)


def link(code: bytes, alone: bool = False) -> elf.Code | Object:
    """The module of an object file for the CPU. alone: parallel regions run on the thread that calls.

    Raises NetcError E0606 where TVM's libraries are missing, E0650."""
    try:
        return elf.Code(code, lambda name: elf.ALONE if alone and name.encode() == LAUNCH else _library_function(name))
    except elf.Unsupported:
        return load(code)


def load(code: bytes) -> Object:
    """The module of an object file, as TVM has it. Raises NetcError E0606 where TVM's libraries are missing, E0650."""
    session = _session()
    # Kernels are plain C, so they need no C++ runtime: the two last arguments.
    return function("tvm_ffi_orcjit.SessionLoadModule")(session, function("ffi.Array")(code), "", None, None)


def member(module: elf.Code | Object, symbol: str) -> Object | Function:
    """A function of a module by name. Raises NetcError E0603 where it has none of that name."""
    if isinstance(module, elf.Code):
        address = module.address(f"__tvm_ffi_{symbol}")
        found = None if address is None else Function(module, address)
    else:
        found = function("ffi.ModuleGetFunction")(module, symbol, 1)
    if found is None:
        raise NetcError("E0603", f"the artifact is damaged: its object file has no function `{symbol}`", "compile it again")
    return found


def function(name: str) -> Object | None:
    """A function that a library of TVM registered under `name`, or None."""
    handle, data = ctypes.c_void_p(), name.encode()
    text = _Bytes(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))
    _checked(_interface().TVMFFIFunctionGetGlobal(ctypes.addressof(text), ctypes.addressof(handle)))
    return Object(handle.value) if handle.value else None


@contextmanager
def on_stream(device: int, index: int, stream: ctypes.c_void_p) -> Iterator[None]:
    """What this thread launches on a device inside goes to `stream`."""
    before = ctypes.c_void_p()
    _interface().TVMFFIEnvSetStream(device, index, stream, ctypes.byref(before))
    try:
        yield
    finally:
        _interface().TVMFFIEnvSetStream(device, index, before, None)


def region() -> None:
    """An empty parallel region of this thread's pool: returns when each of its threads came by. Raises NetcError E0650."""
    runtime = _runtime()
    _checked(runtime.TVMBackendParallelLaunch(runtime.TVMBackendParallelBarrier, None, 0))


def use_all(threads: bool) -> None:
    """Whether parallel regions that this thread starts from now on use all threads (TVM_NUM_THREADS), or it alone."""
    if getattr(_chosen, "all", None) is not threads:
        _chosen.all = threads
        _runtime()[_LIMIT](0 if threads else 1)


def open_library(package: str, file: str) -> ctypes.CDLL:
    """A shared library of an installed package. Raises NetcError E0606."""
    spec = find_spec(package)
    if spec is None or not spec.origin:
        raise NetcError("E0606", f"the package {package} is not installed", "pip install apache-tvm apache-tvm-ffi-orcjit")
    return ctypes.CDLL(str(Path(spec.origin).parent / "lib" / file), ctypes.RTLD_GLOBAL)


def _checked(status: int) -> None:
    if status:
        handle = ctypes.c_void_p()
        _interface().TVMFFIErrorMoveFromRaised(ctypes.addressof(handle))
        kind, message = (ctypes.string_at(part.data, part.size).decode(errors="replace")
                         for part in (_Bytes * 2).from_address(handle.value + _HEADER))
        Object(handle.value)
        raise NetcError("E0650", f"TVM reports {kind}: {message.strip()}", "`netc explain E0650` says what this may be")


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int32)
def _tell(kind: bytes, parts: Any, count: int) -> None:
    """Where compiled code says what is wrong with its arguments, before it returns."""
    text = b"".join(parts[i] or b"" for i in range(count)).decode(errors="replace")
    _chosen.told = f"{kind.decode(errors='replace')}: {text.strip()}"


def _told() -> str | None:
    """What this thread's last call said, once."""
    told, _chosen.told = getattr(_chosen, "told", None), None
    return told


def _library_function(name: str) -> int:
    """Where a function that compiled code calls is. Raises LookupError."""
    if name == "TVMFFIErrorSetRaisedFromCStrParts":
        return ctypes.cast(_tell, ctypes.c_void_p).value
    library = _runtime() if name.startswith("TVM") else _mathematics()
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    except AttributeError as problem:
        raise LookupError(f"there is no function {name}") from problem


_lock = threading.RLock()
_chosen = threading.local()
_LIMIT = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"  # tvm::runtime::threading::SetMaxConcurrency, 0 for the default


@cache
def _interface() -> ctypes.CDLL:
    library = open_library("tvm_ffi", "libtvm_ffi.so")
    pointer = ctypes.c_void_p
    for name, arguments in {"TVMFFIFunctionCall": [pointer, pointer, ctypes.c_int32, pointer],
                            "TVMFFIFunctionGetGlobal": [pointer, pointer], "TVMFFIErrorMoveFromRaised": [pointer],
                            "TVMFFIObjectDecRef": [pointer]}.items():
        getattr(library, name).argtypes = arguments
    return library


@cache
def _mathematics() -> ctypes.CDLL:
    """The C library's functions of numbers; by it those of memory are found too."""
    return ctypes.CDLL("libm.so.6")


@cache
def _runtime() -> ctypes.CDLL:
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    _interface()
    library = open_library("tvm", "libtvm_runtime.so")
    library.TVMBackendParallelLaunch.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
    return library


@cache
def _session() -> Object:
    """The JIT of this process, with the libraries that kernels call into."""
    _runtime()
    open_library("tvm_ffi_orcjit", "libtvm_ffi_orcjit.so")
    return function("tvm_ffi_orcjit.GlobalDefaultSession")()
