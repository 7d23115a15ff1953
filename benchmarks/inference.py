"""Whole networks, ours beside the engines that are installed, the same number of threads each.

    python benchmarks/inference.py [--nets digits lenet ...] [--batch 1 16] [--threads 1] [--peers onnxruntime openvino torch]
                                   [--repeats 30] [--precision bf16] [--json FILE]

All run in this process on the same inputs and weights, interleaved; medians, with the fastest call beside them, since other
processes on the machine only ever add time. `ratio` is our time divided by the peer's: below 1 we are faster. LRN is
ONNX's own operator, not a decomposition. Ours is called through its public Python face with the inputs bound; the rows
called `c` go through the C library of the net (docs/c.md), in a loop of C, for the small nets where a call itself counts.
`of peak` is the share of what multiply-adds alone reach (netc/peak.py), measured before each net on one core and
counted for each thread. With --precision, ours and OpenVINO compute in it, where they can: what OpenVINO says that it
computes in stands behind its name; the others stay in f32. Beside the shipped nets there are googlenet_plain, without its two LRNs, and inception_3a, _4e, _5b.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"inception_3a": "[N, 192, 28, 28]: 64, 96, 128, 16, 32, 32", "inception_4e": "[N, 528, 14, 14]: 256, 160, 320, 32, 128, 128",
           "inception_5b": "[N, 832, 7, 7]: 384, 192, 384, 48, 128, 128"}
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", metavar="NET", default=[
        "digits", "traffic_sign", "lenet", "googlenet", "googlenet_plain", *MODULES, "resnet", "squeezenet", "vgg", "mobilenet"])
    parser.add_argument("--peers", nargs="+", default=["onnxruntime", "openvino", "torch"],
                        choices=["onnxruntime", "openvino", "torch"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16"])
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


OPTIONS = arguments()
os.environ["NETC_NUM_THREADS"] = str(OPTIONS.threads)

import numpy as np  # noqa: E402

import netc  # noqa: E402
from benchmarks.peers import HINTS, open_peer  # noqa: E402
from compiler import c_entry  # noqa: E402
from netc import peak  # noqa: E402
from runtime import format  # noqa: E402
from runtime.arrays import aligned  # noqa: E402
from runtime.measure import random_feeds  # noqa: E402
from tests.onnx_model import to_onnx  # noqa: E402


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


ALLOWED = {"f32": 5e-5, "f16": 1e-2, "bf16": 6e-2}  # of what the largest result differs by
SMALL = ("digits", "traffic_sign", "lenet")
LOOP = """#include <stdint.h>
#include <stdlib.h>
#include <time.h>
double turns(int (*run)(const void *, void *, int64_t, const void *, void *), long count, const void *in, void *out, int64_t n,
             const void *weights, void *workspace) {
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (long i = 0; i < count; i++) if (run(in, out, n, weights, workspace)) abort();
  clock_gettime(CLOCK_MONOTONIC, &to);
  return (to.tv_sec - from.tv_sec) + 1e-9 * (to.tv_nsec - from.tv_nsec);
}
"""


class InC:
    """A net of one input and one result as a C library, with a loop around it. `turns(count)` is seconds."""

    def __init__(self, net: netc.Net, batch: int, feed: np.ndarray, result: np.ndarray):
        self.folder = tempfile.TemporaryDirectory()
        made = net.emit_c(self.folder.name, batch=batch, precision=OPTIONS.precision)
        source, library = Path(self.folder.name, "loop.c"), Path(self.folder.name, "loop.so")
        source.write_text(LOOP)
        subprocess.run([*c_entry.compiler(), "-O2", "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
        theirs, loop, name = ctypes.CDLL(str(made.library)), ctypes.CDLL(str(library)), made.header.stem
        loop.turns.restype = ctypes.c_double

        def size(what: str, *arguments: ctypes.c_int64) -> int:
            function = theirs[f"{name}_{what}_size"]
            function.restype = ctypes.c_size_t
            return function(*arguments)

        n = ctypes.c_int64(batch)
        self.kept = feed, result, *(ctypes.create_string_buffer(bytes) for bytes in (size("weights"), size("workspace", n)))
        assert theirs[f"{name}_load"](os.fsencode(made.weights), self.kept[2]) == 0
        given, out = (ctypes.c_void_p(array.ctypes.data) for array in (feed, result))
        self.turns = lambda count: loop.turns(theirs[f"{name}_run"], ctypes.c_long(count), given, out, n, *self.kept[2:])


def source(name: str) -> netc.Net:
    """A shipped net, one of its variants, or a module of GoogLeNet alone."""
    if name not in MODULES and name != "googlenet_plain":
        return netc.load(ROOT / f"specs/{name}.net")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "inception.net").write_text((ROOT / "specs/inception.net").read_text())
        text = (ROOT / "specs/googlenet.net").read_text().replace("-> lrn(5)", "")
        if name in MODULES:
            shape, _, sizes = MODULES[name].partition(": ")
            text = f"""lang 1
import "inception.net" as g
net {name}() {{
  input x: f32{shape}
  output y = x -> g.inception({sizes})
}}
"""
        place = Path(folder, f"{name}.net")
        place.write_text(text)
        return netc.load(place)


def race(name: str, batch: int) -> list[dict]:
    net = source(name)
    exe = net.compile(batch=batch, precision=OPTIONS.precision)
    program = exe.programs["run"]
    sizes = {s: batch for s in program["symbols"]}
    feeds = random_feeds(exe, "run", sizes)
    values = exe.parameters.tensors("weight", "state")
    model = to_onnx(net.graph, values)
    bound = exe.bind("run", feeds)
    bound()
    got = [next(iter(bound.results.values()))]
    turns, titles, want = {"python": repeated(bound)}, {}, []
    for peer in OPTIONS.peers:
        try:
            titles[peer], call, result = open_peer(peer, model, net.graph, values, feeds, OPTIONS.threads, OPTIONS.precision)
        except ModuleNotFoundError:
            continue
        call()
        want.append(result())
        turns[peer] = repeated(call)
    if name in SMALL and OPTIONS.threads == 1:
        got.append(aligned(got[0].shape, got[0].dtype))
        turns["c"] = InC(net, batch, next(iter(feeds.values())), got[-1]).turns
        turns["c"](1)
    error = max(np.abs(g - w).max() / np.abs(w).max() for g in got for w in want)
    assert error < ALLOWED[OPTIONS.precision], f"{name} differs from {' or '.join(titles)} by {error:.1e}"
    top = peak.measure() * OPTIONS.threads
    times: dict[str, list[float]] = {who: [] for who in turns}
    for _ in range(OPTIONS.repeats):
        for who, turn in turns.items():
            inner = max(1, int(2e-3 / max(turn(1), 1e-9)))
            times[who].append(turn(inner) / inner * 1e3)
    flops = sum(format.size(k["flops"], sizes) for k in program["kernels"])
    return [{"net": name, "batch": batch, "threads": OPTIONS.threads, "precision": OPTIONS.precision, "ours_ms": statistics.median(times[who]),
             "peer": titles[peer], "peer_ms": statistics.median(times[peer]),
             "ratio": statistics.median(times[who]) / statistics.median(times[peer]), "through": who,
             "ours_fastest_ms": min(times[who]), "peer_fastest_ms": min(times[peer]), "kernels": len(program["kernels"]),
             "of_peak": flops / statistics.median(times[who]) / 1e-3 / top, "load": os.getloadavg()[0]}
            for who in times if who in ("python", "c") for peer in titles]


def repeated(call):
    """How many seconds so many calls take."""
    return lambda count: seconds(lambda: [call() for _ in range(count)])


def main() -> None:
    missing = [peer for peer in OPTIONS.peers if find_spec(peer) is None]
    if len(missing) == len(OPTIONS.peers):
        sys.exit(f"none of {', '.join(missing)} is installed: {HINTS[missing[0]]}")
    for peer in missing:
        print(f"without {peer}, which is not installed: {HINTS[peer]}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {OPTIONS.threads} thread(s), load {os.getloadavg()[0]:.1f}, "
          f"multiply-adds alone {peak.measure() / 1e9:.1f} GFLOP/s a core")
    print(f"{'net':<17}{'through':<8}{'batch':>5}{'kernels':>8}{'ours ms':>10}  {'peer':<37}{'peer ms':>10}{'ratio':>7}"
          f"{'fastest ours, peer':>20}{'of peak':>9}{'load':>6}")
    rows = []
    for name in OPTIONS.nets:
        for batch in OPTIONS.batch:
            for row in race(name, batch):
                rows.append(row)
                print(f"{name:<17}{row['through']:<8}{batch:>5}{row['kernels']:>8}{row['ours_ms']:>10.4f}  {row['peer']:<37}"
                      f"{row['peer_ms']:>10.4f}{row['ratio']:>7.2f}{row['ours_fastest_ms']:>10.4f}{row['peer_fastest_ms']:>10.4f}"
                      f"{row['of_peak']:>9.0%}{row['load']:>6.1f}", flush=True)
    if OPTIONS.json:
        Path(OPTIONS.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
