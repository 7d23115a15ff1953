"""How long the passes take: on GoogLeNet, Inception v3, ResNet-101, and on made-up nets of 2,000 operations.

    python benchmarks/passes.py [--nets googlenet ...] [--program run] [--repeats 3]

For each net the seconds of its passes, the smallest of some repeats, since other processes only ever add time.
`whole` is all that happens between the source graph and what is lowered; `cpu` the same as processor time, for a
machine that is busy.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import netc  # noqa: E402
from compiler import programs  # noqa: E402
from compiler.group import is_leaf  # noqa: E402
from compiler.ir import Graph  # noqa: E402
from compiler.passes.pipeline import PIPELINE  # noqa: E402

SGD = {"optimizer": {"name": "sgd", "args": {"momentum": 0.9}}}
HEAD = 'import "inception.net" as g\nimport "resnet.net" as r\n\nnet large {\n  input image: f32[N, 64, 28, 28]\n' \
    "  label class: i32[N] in 10\n"
TAIL = "  logits = h -> global_avg_pool -> flatten -> dense(10)\n  output p = logits -> softmax\n" \
    "  loss cross_entropy(logits, class)\n}\n"
# Nets of 2,000 operations: wide modules, residual bottlenecks with batch norm, and one long chain.
LARGE = {
    "142 inception modules": "  h = image -> g.inception(16, 24, 32, 4, 8, 8) ** 142\n",
    "200 bottlenecks": "  h = image -> r.bottleneck(16) ** 200\n",
    "1,000 conv and relu": "  h = image -> g.conv_relu(64, 3x3) ** 1000\n",
    "2,000 linear layers": "  h = image -> conv(64) ** 2000\n",
}
NETS = ["googlenet", "inception_v3", "resnet", *LARGE]


def load(name: str) -> Graph:
    if name not in LARGE:
        return netc.load(ROOT / f"specs/{name}.net").graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.net"
        path.write_text(HEAD + LARGE[name] + TAIL)
        return netc.load(path).graph


def measure(graph: Graph, program: str, repeats: int) -> tuple[dict[str, float], float, float]:
    """Seconds of each pass, and seconds and processor time of all that `programs` does, passes included."""
    best: dict[str, float] = {}
    whole = cpu = float("inf")
    for _ in range(repeats):
        options = programs.Options(block=8)
        start, start_cpu = time.perf_counter(), time.process_time()
        made = programs.step(graph, SGD, options) if program == "step" else programs.run(graph, options)
        programs.kernels(made, options, program == "step", program != "step")
        whole, cpu = min(whole, time.perf_counter() - start), min(cpu, time.process_time() - start_cpu)
        for step in options.steps:
            best[step.name] = min(best.get(step.name, float("inf")), step.seconds)
    return best, whole, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--program", default="run", choices=["run", "step"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
          f"seconds, program {options.program}")
    print(f"{'net':<22}{'ops':>6}{'passes':>9}{'whole':>9}{'cpu':>9}  slowest")
    for name in options.nets:
        graph = load(name)
        seconds, whole, cpu = measure(graph, options.program, options.repeats)
        slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:4]
        count = sum(not is_leaf(node) for node in graph.nodes())
        print(f"{name:<22}{count:>6}{sum(seconds.values()):>9.3f}{whole:>9.3f}{cpu:>9.3f}  "
              + ", ".join(f"{p} {seconds[p]:.3f}" for p in slowest), flush=True)
    print("passes: " + ", ".join(PIPELINE))


if __name__ == "__main__":
    main()
