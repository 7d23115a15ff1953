"""Runs one program of a folder (an artifact's members, call.json, *.npy) on the GPU that the environment emulates, and
rewrites the arrays named in call.json with what the program left in them.

Started as a process of its own, with `build`'s environment; imports what a deployed program would, and not TVM.
"""

import json
import sys
from pathlib import Path

import numpy as np

from runtime.errors import NetcError
from runtime.execute import Executable
from runtime.format import Artifact

folder = Path(sys.argv[1])
call = json.loads((folder / "call.json").read_text())
members = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith(("kernels.", "host.o"))}
arrays = {name: np.load(folder / f"{name}.npy") for name in call["arrays"]}
parameters = arrays["parameters"]
manifest = {"net": "test", "target": {"kind": "cuda", "name": "cuda"}, "programs": {"run": call["program"]},
            "parameter_bytes": parameters.size, "parameters": [
                {"path": "all", "dtype": "uint8", "shape": [parameters.size], "offset": 0, "bytes": parameters.size}]}
inputs = [a["name"] for a in call["program"]["arguments"] if a["kind"] == "input"]
try:
    exe = Executable(Artifact(manifest, members))
    exe.parameters["all"] = parameters
    bound = exe.bind("run", {name: arrays[name] for name in inputs})
    for name, result in bound.results.items():
        result[...] = arrays[name]
    bound(*call["range"])
except NetcError as error:
    sys.exit(str(error))
np.save(folder / "arena.npy", bound.plan.arena.read(0, call["arena"]))
for name, array in bound.results.items():
    np.save(folder / f"{name}.npy", array)
assert "tvm" not in sys.modules
