"""Runs one program of a folder (host.o, functions.json, a cubin for each architecture, call.json, *.npy) on the GPU that
the environment emulates. Arrays named in call.json are rewritten with what the GPU left in them.

Started as a process of its own, with `build`'s environment; imports what a deployed program would, and not TVM.
"""

import ctypes
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tvm_ffi_orcjit

from runtime import cuda
from runtime.errors import NetcError

folder = Path(sys.argv[1])
call = json.loads((folder / "call.json").read_text())
library = Path(find_spec("tvm").origin).parent / "lib" / "libtvm_runtime.so"
ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
host = tvm_ffi_orcjit.default_session().load_module(str(folder / "host.o"))
binaries = {path.stem: path.read_bytes() for path in folder.glob("sm_*.cubin")}
arrays = [np.load(folder / f"{name}.npy") for name in call["arrays"]]
try:
    gpu = cuda.Gpu(host, binaries, json.loads((folder / "functions.json").read_text()))
    gpu.call(call["symbol"], arrays, range(len(arrays)), call["arena"], *call["numbers"])
except NetcError as error:
    sys.exit(str(error))
for name, array in zip(call["arrays"], arrays):
    np.save(folder / f"{name}.npy", array)
assert "tvm" not in sys.modules
