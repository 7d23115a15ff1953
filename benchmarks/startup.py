"""How long the command line takes from a cold process: `netc --help`, and `netc run` of small artifacts.

    python benchmarks/startup.py [--repeats 20] [--json FILE]

Each command is a process of its own, interleaved; what Python and numpy take, and what TVM's Python package would, stands
beside them. Wall time (median, fastest), and processor time, which other programs on the machine change less. Sources are
compiled beforehand, as an installation has them.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
NETC = str(Path(sys.executable).parent / "netc")


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor time of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Bytecode in a folder of ours, whatever the caller's environment says about writing it.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = os.path.join(folder, "bytecode")
        runs = {}
        for net, suffix in (("digits", "png"), ("lenet", "npy")):
            artifact, given = os.path.join(folder, f"{net}.netb"), str(ROOT / "specs/data/digit-7.png")
            subprocess.run([NETC, "compile", str(ROOT / f"specs/{net}.net"), "-o", artifact], check=True, capture_output=True)
            if suffix == "npy":
                given = os.path.join(folder, "image.npy")
                np.save(given, np.zeros((1, 1, 28, 28), np.uint8))
            runs[f"netc run {net}.netb ({suffix})"] = [NETC, "run", artifact, "--input", f"image={given}"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import numpy": [sys.executable, "-c", "import numpy"],
            "import numpy, tvm_ffi": [sys.executable, "-c", "import numpy, tvm_ffi"],
            "netc --help": [NETC, "--help"],
            **runs,
        }
        for command in commands.values():
            measure(command, environment)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.repeats):
            for name, command in commands.items():
                samples[name].append(measure(command, environment))
    rows = []
    for name, pairs in samples.items():
        wall, processor = zip(*pairs)
        rows.append({"command": name, "median_s": statistics.median(wall), "min_s": min(wall),
                     "cpu_median_s": statistics.median(processor), "cpu_min_s": min(processor)})
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for row in rows:
        print(f"{row['command']:<28} median {row['median_s']:.3f} s   fastest {row['min_s']:.3f} s   "
              f"processor {row['cpu_median_s']:.3f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
