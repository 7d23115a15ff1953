"""Small kernels written by hand, run by the emulator on numpy arrays; what the emulator needs of a machine."""

import ctypes
import re
import shutil
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import compiler
from runtime.emulator import build
from runtime.emulator.device import EmulatedArray, _base, _order

needs_emulator = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
INSTRUCTIONS = (Path(compiler.__file__).parent / "cuda_instructions.h").read_text()


class Kernels:
    """A library of kernels; `run` gives what they left in their arrays, or the fault as text."""

    def __init__(self, *kernels: str, check: bool = True, order: str = "forward", header: str = INSTRUCTIONS):
        """kernels: `void name(parameters) { … }`."""
        heads = [k[:k.index(") {") + 1] for k in kernels]
        heads = [f'extern "C" __global__ void __launch_bounds__(1024) {head.removeprefix("void ")}' for head in heads]
        bodies = [head + k[k.index(") {") + 1:] for head, k in zip(heads, kernels)]
        self.source = header + ";\n".join([*heads, ""]) + "\n".join(bodies)
        ctypes.CDLL(str(Path(find_spec("tvm_ffi").origin).parent / "lib" / "libtvm_ffi.so"), ctypes.RTLD_GLOBAL)
        functions = defaultdict(lambda: {"args": [], "launch": []})
        self.path = build.library(self.source, functions, check)
        self.library = ctypes.CDLL(str(self.path))
        self.library.emulator_fault.restype = ctypes.c_char_p
        self.library.emulator_fault_code.restype = ctypes.c_size_t
        self.order(order)

    def order(self, text: str) -> None:
        kind, seed = _order(text)
        self.library.emulator_order(ctypes.c_char(kind.encode()), seed)

    def run(self, name: str, *arrays: np.ndarray, grid: int = 1, block: int = 32, dynamic: int = 0):
        """The arrays after `name` ran on copies of them."""
        held = [EmulatedArray(self.library, a.shape, a.dtype) for a in arrays]
        for there, here in zip(held, arrays):
            ctypes.memmove(there.address, here.ctypes.data, here.nbytes)
        words = [ctypes.c_size_t(there.address) for there in held]
        arguments = (ctypes.c_void_p * len(words))(*(ctypes.addressof(w) for w in words))
        extents = [(ctypes.c_uint * 3)(n, 1, 1) for n in (grid, block)]
        if getattr(self.library, f"emulate_{name}")(*extents, ctypes.c_size_t(dynamic), arguments):
            return self.library.emulator_fault().decode()
        after = [np.empty_like(a) for a in arrays]
        for there, here in zip(held, after):
            ctypes.memmove(here.ctypes.data, there.address, here.nbytes)
        return after

    def line(self, fault: str) -> str:
        """The line of the source where a fault of the last run was found."""
        code = self.library.emulator_fault_code()
        place = build.place_of(self.path, code - _base(self.library) - 1) if code else re.search(r"line \d+", fault)[0]
        return self.source.splitlines()[int(place.removeprefix("line ")) - 1]
