"""Testing rules: that both sides have one type and make the same numbers, and that a set of rules comes to an end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler.elaborate.report import Failed, Report
from compiler.elaborate.values import Typed, show
from compiler.interpret import relative_error, run
from compiler.ir import Graph, attrs_key
from compiler.rules.instances import Instance, instances
from compiler.rules.match import Zero, matches
from compiler.rules.replace import put, replacement
from compiler.rules.rule import Rule
from dsl.diagnostics import Diagnostic, Note

TOLERANCE = 1e-6  # relative: all is computed in float64, but numbers that a rule writes are stored as f32
SAMPLES = 100     # nets that `netc rule check` tests a rule on
QUICK = 5         # those that a rule is tried on before it is applied, for its types
STEPS = 30        # rewrites of a rule's own sides without an end


@dataclass(frozen=True)
class Tested:
    """What came of testing a rule: on how many nets, and the largest relative error."""

    rule: Rule
    samples: int
    error: float
    wrong: bool


def check_types(report: Report, rule: Rule, count: int = QUICK) -> list[Instance]:
    """Makes the replacement for a few nets; what is wrong with it, types above all, goes to the report. Returns the
    nets."""
    found = []
    for instance in instances(rule, report, count):
        after(report, instance)
        if report.errors:
            return []
        found.append(instance)
    if not found and not report.errors:
        report.error("E0446", f"no net was found that `{rule.name}` matches: it cannot be tested", rule.tree.span,
                     "can dims, arguments and the condition hold together?")
    return found


def after(report: Report, instance: Instance) -> Graph | None:
    """The net of an instance with the rule applied."""
    mine = Report()
    try:
        new = replacement(instance.graph, instance.match, mine)
    except Failed:
        for problem in mine.errors:
            report.add(replace(problem, notes=(*problem.notes, Note(f"in the rule `{instance.match.rule.name}`, for "
                                                                    f"{shapes(instance)}"))))
        return None
    graph = instance.graph.copy()
    put(graph, instance.match, new)
    return graph


def check_numbers(report: Report, rule: Rule, count: int = SAMPLES, seed: int = 1) -> Tested:
    """Compares both sides on `count` random nets; the smallest counterexample goes to the report (E0444)."""
    worst, samples, wrong = 0.0, 0, []
    for instance in instances(rule, report, count, seed):
        graph = after(report, instance)
        if graph is None:
            return Tested(rule, samples, worst, True)
        samples += 1
        error = difference(instance, graph)
        worst = max(worst, error)
        if not error <= TOLERANCE:
            wrong.append((instance, graph))
    if report.errors:
        return Tested(rule, samples, worst, True)
    if not samples:
        check_types(report, rule, 1)
    elif wrong:
        report.add(counterexample(*min(wrong, key=lambda pair: pair[0].size)))
    return Tested(rule, samples, worst, bool(wrong) or not samples)


def difference(instance: Instance, graph: Graph) -> float:
    """The largest relative error of the rewritten net's results, in float64."""
    before, now = values(instance, instance.graph), values(instance, graph)
    return max(relative_error(before[key], now[key]) for key in before)


def values(instance: Instance, graph: Graph) -> dict[str, np.ndarray]:
    """The results of a net on an instance's numbers."""
    with np.errstate(all="ignore"):
        made = run(graph, instance.arrays, instance.arrays, "float64")
    return {key: made[name] for key, name in graph.outputs.items()}


def counterexample(instance: Instance, graph: Graph) -> Diagnostic:
    """The diagnostic of a rule that is wrong: shapes, values, what both sides make of them."""
    instance = _rounded(instance, graph)
    before, now = values(instance, instance.graph), values(instance, graph)
    key = max(before, key=lambda k: relative_error(before[k], now[k]))
    left, right = before[key].astype("float64"), now[key].astype("float64")
    with np.errstate(all="ignore"):
        off = np.abs(left - right)
    off = np.where(np.isnan(left) != np.isnan(right), np.inf, np.nan_to_num(off, nan=0.0, posinf=np.inf))
    at = np.unravel_index(int(off.argmax()), off.shape) if off.shape else ()
    rule = instance.match.rule
    notes = [Note(f"for {shapes(instance)}")]
    notes += [Note(f"{name} = {_shown(array)}") for name, array in instance.arrays.items()]
    notes += [Note(f"the pattern makes {_shown(left)}"), Note(f"the replacement makes {_shown(right)}"),
              Note(f"max error {off.max():.3g}" + (f", at [{', '.join(map(str, at))}]: {left[at]:.6g} became "
                                                   f"{right[at]:.6g}" if off.shape else ""))]
    return Diagnostic("E0444", f"`{rule.name}` changes what is computed", rule.tree.span,
                      "a condition behind `when` can keep it from where it is wrong", tuple(notes))


def _rounded(instance: Instance, graph: Graph) -> Instance:
    """The same with numbers that are easier to read, if they show it too."""
    for decimals in (0, 1):
        simpler = replace(instance, arrays={k: np.round(v, decimals) for k, v in instance.arrays.items()})
        if not difference(simpler, graph) <= 1e-3:
            return simpler
    return instance


def _shown(array: np.ndarray) -> str:
    return " ".join(np.array2string(array + 0.0, precision=4, threshold=24, edgeitems=2, separator=", ").split())


def shapes(instance: Instance) -> str:
    """`x: f32[2, 3], s = 1x1`: what a match has bound."""
    found, shown = instance.match, []
    for name, parameter in found.rule.parameters.items():
        if not parameter.is_tensor:
            shown.append(f"{name} = {_plain(found.values[name])}")
        elif isinstance(found.tensors[name], Zero):
            shown.append(f"no {name}")
        else:
            shown.append(f"{name}: {found.type(instance.graph, name)}")
    for call, name in found.calls:
        attrs = instance.graph[name].attrs
        shown.append(f"{call.op.name}({', '.join(f'{k} = {_plain(v)}' for k, v in attrs.items())})") if attrs else None
    return ", ".join(shown)


def _plain(value: Any) -> str:
    value = value.value if isinstance(value, Typed) else value
    nested = isinstance(value, tuple) and (any(isinstance(item, (tuple, float)) for item in value) or len(value) < 2)
    return "[" + ", ".join(map(_plain, value)) + "]" if nested else show(value)


# --- sets of rules that come to no end -------------------------------------------------------------------------------

def check_ends(report: Report, rules: Sequence[Rule], found: Callable[[Rule], Sequence[Instance]]) -> None:
    """Applies a set of rules, whatever they cost, to what each of them makes: rules that lead back to where they began,
    or that never stop, are E0445. `found` gives a few instances of a rule."""
    told: set[frozenset[str]] = set()
    for rule in rules:
        for instance in found(rule):
            graph = after(Report(), instance)
            used = cycle(rules, rule, instance, graph) if graph is not None else None
            if used is None or frozenset(used) in told:
                continue
            told.add(frozenset(used))
            names = " and ".join(f"`{name}`" for name in dict.fromkeys(used))
            if len(set(used)) == 1:
                message = f"the rule {names} applies to what it makes, without end"
            else:
                message = f"the rules {names} undo each other: they could be applied without end"
            report.error("E0445", message, rule.tree.span,
                         "give one of them a condition that the other breaks, behind `when`", [Note(f"for {shapes(instance)}")])


def cycle(rules: Sequence[Rule], rule: Rule, instance: Instance, graph: Graph) -> list[str] | None:
    """The names of the rules that go round from an instance of `rule` on; None where they come to an end."""
    seen = [form(instance.graph), form(graph)]
    used = [rule.name]
    for _ in range(STEPS):
        name = step(rules, graph)
        if name is None:
            return None
        used.append(name)
        now = form(graph)
        if now in seen:
            return used[seen.index(now):]
        seen.append(now)
    return used[-3:]


def step(rules: Sequence[Rule], graph: Graph) -> str | None:
    """Applies the first rule that matches anywhere; its name."""
    for rule in rules:
        for node in graph.sorted():
            for found in matches(rule, graph, node.name) if node.op == rule.roots[0].op.name else ():
                try:
                    put(graph, found, replacement(graph, found))
                except Failed:
                    continue
                return rule.name
    return None


def form(graph: Graph) -> Hashable:
    """Equal for graphs that compute the same in the same way, whatever their nodes are called."""
    numbers: dict[str, Any] = {}
    known: dict[Hashable, int] = {}
    for node in graph.sorted():
        key = (node.op, tuple(numbers[i] for i in node.inputs), attrs_key(node) if node.inputs else
               node.name if node.op != "constant" else attrs_key(node))
        numbers[node.name] = known.setdefault(key, len(known))
    wanted = tuple(numbers[name] for name in graph.outputs.values())
    by_number = {number: key for key, number in known.items()}

    def tell(number: int) -> Hashable:
        op, inputs, rest = by_number[number]
        return op, tuple(map(tell, inputs)), rest

    return tuple(map(tell, wanted))
