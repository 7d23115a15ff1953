"""Rewrites written in the language: `rule f(x: tensor) { x -> relu -> relu => x -> relu }`.

    rules = load("my_rules.net")                   # checked: names, types, whether they come to an end
    apply_rules(rules, graph, context)             # where they match and the cost model says that it pays
    test("my_rules.net")                           # each on random nets, in float64

`rule.py` makes patterns of the text, `match.py` finds them in a graph, `terms.py` evaluates conditions and
replacements, `replace.py` puts these into the graph, `apply.py` decides; `instances.py` and `check.py` test rules on random nets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compiler.elaborate import Loader, deep
from compiler.elaborate.files import Unit
from compiler.elaborate.report import Report
from compiler.ir import Graph
from compiler.passes import pipeline
from compiler.passes.base import PASSES, Context, Pass, Rewrite
from compiler.rules.apply import apply_rules
from compiler.rules.check import SAMPLES, Tested, check_ends, check_numbers, check_types
from compiler.rules.instances import Instance
from compiler.rules.rule import Rule, compile_rules
from dsl.diagnostics import Diagnostic, DiagnosticError, did_you_mean


def load(source: os.PathLike | str, names: Collection[str] = ()) -> list[Rule]:
    """The rules of a file or text, or those of them with `names`, in the order of the text.

    source: as for `compiler.elaborate.load`. Raises DiagnosticError with everything that is wrong: syntax, names,
    types, names of rules that are not there (E0440), rules that go on without end (E0445).
    """
    report = Report()
    with deep():
        rules = _chosen(report, source, names)
        examine(report, rules)
    if report.errors:
        raise DiagnosticError(report.sorted())
    return rules


def test(source: os.PathLike | str, names: Collection[str] = (), samples: int = SAMPLES, seed: int = 1,
         observe: Callable[[Tested], None] = lambda tested: None) -> list[Diagnostic]:
    """Tests the rules of a file, each on `samples` random nets; `observe` is told what came of each. Returns what is
    wrong with them: what `load` raises, and the smallest counterexample of each rule that changes numbers (E0444)."""
    report = Report()
    with deep():
        rules = _chosen(report, source, names)
        examine(report, rules)
        for rule in rules:
            mine = Report()
            observe(check_numbers(mine, rule, samples, seed))
            for problem in mine.diagnostics:
                report.add(problem)
    return report.sorted()


def check_unit(report: Report, unit: Unit) -> None:
    """All that is wrong with the rules of a file, but for numbers; for `netc check`."""
    examine(report, compile_rules(report, unit))


def examine(report: Report, rules: Sequence[Rule]) -> None:
    """Types of both sides on a few nets each, and whether the rules together come to an end."""
    nets: dict[str, Sequence[Instance]] = {}
    before = len(report.errors)
    for rule in rules:
        mine = Report()
        nets[rule.name] = check_types(mine, rule)
        for problem in mine.diagnostics:
            report.add(problem)
    if len(report.errors) == before:
        check_ends(report, rules, lambda rule: nets[rule.name])


def _chosen(report: Report, source: os.PathLike | str, names: Collection[str]) -> list[Rule]:
    loader = Loader(report, source, None)
    if loader.unit is None:
        return []
    loader.names()
    unit = loader.unit
    if not unit.rules and unit.complete:
        report.error("E0440", f"`{unit.name}` has no rules", None,
                     "write `rule name(x: tensor) { pattern => replacement }`")
    for name in names:
        if name not in unit.rules and unit.complete:
            report.error("E0440", f"`{unit.name}` has no rule `{name}`", None,
                         did_you_mean(name, unit.rules) or f"it has {', '.join(unit.rules)}")
    return [rule for rule in compile_rules(report, unit) if not names or rule.name in names]


# --- rules as a pass -------------------------------------------------------------------------------------------------

def as_pass(name: str, rules: Sequence[Rule]) -> Pass:
    """A pass that applies rules."""
    def run(graph: Graph, context: Context) -> list[Rewrite]:
        with deep():
            return apply_rules(rules, graph, context)

    return Pass(name, run, f"Applies the rules {', '.join(rule.name for rule in rules)}.")


@contextmanager
def joined(places: Sequence[tuple[str, str | None]]) -> Iterator[None]:
    """The pipeline with a pass for each (path, rule or None for all) in front, called like the file. Raises what `load`
    raises."""
    passes: list[Pass] = []
    for path, name in places:
        called = stem = Path(path).stem
        number = 1
        while called in PASSES or called in [p.name for p in passes]:
            number += 1
            called = f"{stem}{number}"
        passes.append(as_pass(called, load(Path(path), [name] if name else ())))
    lists = (pipeline.LAYERS, pipeline.PIPELINE)
    before = [list(names) for names in lists]
    for names in lists:
        names[:0] = [p.name for p in passes]
    PASSES.update({p.name: p for p in passes})
    try:
        yield
    finally:
        for names, old in zip(lists, before):
            names[:] = old
        for p in passes:
            del PASSES[p.name]
