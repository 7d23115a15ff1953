"""Rules that are wrong: each mistake has its code, its place and, where it changes numbers, a counterexample."""

from __future__ import annotations

import re

import pytest

from compiler import rules
from compiler.elaborate import check
from dsl.diagnostics import DiagnosticError
from netc.verbs.explain import pages

WRONG = {  # rule: code, and the text under the carets
    "rule f(x: tensor) { x -> relux => x }": ("E0203", "relux"),
    "rule f(x: tensor) { x -> relu => x -> rulex }": ("E0203", "rulex"),
    "rule f(x: tensor) { x -> relu => x -> g.block }": ("E0204", "g.block"),
    "rule f(x: tensor) { x -> relu -> relu => y -> relu }": ("E0201", "y"),
    "rule f(x: tensor) { x -> relu -> relu => x -> relu when n == 1 }": ("E0201", "n"),
    "rule f(x: tensor) { y -> relu => y }": ("E0201", "y"),
    "rule f(x: tensor) { x -> concat(x, axis = chanel) => concat(x, x) }": ("E0201", "chanel"),
    "rule f(x: tensor, y: tensor) { x -> relu -> relu => y -> relu }": ("E0442", "y: tensor"),
    "rule f(x: tensor, n: int) { x -> relu -> relu => x -> relu }": ("E0442", "n: int"),
    "rule f(x: tensor[N*2, C]) { x -> relu -> relu => x -> relu }": ("E0442", "N"),
    "rule f(x: tensor, b: weight[B] = 0) { x -> dense(bias = b) -> relu => x -> relu }": ("E0442", "B"),
    "rule f(x: tensor) { x -> max_pool(kernel = 2) => x }": ("E0420", "kernel = 2"),
    "rule f(x: tensor) { x -> relu => x -> max_pool(2, strid = 1) }": ("E0420", "strid = 1"),
    "rule f(x: tensor) { x -> max_pool(2, k = 2) => x }": ("E0421", "k = 2"),
    "rule f(x: tensor) { x -> relu(2) => x }": ("E0421", "2"),
    "rule f(x: tensor) { relu() => x }": ("E0421", "relu()"),
    "rule f(x: tensor, y: tensor) { (x, y) -> relu => x }": ("E0421", "relu"),
    "rule f(x: tensor) { x -> dense => x -> dense(5) }": ("E0421", "dense(5)"),
    "rule f(x: tensor) { x => x -> relu }": ("E0441", "x"),
    "rule f(x: tensor) { (x -> relu, x) => (x, x) }": ("E0441", "x"),
    "rule f(x: tensor) { x -> b => x }\nblock b(x: tensor) -> y { y = x -> relu }": ("E0441", "b"),
    "rule f(x: tensor) { x -> split(2) => x }": ("E0441", "split"),
    "rule f(x: tensor) { x -> relu ** 2 => x -> relu }": ("E0441", "2"),
    "rule f(x: tensor) { x % 2 => x }": ("E0441", "x % 2"),
    "rule f(x: tensor) { 1 + 2 => x }": ("E0441", "1 + 2"),
    "rule f(x: tensor, a: float) { a -> relu => x }": ("E0423", "a"),
    "rule f(x: tensor, n: int) { x -> leaky_relu(n) => x }": ("E0423", "n"),
    "rule f(x: tensor, s: dims) { x * s => x }": ("E0423", "s"),
    "rule f(x: tensor) { x -> dense(bias = true) => x }": ("E0423", "bias = true"),
    "rule f(x: tensor) { x -> max_pool(pad = \"a\") => x }": ("E0423", '"a"'),
    "rule f(x: tensr) { x -> relu => x }": ("E0205", "tensr"),
    "rule f(x: tensr[N]) { x -> relu => x }": ("E0205", "tensr[N]"),
    "rule f(x = 0) { x -> relu => x }": ("E0205", "x = 0"),
    "rule f(x: tensor, n: int = 3) { x -> relu => x }": ("E0205", "3"),
    "rule f(x: tensor, x: tensor) { x -> relu => x }": ("E0202", "x: tensor"),
    "rule f(x: tensor) { x -> relu: tanh => x -> relu }": ("E0202", "tanh"),
    "rule f(x: tensor) { x -> x: tanh => x }": ("E0202", "tanh"),
    "rule f(x: tensor) { x -> l: relu -> l: tanh => x -> l }": ("E0202", "tanh"),
    "let k = 3\nrule f(k: tensor) { k -> relu => k }": ("E0202", "k: tensor"),
    "rule f(x: tensor) { x -> relu -> relu => x -> relu }\nrule f(x: tensor) { x -> abs -> abs => x -> abs }":
        ("E0202", "rule f(x: tensor) { x -> abs -> abs => x -> abs }"),
    "rule f(x: tensor, a: float) { x -> leaky_relu(a) => x -> relu when a }": ("E0424", "a"),
    "rule f(x: tensor) { x -> relu -> relu => x -> relu when x == 1 }": ("E0422", "x"),
    "rule f(x: tensor) { x -> relu => 3 }": ("E0422", "3"),
    "rule f(x: tensor) { x -> max_pool => x -> relu }": ("E0443", "x -> relu"),
    "rule f(x: tensor) { (x -> relu, x -> tanh) => x -> relu }": ("E0443", "x -> relu"),
    "rule f(x: tensor) { x -> relu => (x -> relu, x) }": ("E0443", "(x -> relu, x)"),
    "rule f(x: tensor) { x -> relu -> relu => x -> flatten -> relu }": ("E0443", "x -> flatten -> relu"),
    "rule f(x: tensor, s: dims) { x -> max_pool(stride = s) => x when s == 99 }":
        ("E0446", "rule f(x: tensor, s: dims) { x -> max_pool(stride = s) => x when s == 99 }"),
    "rule f(x: tensor, w: weight, b: weight) { x -> dense(weight = w, bias = b) => x -> dense(weight = w, bias = w) }":
        ("E0447", "w"),
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:60])
def test_mistakes(text):
    code, place = WRONG[text]
    with pytest.raises(DiagnosticError) as problem:
        rules.load("lang 1\n" + text)
    first = problem.value.diagnostics[0]
    assert first.code == code and code in pages(), problem.value
    line = first.span.source.line(first.span.line)
    assert line[first.span.column - 1:first.span.end_column - 1] == place
    assert code in {d.code for d in check("lang 1\n" + text)}


def test_all_mistakes_of_a_file_come_at_once():
    chosen = [rule for rule, (code, _) in WRONG.items() if code in ("E0203", "E0443", "E0201", "E0446")]
    text = "\n".join(rule.replace("rule f", f"rule f{number}") for number, rule in enumerate(chosen))
    with pytest.raises(DiagnosticError) as problem:
        rules.load("lang 1\n" + text)
    assert len({d.span.line for d in problem.value.diagnostics}) == len(text.splitlines())


def test_names_of_rules():
    text = "lang 1\nrule one(x: tensor) { x -> relu -> relu => x -> relu }\nrule two(x: tensor) { -(-x) => x }\n"
    assert [rule.name for rule in rules.load(text)] == ["one", "two"]
    assert [rule.name for rule in rules.load(text, ["two"])] == ["two"]
    for names, source in ([["too"], text], [[], "lang 1\nlet a = 1\n"]):
        with pytest.raises(DiagnosticError) as problem:
            rules.load(source, names)
        assert [d.code for d in problem.value.diagnostics] == ["E0440"]


CYCLES = {
    "rule f(a: tensor, b: tensor) { a - b => -(b - a) }": ["f"],
    "rule f(x: tensor) { x -> tanh => x -> neg -> tanh -> neg }": ["f"],
    "rule f(x: tensor) { x -> relu -> p: max_pool => x -> p -> relu }\n"
    "rule g(x: tensor) { x -> p: max_pool -> relu => x -> relu -> p }": ["f", "g"],
    "rule f(x: tensor) { x -> square => x * x }\nrule g(x: tensor) { x * x => x -> abs -> square }\n"
    "rule h(x: tensor) { x -> abs -> square => x -> square }": ["f", "g", "h"],
}


@pytest.mark.parametrize("text", CYCLES, ids=lambda text: f"{text.count('rule')} rules")
def test_rules_without_end_are_named(text):
    with pytest.raises(DiagnosticError) as problem:
        rules.load("lang 1\n" + text)
    assert {d.code for d in problem.value.diagnostics} == {"E0445"}
    assert set(re.findall(r"`(\w)`", problem.value.diagnostics[0].message)) <= set(CYCLES[text])


@pytest.mark.parametrize("text", [
    "rule f(x: tensor) { x -> relu -> p: max_pool => x -> p -> relu }",
    "rule f(x: tensor, s: dims) { x -> relu -> p: max_pool(stride = s) => x -> p -> relu when s != 1 }\n"
    "rule g(x: tensor, s: dims) { x -> p: max_pool(stride = s) -> relu => x -> relu -> p when s == 1 }",
])
def test_conditions_bring_rules_to_an_end(text):
    assert rules.load("lang 1\n" + text)


NUMBERS = {  # rules that are wrong for some nets only
    "rule f(x: tensor) { x -> relu -> p: avg_pool => x -> p -> relu }": "avg_pool",
    "rule f(x: tensor) { x -> leaky_relu -> relu => x -> leaky_relu }": "leaky_relu",
    "rule f(x: tensor, a: float) { x -> f: leaky_relu(a) -> p: max_pool => x -> p -> f }": "a = -",
    "rule f(x: tensor, w: weight[O, I, H, W], s: weight[O, 1, 1]) {"
    " (x -> l: conv(weight = w)) * s => x -> l(weight = w * (s -> reshape([O, 1, 1, 1]))) }": "conv",  # the bias
    "rule f(x: tensor, m: weight, d: weight, w: weight[O, I, H, W], b: weight = 0) {"
    " x -> normalize(m, d) -> l: conv(weight = w, bias = b, groups = 1)"
    " => x -> l(weight = w / (d -> reshape([1, I, 1, 1])), bias = b - (w * (m / d -> reshape([1, I, 1, 1]))"
    " -> sum(axes = [1, 2, 3]))) }": "pad = [",  # the border
    "rule f(x: tensor) { sqrt(x) * sqrt(x) => x }": "f32",
    "rule f(x: tensor, w: weight[O, I], g: weight, t: weight, m: weight, v: weight) {"
    " x -> dense(weight = w, bias = false) -> batch_norm(weight = g, bias = t, running_mean = m, running_var = v)"
    " => x -> dense(weight = w * (g * rsqrt(v) -> reshape([O, 1])), bias = t - m * g * rsqrt(v)) }": "eps",
}


@pytest.mark.parametrize("text", NUMBERS, ids=lambda text: text[:70])
def test_a_rule_that_changes_numbers_is_refused_with_a_counterexample(text):
    (problem,) = rules.test("lang 1\n" + text)
    assert problem.code == "E0444" and problem.span.line == 2
    notes = [note.message for note in problem.notes]
    assert notes[0].startswith("for x: f32[") and NUMBERS[text] in notes[0], notes[0]
    assert any(note.startswith("x = [") for note in notes)
    assert [note.split()[1] for note in notes if " makes " in note] == ["pattern", "replacement"]
    error = float(re.match(r"max error (\S+?),? ", notes[-1] + " ")[1].rstrip(","))
    assert error > 1e-6


def test_the_counterexample_is_small_and_its_numbers_are_plain():
    (problem,) = rules.test("lang 1\nrule f(x: tensor) { x -> relu -> p: avg_pool => x -> p -> relu }")
    numbers = next(note.message for note in problem.notes if note.message.startswith("x = "))
    assert len(numbers) < 120 and not re.search(r"\d\.\d\d", numbers)


def test_a_right_rule_is_told_how_right_it_is():
    told = []
    text = "lang 1\nrule f(x: f32[N, C], a: float, b: float) { x * a * b => x * (a * b) }"
    assert rules.test(text, samples=30, observe=told.append) == []
    assert (told[0].samples, told[0].wrong) == (30, False) and told[0].error < 1e-12


def test_tests_repeat():
    text = "lang 1\nrule f(x: tensor) { sqrt(x) * sqrt(x) => x }"
    first, again = (rules.test(text, seed=3)[0].render() for _ in range(2))
    assert first == again
