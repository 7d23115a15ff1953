"""All that needs a GPU, in one command: `make gpu-check`. Without one it says so and exits with 1.

    python benchmarks/gpu_check.py [--nets lenet 3a googlenet …] [--steps lenet:64 …] [--batch 1 16] [--emulate lenet …]
                                   [--precision f32 tf32 f16] [--repeats 50] [--no-tests] [--json FILE]

1. The tests of GPU code run on the device instead of the emulator.
2. Nets and training steps compute on the device what they do on the emulator and on the CPU, within rounding.
3. Times of inference and of training steps, what was predicted beside what is measured, and PyTorch's beside ours where it
   is installed: eager and torch.compile, channels last. `ratio` is our time divided by PyTorch's fastest: below 1 we are
   faster. Medians; inputs and results lie on the GPU.

3a, 4e and 5b are GoogLeNet's modules. Exits with 1 where a test fails or results differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from runtime import cuda  # noqa: E402
from runtime.errors import NetcError  # noqa: E402
from runtime.execute import Executable  # noqa: E402
from runtime.format import Artifact  # noqa: E402
from runtime.measure import random_feeds, time_program  # noqa: E402

TESTS = ["tests/runtime/test_gpu.py", "tests/runtime/test_tune.py", "tests/compiler/schedule/test_cuda_*.py",
         "tests/compiler/passes/test_choose_precision.py", "tests/compiler/passes/test_channels_last.py"]
BOUNDS = {"f32": 1e-4, "tf32": 5e-3, "f16": 1e-2}  # relative to the largest result
STEPS = 3  # of training that are compared


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="*", default=["lenet", "3a", "4e", "5b", "googlenet", "resnet"])
    parser.add_argument("--steps", nargs="*", default=["lenet:64", "digits:32", "3a:16", "googlenet:16", "resnet:16"],
                        metavar="NET:BATCH", help="training steps that are timed")
    parser.add_argument("--train", nargs="*", default=["digits", "lenet", "3a"], help="nets whose training is compared")
    parser.add_argument("--emulate", nargs="*", default=["digits", "lenet", "3a", "4e", "5b", "googlenet"],
                        help="nets that the emulator runs too")
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--precision", nargs="+", default=["f32", "tf32", "f16"], choices=list(BOUNDS))
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--torch-device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    try:
        arch = cuda.gpu_arch([])
        cuda.load_runtime()
        from compiler.cuda import find_compiler
        compiler = find_compiler().name
    except NetcError as problem:
        sys.exit(f"nothing is checked: {problem.message}" + ("" if problem.code == "E0720" else f": {problem.hint}"))
    print(f"{cuda.gpu_name()}, {arch}, {compiler}, {platform.machine()}, {os.cpu_count()} cores", flush=True)
    well = options.no_tests or tests()
    agreed = [agree(name, precision, options) for precision in options.precision for name in options.nets]
    agreed += [train(name, options) for name in options.train]
    rows = times(options)
    if options.json:
        Path(options.json).write_text(json.dumps({"gpu": cuda.gpu_name(), "arch": arch, "rows": rows}, indent=1))
    print("all tests pass and results agree" if well and all(agreed) else "there are failures, see above")
    return 0 if well and all(agreed) else 1


def tests() -> bool:
    """Whether the tests of GPU code pass on the device."""
    present = [str(path) for pattern in TESTS for path in sorted(ROOT.glob(pattern))]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "tests.on_gpu", *present], cwd=ROOT).returncode == 0


@cache
def built(name: str, program: str, device: str, batch: int, precision: str) -> Artifact:
    """The code of a net for one device."""
    from benchmarks.cuda import load
    return load(name, batch).compile("train" if program == "step" else "run", device=device, batch=batch,
                                     precision=precision).artifact


# --- results ---------------------------------------------------------------------------------------------------------


def devices(name: str, options: argparse.Namespace) -> list[str]:
    return ["cpu", *(["cuda-emulator"] if name in options.emulate else [])]


def agree(name: str, precision: str, options: argparse.Namespace) -> bool:
    """Whether a net computes on the device what it does elsewhere. The CPU computes in f32, or in what it knows of f16."""
    batch, found = 2, {}
    for device in ("cuda", *devices(name, options)):
        exe = Executable(built(name, "run", device, batch, "f32" if device == "cpu" else precision), device)
        feeds = random_feeds(exe, "run", dict.fromkeys(exe.programs["run"]["symbols"], batch))
        found[device] = exe.call("run", feeds)
    return report(f"{name} {precision}", found, BOUNDS[precision])


def train(name: str, options: argparse.Namespace) -> bool:
    """Whether training steps change parameters as they do elsewhere."""
    batch, found = 4, {}
    for device in ("cuda", *devices(name, options)):
        exe = Executable(built(name, "step", device, batch, "f32"), device)
        feeds = random_feeds(exe, "step", dict.fromkeys(exe.programs["step"]["symbols"], batch))
        losses = {}
        for step in range(STEPS):
            given = {"lr": 0.01, "step": step + 1, "seed": step}
            for key, array in feeds.items():
                array[...] = given.get(key.removeprefix("train/"), array)
            losses |= {f"{key} of step {step}": value for key, value in exe.call("step", feeds).items()}
        found[device] = {**losses, **exe.parameters.tensors("weight", "state")}
    return report(f"{name}, {STEPS} steps", found, BOUNDS["f32"])


def report(what: str, found: dict[str, dict[str, np.ndarray]], bound: float) -> bool:
    """Prints by how much each device differs from the GPU at most."""
    ours, lines, well = found.pop("cuda"), [], True
    for device, theirs in found.items():
        errors = {key: float(np.abs(ours[key] - value).max() / max(np.abs(value).max(), 1e-30)) for key, value in theirs.items()}
        worst = max(errors, key=errors.__getitem__)
        fits = all(error <= bound for error in errors.values())  # and not where one is NaN
        lines.append(f"{device} {errors[worst]:.1e}" + ("" if fits else f" ({worst}: more than {bound:.0e})"))
        well = well and fits
    print(f"{'agrees' if well else 'DIFFERS':<8} {what}: from {', from '.join(lines)}", flush=True)
    return well


# --- times -----------------------------------------------------------------------------------------------------------


def times(options: argparse.Namespace) -> list[dict[str, Any]]:
    torch = find_spec("torch") is not None
    print("" if torch else "PyTorch is not installed, so only our times are shown: pip install torch")
    print(f"{'net':<11}{'program':<9}{'batch':>6}{'':>6}{'kernels':>9}{'predicted ms':>14}{'measured':>10}{'one by one':>12}"
          f"{'eager':>10}{'compiled':>10}{'ratio':>7}")
    runs = [(name, "run", batch, precision) for name in options.nets for batch in options.batch for precision in options.precision]
    steps = [(text.partition(":")[0], "step", int(text.partition(":")[2] or 16), precision) for text in options.steps
             for precision in options.precision if precision != "f16"]
    rows = []
    for work in runs + steps:
        row = measured(*work, options) | (peers(*work, options) if torch else {})
        theirs = [row[key] for key in ("eager_ms", "compiled_ms") if row.get(key)]
        row["ratio"] = row["ours_ms"] / min(theirs) if theirs and row["ours_ms"] else None
        rows.append(row)
        shown = [f"{row.get(key):>{width}.3f}" if row.get(key) else f"{'—':>{width}}" for key, width in (
            ("predicted_ms", 14), ("ours_ms", 10), ("launched_ms", 12), ("eager_ms", 10), ("compiled_ms", 10))]
        ratio = f"{row['ratio']:>7.2f}" if row["ratio"] else f"{'—':>7}"
        print(f"{row['net']:<11}{row['program']:<9}{row['batch']:>6}{row['precision']:>6}{row['kernels'] or '—':>9}"
              + "".join(shown) + ratio, flush=True)
    return rows


def measured(name: str, program: str, batch: int, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Our time with the launches as one CUDA graph, one by one, and as predicted; none where we do not compute so."""
    from compiler.resources import rows
    row: dict[str, Any] = {"net": name, "program": program, "batch": batch, "precision": precision, "kernels": None,
                           "ours_ms": None}
    try:
        artifact = built(name, program, "cuda", batch, precision)
    except NetcError as problem:
        if problem.code not in ("E0750", "E0751"):
            raise
        return row
    for key, graphs in (("ours_ms", "1"), ("launched_ms", "0")):
        os.environ["NETC_CUDA_GRAPH"] = graphs
        exe = Executable(artifact, "cuda")
        feeds = random_feeds(exe, program, dict.fromkeys(exe.programs[program]["symbols"], batch))
        row[key] = time_program(exe, program, feeds, seconds=options.repeats / 100)
    found = rows(artifact.manifest, artifact.members, program, batch)
    return row | {"kernels": len(found), "predicted_ms": sum(one["predicted_us"] for one in found) / 1e3}


def peers(name: str, program: str, batch: int, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's times; none where it fails to compile."""
    from benchmarks.cuda import load
    from benchmarks.torch_gpu import Peer
    from compiler.initialize import initialize
    net = load(name, batch)
    values = initialize(net.graph, 0)
    rng, feeds = np.random.default_rng(0), {}
    for entry in net.fields:
        shape = [size if isinstance(size, int) else batch for size in entry["shape"]]
        feeds[entry["name"]] = rng.standard_normal(shape).astype("f4") if entry["dtype"] == "float32" else rng.integers(
            0, entry["classes"] or 256, shape).astype(entry["dtype"])
    config = net.train_config["optimizer"] if program == "step" else None
    row: dict[str, Any] = {}
    for key in ("eager_ms", "compiled_ms"):
        peer = Peer(net.graph, values, feeds, options.torch_device, precision, config)
        try:
            if key == "compiled_ms":
                peer.compiled()
            row[key] = peer.milliseconds(options.repeats)
        except (RuntimeError, ImportError) as problem:
            row[key] = None
            print(f"PyTorch fails on {name}: {str(problem).splitlines()[0]}")
    return row


if __name__ == "__main__":
    sys.exit(main())
