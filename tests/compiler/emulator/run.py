"""Runs one program of a folder (an artifact's members, call.json, *.npy) on the GPU that the environment emulates, and
rewrites the arrays named in call.json with what the program left in them.

Started as a process of its own, with `build`'s environment; imports what a deployed program would, and not TVM.
"""

import ctypes
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tvm_ffi
import tvm_ffi_orcjit

from runtime import cuda
from runtime.errors import NetcError

folder = Path(sys.argv[1])
call = json.loads((folder / "call.json").read_text())
library = Path(find_spec("tvm").origin).parent / "lib" / "libtvm_runtime.so"
ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
host = tvm_ffi_orcjit.default_session().load_module(str(folder / "host.o"))
members = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("kernels.")}
arrays = [np.load(folder / f"{name}.npy") for name in call["arrays"]]
arena = np.zeros(max(call["arena"], 1), np.uint8)
try:
    gpu = cuda.Gpu(host, members, {"run": call["program"]})
    gpu[call["program"]["symbol"]](*map(tvm_ffi.from_dlpack, [*arrays, arena]), *call["range"])
except NetcError as error:
    sys.exit(str(error))
np.save(folder / "arena.npy", arena)
for name, array in zip(call["arrays"], arrays):
    np.save(folder / f"{name}.npy", array)
assert "tvm" not in sys.modules
