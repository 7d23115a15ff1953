"""Whole networks, ours beside ONNX Runtime, the same number of threads each.

    python benchmarks/inference.py [--nets digits lenet ...] [--batch 1 16] [--threads 1] [--repeats 30] [--json FILE]

Both run in this process on the same inputs and weights, interleaved; medians, with the fastest call beside them, since other
processes on the machine only ever add time. `ratio` is our time divided by ONNX Runtime's: below 1 we are faster. LRN is
ONNX's own operator, not a decomposition. Ours is called through its public Python face with the inputs bound; the rows
called `c` go through the C library of the net (docs/c.md), in a loop of C, for the small nets where a call itself counts.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["digits", "traffic_sign", "lenet", "googlenet"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


OPTIONS = arguments()
os.environ["TVM_NUM_THREADS"] = str(OPTIONS.threads)

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

import netc  # noqa: E402
from compiler import c_entry  # noqa: E402
from runtime.arrays import aligned  # noqa: E402
from runtime.measure import random_feeds  # noqa: E402
from tests.onnx_model import to_onnx  # noqa: E402


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


SMALL = ("digits", "traffic_sign", "lenet")
LOOP = """#include <stdlib.h>
#include <time.h>
#include "{net}.h"
static void *weights, *workspace;
int ready(const char *path, long n) {{
  weights = malloc({net}_weights_size()), workspace = malloc({net}_workspace_size(n));
  return {net}_load(path, weights);
}}
double turns(long count, const void *in, void *out, long n) {{
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (long i = 0; i < count; i++) if ({net}_run(in, out, n, weights, workspace)) abort();
  clock_gettime(CLOCK_MONOTONIC, &to);
  return (to.tv_sec - from.tv_sec) + 1e-9 * (to.tv_nsec - from.tv_nsec);
}}
"""


class InC:
    """A net of one input and one result as a C library, with a loop around it. `turns(count)` is seconds."""

    def __init__(self, net: netc.Net, batch: int, feed: np.ndarray, result: np.ndarray):
        self.folder = tempfile.TemporaryDirectory()
        made = net.emit_c(self.folder.name, batch=batch)
        source, library = Path(self.folder.name, "loop.c"), Path(self.folder.name, "loop.so")
        source.write_text(LOOP.format(net=made.header.stem))
        subprocess.run([*c_entry.compiler(), "-O2", "-fPIC", "-shared", f"-I{self.folder.name}", str(source), str(made.library),
                        f"-Wl,-rpath,{self.folder.name}", "-o", str(library)], check=True)
        loop = ctypes.CDLL(str(library))
        loop.turns.restype = ctypes.c_double
        assert loop.ready(os.fsencode(made.weights), ctypes.c_long(batch)) == 0
        self.kept = feed, result
        self.turns = lambda count: loop.turns(ctypes.c_long(count), ctypes.c_void_p(feed.ctypes.data),
                                              ctypes.c_void_p(result.ctypes.data), ctypes.c_long(batch))


def race(name: str, batch: int) -> list[dict]:
    net = netc.load(ROOT / f"specs/{name}.net")
    exe = net.compile(batch=batch)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = OPTIONS.threads, 1
    session = onnxruntime.InferenceSession(to_onnx(net.graph, exe.parameters.tensors("weight", "state")), settings,
                                           providers=["CPUExecutionProvider"])
    feeds = random_feeds(exe, "run", {s: batch for s in exe.programs["run"]["symbols"]})
    bound = exe.bind("run", feeds)
    turns = {who: repeated(call) for who, call in (("python", bound), ("peer", lambda: session.run(None, feeds)))}
    want, = session.run(None, feeds)
    bound()
    got = list(bound.results.values())
    if name in SMALL and OPTIONS.threads == 1:
        got.append(aligned(want.shape, want.dtype))
        turns["c"] = InC(net, batch, next(iter(feeds.values())), got[-1]).turns
        turns["c"](1)
    error = max(np.abs(g - want).max() / np.abs(want).max() for g in got)
    assert error < 1e-5, f"{name} differs from ONNX Runtime by {error:.1e}"
    times: dict[str, list[float]] = {who: [] for who in turns}
    for _ in range(OPTIONS.repeats):
        for who, turn in turns.items():
            inner = max(1, int(2e-3 / max(turn(1), 1e-9)))
            times[who].append(turn(inner) / inner * 1e3)
    peer = statistics.median(times["peer"])
    return [{"net": name, "through": who, "batch": batch, "threads": OPTIONS.threads, "precision": "f32",
             "ours_ms": statistics.median(times[who]), "peer": f"onnxruntime {onnxruntime.__version__}", "peer_ms": peer,
             "ratio": statistics.median(times[who]) / peer, "ours_fastest_ms": min(times[who]),
             "peer_fastest_ms": min(times["peer"]), "kernels": len(exe.programs["run"]["kernels"])}
            for who in times if who != "peer"]


def repeated(call):
    """How many seconds so many calls take."""
    return lambda count: seconds(lambda: [call() for _ in range(count)])


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, {OPTIONS.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    print(f"{'net':<14}{'through':<8}{'batch':>6}{'kernels':>9}{'ours ms':>10}{'ORT ms':>10}{'ratio':>8}{'fastest':>18}")
    rows = []
    for name in OPTIONS.nets:
        for batch in OPTIONS.batch:
            for row in race(name, batch):
                rows.append(row)
                print(f"{name:<14}{row['through']:<8}{batch:>6}{row['kernels']:>9}{row['ours_ms']:>10.4f}{row['peer_ms']:>10.4f}"
                      f"{row['ratio']:>8.2f}{row['ours_fastest_ms']:>9.4f}{row['peer_fastest_ms']:>9.4f}", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if OPTIONS.json:
        Path(OPTIONS.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
