"""How long the command line takes from a cold process: `netc --help`, and `netc run` of a small artifact.

    python benchmarks/startup.py [--repeats 20] [--json FILE]

Each command is a process of its own, interleaved, medians; what Python and the two libraries that every run needs take stands beside them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
NETC = str(Path(sys.executable).parent / "netc")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = os.path.join(folder, "digits.netb")
        subprocess.run([NETC, "compile", str(ROOT / "specs/digits.net"), "-o", artifact], check=True, capture_output=True)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import numpy, tvm_ffi": [sys.executable, "-c", "import numpy, tvm_ffi"],
            "netc --help": [NETC, "--help"],
            "netc run digits.netb": [NETC, "run", artifact, "--input", f"image={ROOT / 'specs/data/digit-7.png'}"],
        }
        samples: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.repeats):
            for name, command in commands.items():
                samples[name].append(seconds(command))
    rows = [{"command": name, "median_s": statistics.median(times), "min_s": min(times)} for name, times in samples.items()]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for row in rows:
        print(f"{row['command']:<24} median {row['median_s']:.3f} s   fastest {row['min_s']:.3f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
