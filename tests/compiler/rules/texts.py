"""Rules and nets written as text, and what rules make of nets: verified after each application, with the same numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compiler import rules
from compiler.elaborate import load
from compiler.elaborate.files import Library
from compiler.elaborate.report import Report
from compiler.initialize import initialize
from compiler.interpret import relative_error, run
from compiler.ir import Graph
from compiler.passes.base import Rewrite
from compiler.passes.expand import expand
from compiler.rules.rule import Rule, compile_rules
from compiler.verify import verify
from tests.compiler.passes.nets import context

TOLERANCE = 1e-11
SPECS = Path(__file__).parents[3] / "specs"


def ruleset(text: str) -> list[Rule]:
    return rules.load("lang 1\n" + text)


def compiled(text: str) -> Rule:
    """A single rule, whatever it does."""
    report = Report()
    unit = Library(report).load_text("lang 1\n" + text, "text.net")
    (rule,) = compile_rules(report, unit)
    assert not report.errors
    return rule


def graph(body: str) -> Graph:
    """The graph of a net's body, which reads `image: f32[N, 4, 8, 8]` or `x: f32[N, 6]`."""
    inputs = [f"input {name}: {type}" for name, type in (("image", "f32[N, 4, 8, 8]"), ("x", "f32[N, 6]"))
              if re.search(rf"\b{name}\b", body)]
    return load("net f {\n  " + "\n  ".join([*inputs, *body.strip().splitlines()]) + "\n}\n").graph


def applied(rules_: Sequence[Rule], before: Graph, **settings) -> tuple[Graph, list[Rewrite]]:
    """What rules make of a graph, and what they considered."""
    after = before.copy()
    rewrites = rules.apply_rules(rules_, after, context(**settings), lambda rule: verify(after, before))
    verify(after, before)
    same(before, after)
    verify(expand(after))
    return after, rewrites


def same(before: Graph, after: Graph) -> None:
    stream = np.random.default_rng(0)
    feeds = {n.name: stream.standard_normal([2 if not isinstance(s, int) else s for s in n.type.shape])
             if n.type.is_float else stream.integers(0, 9, [2 if not isinstance(s, int) else s for s in n.type.shape])
             for n in before.leaves("input")}
    values = {k: v.astype("f8") + stream.uniform(0.1, 0.5, v.shape) for k, v in initialize(before, 0).items()}
    left, right = run(before, feeds, values, "float64"), run(after, feeds, values, "float64")
    for key, name in before.outputs.items():
        assert relative_error(left[name], right[after.outputs[key]]) <= TOLERANCE, key


def ops(graph: Graph) -> list[str]:
    """The ops that an artifact for inference would compute in each run, in order."""
    fixed: set[str] = set()
    for node in graph.sorted():
        if node.op in ("parameter", "constant") or node.inputs and fixed.issuperset(node.inputs):
            fixed.add(node.name)
    wanted = graph.copy().prune()
    return [node.op for node in wanted.sorted() if node.inputs and node.name not in fixed]
