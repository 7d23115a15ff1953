"""Peak memory of a whole process that runs a net, ours beside ONNX Runtime's.

    python benchmarks/memory.py [--net googlenet] [--batch 1] [--calls 5] [--json FILE]

Each is a fresh process that imports what it needs, loads the net with its weights from a file, and calls it: `ru_maxrss`, the
most memory that was resident at once. Both import numpy. `bare` is what the imports alone take.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHARED = """
import os, resource, sys
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["NETC_NUM_THREADS"] = "1"
sys.path.insert(0, {root!r})
import numpy as np
{imports}
if {calls}:
    feeds = dict(np.load({feeds!r}))
{body}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
OURS = ("from runtime.execute import Executable", """    exe = Executable.load({file!r})
    for _ in range({calls}):
        exe.call("run", feeds)""")
THEIRS = ("import onnxruntime", """    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession({file!r}, options, providers=["CPUExecutionProvider"])
    for _ in range({calls}):
        session.run(None, feeds)""")


def megabytes(who: tuple[str, str], file: Path, feeds: Path, calls: int) -> float:
    imports, body = who
    text = SHARED.format(root=str(ROOT), imports=imports, feeds=str(feeds), calls=calls,
                         body=body.format(file=str(file), calls=calls))
    return float(subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="googlenet")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Compiled in a process of its own too: the kernel counts a fork's memory as its child's until it starts a program.
        subprocess.run([sys.executable, __file__, "--prepare", folder, options.net, str(options.batch)], check=True)
        at = Path(folder)
        rows = [{"who": who, "peak_mb": megabytes(code, at / file, at / "feeds.npz", options.calls),
                 "bare_mb": megabytes(code, at / file, at / "feeds.npz", 0),
                 "weights_mb": (at / file).stat().st_size / 2**20}
                for who, code, file in (("netc", OURS, "net.netb"), ("onnxruntime", THEIRS, "net.onnx"))]
    print(f"{options.net}, batch {options.batch}\n{'':<14}{'peak MB':>9}{'bare MB':>9}{'file MB':>9}")
    for row in rows:
        print(f"{row['who']:<14}{row['peak_mb']:>9.1f}{row['bare_mb']:>9.1f}{row['weights_mb']:>9.1f}")
    print(f"ratio {rows[0]['peak_mb'] / rows[1]['peak_mb']:.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


def prepare(folder: str, name: str, batch: str) -> None:
    """The artifact, the ONNX model and one set of inputs, in `folder`."""
    import numpy as np

    import netc
    from runtime.format import write
    from runtime.measure import random_feeds
    from tests.onnx_model import to_onnx
    net = netc.load(ROOT / f"specs/{name}.net")
    exe = net.compile(batch=int(batch))
    write(Path(folder, "net.netb"), exe.manifest, exe.artifact.members)
    Path(folder, "net.onnx").write_bytes(to_onnx(net.graph, exe.parameters.tensors("weight", "state")))
    np.savez(Path(folder, "feeds.npz"), **random_feeds(exe, "run", {s: int(batch) for s in exe.programs["run"]["symbols"]}))


if __name__ == "__main__":
    prepare(*sys.argv[2:]) if sys.argv[1:2] == ["--prepare"] else main()
