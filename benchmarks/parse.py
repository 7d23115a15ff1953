"""How fast `.net` text is read and printed: 10,000 good lines, and a file with 1,000 errors.

    python benchmarks/parse.py [--repeat 5]

Prints the median and the best of the repeats in seconds, the median CPU time (for a busy machine), and the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

from dsl.format import format_file
from dsl.parse import parse

BLOCK = """
block inception{i}(x: tensor, c1: int, r3: int, c3: int, r5: int, c5: int, proj: int) -> y {{
  b1 = x -> conv_relu(c1)
  b3 = x -> conv_relu(r3) -> conv_relu(c3, 3x3)   # reduce, then convolve
  b5 = x -> conv_relu(r5) -> conv_relu(c5, 5x5)
  bp = x -> max_pool(3x3, stride = 1, pad = same) -> conv_relu(proj)
  maps: f32[N, C*2, H/2, W/2] = concat(b1, b3, b5, bp, axis = channel)
  if c1 > 2 * r3 and not (c5 == 1) {{
    y = maps -> dropout(40%)
  }}
}}
"""


def good(lines: int) -> str:
    text = "".join(BLOCK.format(i=i) for i in range(lines // BLOCK.count("\n") + 1))
    return "\n".join(["lang 1", *text.split("\n")])


def bad(errors: int) -> str:
    return (
        "net f {\n" + "".join(f"  y{i} = x -> conv({i}, -> relu\n  z{i} = {i} -> relu\n" for i in range(errors)) + "}\n"
    )


def measure(name: str, work, repeat: int) -> None:
    wall, cpu = [], []
    for _ in range(repeat):
        start, busy = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    middle = statistics.median
    print(f"{name:36} median {middle(wall):6.3f} s   best {min(wall):6.3f} s   CPU {middle(cpu):6.3f} s")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--repeat", type=int, default=5)
    repeat = arguments.parse_args().repeat
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, Python {platform.python_version()}")
    text, wrong = good(10_000), bad(1000)
    parse("", "warm-up")
    file, problems = parse(text, "good.net")
    assert not problems
    measure(f"parse {text.count(chr(10)):,} lines", lambda: parse(text, "good.net"), repeat)
    measure("format them", lambda: format_file(file, text), repeat)
    measure("parse a file with 1,000 errors", lambda: parse(wrong, "bad.net"), repeat)
    measure("the same, and render every error", lambda: [d.render() for d in parse(wrong, "bad.net")[1]], repeat)


if __name__ == "__main__":
    main()
