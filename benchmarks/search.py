"""What equality saturation finds beyond the passes, one after another, and how long it looks.

    python benchmarks/search.py [--nets inception_v3 squeezenet googlenet] [--targets cpu sm_80] [--seconds 5]

Predicted milliseconds at batch 1, by the cost model that decides (compiler/cost.py): bias and activation fused and nothing
else, the passes, the passes behind the search; and what each gains on the line before it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import netc
from compiler import programs
from compiler.cost import MACHINES
from compiler.passes.select_mode import select_mode
from compiler.tally import elementwise_fused, tally
from compiler.target import host

SPECS = Path(__file__).parents[1] / "specs"


def predicted(net: netc.Net, options: programs.Options) -> tuple[float, float, str]:
    """Predicted milliseconds, seconds that the search took, and what it says."""
    options = replace(options, steps=[])
    start = time.perf_counter()
    graph = programs.build(net.program, ["run"], options)["run"]
    step = next(s for s in options.steps if s.name == "search")
    said = step.rewrites[0].what.partition(" in ")[0] if step.rewrites else ""
    return tally(graph, MACHINES[options.machine], 1)["predicted_ms"], step.seconds or time.perf_counter() - start, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["inception_v3", "squeezenet", "googlenet"])
    parser.add_argument("--targets", nargs="+", default=["cpu", "sm_80"], choices=list(MACHINES))
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    print(f"{'net':14} {'target':7} {'fused ms':>9} {'passes ms':>10} {'gain':>7} {'search ms':>10} {'gain':>7} {'s':>6}  search")
    for name in given.nets:
        net = netc.load(SPECS / f"{name}.net")
        source = select_mode(net.graph, "deploy")
        for target in given.targets:
            options = programs.Options(target, 1, block=host().lanes if target == "cpu" else 1)
            fused = elementwise_fused(source, MACHINES[target], 1)["predicted_ms"]
            greedy, _, _ = predicted(net, options)
            found, seconds, said = predicted(net, replace(options, search=given.seconds))
            print(f"{name:14} {target:7} {fused:9.3f} {greedy:10.3f} {100 * (1 - greedy / fused):6.1f}% {found:10.3f} "
                  f"{100 * (1 - found / greedy):6.1f}% {seconds:6.1f}  {said}", flush=True)


if __name__ == "__main__":
    main()
