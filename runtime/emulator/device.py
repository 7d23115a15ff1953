"""The emulated GPU as an Executable sees it: its memory is host memory between red zones, its kernels a library."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from runtime import format, native, threads
from runtime.arrays import address, aligned
from runtime.device import DeviceBlock, Gpu
from runtime.emulator import build
from runtime.errors import NetcError
from runtime.execute import Argument, Host, Plan

NAME = "cuda-emulator"
_ENGINE = threading.Lock()  # executables of the same kernels share a library and what runs it
_RED_ZONE = 1024  # bytes before and after each array; a multiple of ALIGNMENT


class EmulatedArray:
    """Memory of the emulated GPU, filled with NaN. shape, dtype, nbytes, address as an array has them."""

    def __init__(self, kernels: ctypes.CDLL, shape: tuple[int, ...], dtype: np.dtype):
        self.shape, self.dtype = shape, dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        # Anonymous memory that processes share; it begins a page.
        self._memory = np.frombuffer(mmap.mmap(-1, self.nbytes + 2 * _RED_ZONE), np.uint8)
        self._memory[...] = 0xff
        self.address = address(self._memory) + _RED_ZONE
        self._kernels = kernels
        kernels.emulator_register(ctypes.c_size_t(self.address), ctypes.c_size_t(self.nbytes))

    def __del__(self) -> None:
        self._kernels.emulator_release(ctypes.c_size_t(self.address))


class Emulator(Gpu):
    """Where a CUDA artifact's tensors lie when no GPU runs it. Arrays of callers are copied before and after calls."""

    def __init__(self, host: native.Object, members: Mapping[str, bytes]):
        """host: the loaded host.o, which gets its kernels. Raises NetcError E0740, E0741, E0743."""
        self.device, self.name = (native.CUDA, 0), NAME
        kind, seed = _order(os.environ.get("NETC_EMULATOR_ORDER", "forward"))
        self._checks = os.environ.get("NETC_EMULATOR_CHECK", "0") not in ("", "0")
        self._source = members["kernels.cu"].decode()
        self._path = build.library(self._source, json.loads(members["kernels.json"]), self._checks)
        module = native.function("ffi.ModuleLoadFromFile")(str(self._path))
        native.function("ffi.ModuleImportModule")(host, module)
        self._kernels = ctypes.CDLL(str(self._path))
        self._kernels.emulator_fault.restype = ctypes.c_char_p
        self._kernels.emulator_fault_code.restype = ctypes.c_size_t
        self._kernels.emulator_order(ctypes.c_char(kind.encode()), seed)
        self._kernels.emulator_processes(threads.count())
        self._parameters = 0  # where they lie
        self._staged: WeakKeyDictionary[Plan, dict[int, EmulatedArray]] = WeakKeyDictionary()

    def launch(self, plan: Plan, addresses: Sequence[int], begin: int, end: int) -> None:
        """Launches kernels [begin, end), one after the other. Raises NetcError E0742 for what is wrong in one."""
        with _ENGINE:
            for index in range(begin, end):
                kernel = plan.entry["kernels"][index]
                if self._checks:
                    self._expect(plan, addresses, kernel.get("memory", ()))
                try:
                    plan.call(addresses, index, index + 1)
                except NetcError as error:
                    raise self._fault(kernel) or error from None

    def _expect(self, plan: Plan, addresses: Sequence[int], memory: Iterable[Mapping[str, Any]]) -> None:
        """Says what the next launch may touch: `memory` of its entry in the manifest."""
        places = {(a["kind"], a["name"]): at for a, at in zip(plan.entry["arguments"], addresses)}
        places |= {("parameters", ""): self._parameters, ("arena", ""): plan.arena.address}
        for part in memory:
            begin = places[part["in"], part["name"]] + format.size(part["offset"], plan.sizes)
            self._kernels.emulator_expect(ctypes.c_size_t(begin), ctypes.c_size_t(format.size(part["bytes"], plan.sizes)),
                                          part["write"], part["tensor"].encode())

    def _fault(self, kernel: Mapping[str, Any]) -> NetcError | None:
        """What the emulator found in the last launch, that of a kernel of the manifest."""
        text = self._kernels.emulator_fault()
        if text is None:
            return None
        name, _, what = text.decode().partition(": ")
        layers = f" (layers {', '.join(kernel['layers'])})" if kernel["layers"] else ""
        code, base = self._kernels.emulator_fault_code(), _base(self._kernels)
        line = build.place_of(self._path, code - base - 1) if code else None  # -1: from the return address to the call
        where = f" (kernels.cu, {line})" if line else ""
        return NetcError("E0742", f"the emulator found a fault in {name}{layers}: {what}{where}",
                         "the net is not to blame: `netc explain E0742` says how to report it")

    def block(self, bytes: int) -> DeviceBlock:
        block = super().block(bytes)
        self._parameters = self._parameters or block.address  # they come first
        return block

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> EmulatedArray:
        return EmulatedArray(self._kernels, shape, dtype)

    def copy(self, to: int, source: int, bytes: int, kind: int) -> None:
        ctypes.memmove(to, source, bytes)

    def zero(self, to: int, bytes: int) -> None:
        ctypes.memset(to, 0, bytes)

    def wait(self) -> None:
        """Launches are complete when they return."""

    def take(self, argument: Argument, value: Any) -> np.ndarray:
        return Host.take(self, argument, value)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, inputs: Iterable[Any]) -> np.ndarray:
        return aligned(shape, dtype)

    def local(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return feeds


def _order(text: str) -> tuple[str, int]:
    """How the engine calls an order, and the seed. Raises NetcError E0743."""
    found = re.fullmatch(r"(forward|reverse|random)(?::(\d{1,9}))?", text)
    if not found or found[2] and found[1] != "random":
        raise NetcError("E0743", f"NETC_EMULATOR_ORDER is `{text}`, which is no order of threads",
                        "write forward, reverse, random or random:SEED")
    return {"forward": "f", "reverse": "r", "random": "s"}[found[1]], int(found[2] or 0)


def _base(library: ctypes.CDLL) -> int:
    """Where a library lies in memory."""
    class Info(ctypes.Structure):  # Dl_info
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p),
                    ("address", ctypes.c_void_p)]
    info = Info()
    ctypes.CDLL(None).dladdr(ctypes.cast(library.emulator_fault, ctypes.c_void_p), ctypes.byref(info))
    return info.base or 0
