"""What each pass of the optimizer is worth: whole networks with every pass off in turn.

    python benchmarks/fusion.py [--nets googlenet inception_v3 squeezenet] [--batch 1] [--threads 1] [--repeats 15]
                                [--off PASS ...] [--json FILE]

Kernels, bytes and arena are counted from the compiled artifact's manifest: bytes are the unique bytes of each kernel's
tensors, weights included, summed over the kernels. Times are medians of calls on the CPU, interleaved with the net
that has all passes, so that `ratio` (time with the pass off / time with all) holds on a busy machine.
`element-wise fused` is the pass of that name alone, what stock frameworks do; `with none` makes each primitive a
kernel. What a net without a pass computes is compared with what the whole pipeline's computes.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["googlenet", "inception_v3", "squeezenet"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--off", nargs="+", metavar="PASS", help="only these passes, each off in turn")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


OPTIONS = arguments()
os.environ["TVM_NUM_THREADS"] = str(OPTIONS.threads)

import netc  # noqa: E402
from compiler.interpret import relative_error  # noqa: E402
from compiler.passes.pipeline import PIPELINE, require  # noqa: E402
from runtime.format import size  # noqa: E402
from runtime.measure import random_feeds  # noqa: E402


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Variant:
    """A net compiled with some passes off, its inputs bound."""

    def __init__(self, net: netc.api.Net, off: list[str], batch: int):
        self.compile_seconds = -time.perf_counter()
        self.exe = net.compile(batch=batch, off=off)
        self.compile_seconds += time.perf_counter()
        program = self.exe.programs["run"]
        env = {symbol: batch for symbol in program["symbols"]}
        self.kernels = len(program["kernels"])
        self.bytes = sum(size(kernel["bytes"], env) for kernel in program["kernels"])
        self.arena = size(program["arena"], env)
        self.bound = self.exe.bind("run", random_feeds(self.exe, "run", env, seed=1))
        self.bound()
        self.results = {name: array.copy() for name, array in self.bound.results.items()}


def race(whole: Variant, other: Variant, repeats: int) -> tuple[float, float]:
    """Median ms of both."""
    times: dict[str, list[float]] = {"whole": [], "other": []}
    for _ in range(repeats):
        times["whole"].append(1e3 * seconds(whole.bound))
        times["other"].append(1e3 * seconds(other.bound))
    return statistics.median(times["whole"]), statistics.median(times["other"])


def ablate(name: str) -> list[dict]:
    net = netc.load(ROOT / f"specs/{name}.net")
    whole = Variant(net, [], OPTIONS.batch)
    choices = {"all passes": [], **{f"without {p}": [p] for p in OPTIONS.off or PIPELINE}}
    if not OPTIONS.off:
        choices["element-wise fused"] = [p for p in PIPELINE if p != "fuse_elementwise"]
        choices["with none"] = PIPELINE
    rows = []
    for title, off in choices.items():
        variant = Variant(net, off, OPTIONS.batch) if off else whole
        error = max(relative_error(want, variant.results[key]) for key, want in whole.results.items())
        assert error < 1e-4, f"{name} {title}: differs by {error:.1e}"
        ms, other = race(whole, variant, OPTIONS.repeats)
        rows.append({"net": name, "passes": title, "batch": OPTIONS.batch, "threads": OPTIONS.threads,
                     "kernels": variant.kernels, "bytes": variant.bytes, "arena": variant.arena, "ms": other,
                     "ratio": other / ms, "compile_s": variant.compile_seconds})
        print(f"{name:<14}{title:<34}{variant.kernels:>8}{variant.bytes:>14,}{variant.arena:>13,}{other:>9.2f}"
              f"{other / ms:>7.2f}{variant.compile_seconds:>10.1f}", flush=True)
    return rows


def main() -> None:
    require(OPTIONS.off or [])
    print(f"{platform.machine()}, {os.cpu_count()} cores, {OPTIONS.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    print(f"{'net':<14}{'passes':<34}{'kernels':>8}{'bytes':>14}{'arena':>13}{'ms':>9}{'ratio':>7}{'compile s':>10}")
    rows = [row for name in OPTIONS.nets for row in ablate(name)]
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if OPTIONS.json:
        Path(OPTIONS.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
