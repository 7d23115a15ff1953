"""Whole networks, ours beside ONNX Runtime, the same number of threads each.

    python benchmarks/inference.py [--nets digits lenet ...] [--batch 1 16] [--threads 1] [--repeats 30] [--json FILE]

Both run in this process on the same inputs and weights, interleaved; medians, with the fastest call beside them, since other
processes on the machine only ever add time. `ratio` is our time divided by ONNX Runtime's: below 1 we are faster. LRN is
ONNX's own operator, not a decomposition. Ours is called through its public Python face with the inputs bound.
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
from runtime.measure import random_feeds  # noqa: E402
from tests.onnx_model import to_onnx  # noqa: E402


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def race(name: str, batch: int) -> dict:
    net = netc.load(ROOT / f"specs/{name}.net")
    exe = net.compile(batch=batch)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = OPTIONS.threads, 1
    session = onnxruntime.InferenceSession(to_onnx(net.graph, exe.parameters.tensors("weight", "state")), settings,
                                           providers=["CPUExecutionProvider"])
    feeds = random_feeds(exe, "run", {s: batch for s in exe.programs["run"]["symbols"]})
    bound = exe.bind("run", feeds)
    calls = {"ours": bound, "peer": lambda: session.run(None, feeds)}
    want = calls["peer"]()[0]
    bound()
    error = max(np.abs(got - want).max() / np.abs(want).max() for got in bound.results.values())
    assert error < 1e-5, f"{name} differs from ONNX Runtime by {error:.1e}"
    times: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(OPTIONS.repeats):
        for who, call in calls.items():
            inner = max(1, int(2e-3 / seconds(call)))
            times[who].append(seconds(lambda: [call() for _ in range(inner)]) / inner * 1e3)
    ours, peer = (statistics.median(times[who]) for who in calls)
    return {"net": name, "batch": batch, "threads": OPTIONS.threads, "precision": "f32", "ours_ms": ours,
            "peer": f"onnxruntime {onnxruntime.__version__}", "peer_ms": peer, "ratio": ours / peer,
            "ours_fastest_ms": min(times["ours"]), "peer_fastest_ms": min(times["peer"]),
            "kernels": len(exe.programs["run"]["kernels"])}


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, {OPTIONS.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    print(f"{'net':<14}{'batch':>6}{'kernels':>9}{'ours ms':>10}{'ORT ms':>10}{'ratio':>8}{'fastest':>18}")
    rows = []
    for name in OPTIONS.nets:
        for batch in OPTIONS.batch:
            row = race(name, batch)
            rows.append(row)
            print(f"{name:<14}{batch:>6}{row['kernels']:>9}{row['ours_ms']:>10.3f}{row['peer_ms']:>10.3f}{row['ratio']:>8.2f}"
                  f"{row['ours_fastest_ms']:>9.3f}{row['peer_fastest_ms']:>9.3f}", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if OPTIONS.json:
        Path(OPTIONS.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
