"""The formatter: its output parses to the same tree, formatting is idempotent, comments and their places survive."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsl.format import format_file
from dsl.layout import PIPE_WIDTH, WIDTH
from dsl.parse import parse
from tests.dsl.trees import files

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.net"))
CONSTRUCTS = (Path(__file__).parent / "constructs.net").read_text()


def formatted(text: str) -> str:
    file, problems = parse(text, "t.net")
    assert not problems, "\n".join(p.render() for p in problems) + "\n" + text
    return format_file(file, text)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(files)
def test_parse_of_format_is_the_same_tree(file):
    text = format_file(file, "")
    again, problems = parse(text, "t.net")
    assert not problems, "\n".join(p.render() for p in problems) + "\n" + text
    assert again == file, text
    assert format_file(again, text) == text


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files, st.randoms(use_true_random=False))
def test_any_layout_and_any_comments_format_to_a_fixed_point(file, chance):
    text = disturbed(format_file(file, ""), chance)
    once, problems = parse(text, "t.net")
    assert not problems and once == file, text
    first = format_file(once, text)
    twice, problems = parse(first, "t.net")
    assert not problems and twice == file, first
    assert sorted(c for c, _ in twice.comments) == sorted(c for c, _ in once.comments), text + first
    assert format_file(twice, first) == first, text


def disturbed(text: str, chance: random.Random) -> str:
    """Comments, blank lines and line breaks put wherever the language lets a line end."""
    out, number, brackets = [], 0, 0
    for piece in re.findall(r'"(?:[^"\\\n]|\\.)*"|\n|->|[({\[,=]|[])]|[^"\n({\[,=\])-]+|-', text):
        brackets += (piece in "([") - (piece in ")]") if len(piece) == 1 else 0
        if piece == "->" and chance.random() < 0.2:
            number += 1
            out.append(chance.choice(["\n", f" # c{number}\n", f"\n  # c{number}\n\n"]))
        out.append(piece)
        if piece in ("(", "[", "{", ",", "\n") and chance.random() < 0.2:
            number += 1
            out.append(chance.choice(["\n", f" # c{number}\n", f"\n\n # c{number}\n", "\n\n\n"]))
    return "".join(out)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_specs_keep_tree_and_comments(path):
    text = path.read_text()
    before, _ = parse(text, path.name)
    once = formatted(text)
    after, _ = parse(once, path.name)
    assert after.declarations == before.declarations
    assert [c for c, _ in after.comments] == [c for c, _ in before.comments]
    assert formatted(once) == once


def test_constructs_are_written_canonically_already():
    assert formatted(CONSTRUCTS) == CONSTRUCTS


@pytest.mark.parametrize(
    "text, expected",
    [
        ("net f{y=1}", "net f {\n  y = 1\n}\n"),
        ("net f() {}", "net f {}\n"),
        ("block f()->y{}", "block f() -> y {}\n"),
        ("net f {\n  y = ((a)+((b*c)))*(d) - (-(e))\n}", "net f {\n  y = (a + b * c) * d - -e\n}\n"),
        ("net f {\n  y = (a - (b - c)) - d\n}", "net f {\n  y = a - (b - c) - d\n}\n"),
        ("net f {\n  y = not (a and b) or (not c)\n}", "net f {\n  y = not (a and b) or not c\n}\n"),
        ("net f {\n  y = scale(1 / 255, 80%, 7%2)\n}", "net f {\n  y = scale(1/255, 80%, 7 % 2)\n}\n"),
        (
            "net f {\n  y: f32[N,C * 2,H / 2 + 1,(A+B)*3] = x\n}",
            "net f {\n  y: f32[N, C*2, H/2 + 1, (A + B)*3] = x\n}\n",
        ),
        ("net f {\n  y = x->a:conv(64,)**3->relu\n}", "net f {\n  y = x -> a: conv(64) ** 3 -> relu\n}\n"),
        ("net f {\n  y = ((a -> f), b)->g(x->h)\n}", "net f {\n  y = (a -> f, b) -> g(x -> h)\n}\n"),
        ("net f {\n  y = (a -> f) -> g\n}", "net f {\n  y = (a -> f) -> g\n}\n"),
        ("net f {\n  y = .5 + 5. + 1E3\n}", "net f {\n  y = 0.5 + 5.0 + 1E3\n}\n"),
        ('net f {\n  y = "\\u{41}\\t"\n}', 'net f {\n  y = "\\u{41}\\t"\n}\n'),
        (
            "net f {\n  if a{y=1}\n  else if b{y=2}\n  else{y=3}\n}",
            "net f {\n  if a {\n    y = 1\n  } else if b {\n    y = 2\n  } else {\n    y = 3\n  }\n}\n",
        ),
        ("rule f(x:tensor,){x->relu=>x when a==1}", "rule f(x: tensor) { x -> relu => x when a == 1 }\n"),
        ("rule f(){x * 2=>\ny * 3 \nwhen a}", "rule f() {\n  x * 2\n    => y * 3\n    when a\n}\n"),
        ("rule f(){(a,b)=>(b,a)}\nrule g(){a=>b}", "rule f() { (a, b) => (b, a) }\nrule g() { a => b }\n"),
        ("data d {a=1,b=2\n\n\n\n  c=3,\n  d=4 }", "data d {\n  a = 1, b = 2\n\n  c = 3\n  d = 4\n}\n"),
        (
            "let a=1\nlet b=2\n\n\nlet c=3\nnet f{}\nnet g{}",
            "let a = 1\nlet b = 2\n\nlet c = 3\n\nnet f {}\n\nnet g {}\n",
        ),
        ("net f {\n  y = x -> a\n    -> b\n}", "net f {\n  y = x -> a\n    -> b\n}\n"),
        ("net f {\n  w = [\n [1,\n2],\n  [3]\n]\n}", "net f {\n  w = [\n    [1,\n      2],\n    [3]\n  ]\n}\n"),
        (
            "net f { # a\n  # b\n\n  y = g( # c\n  3) # d\n  # e\n} # f\n# g\n",
            "net f {  # a\n  # b\n\n  y = g(  # c\n    3)  # d\n  # e\n}  # f\n# g\n",
        ),
        ("net f {\r\n  y = 1 # a\r\n}\r\n", "net f {\n  y = 1  # a\n}\n"),
    ],
)
def test_style(text, expected):
    assert formatted(text) == "lang 1\n\n" + expected


def test_an_empty_file_gets_its_first_line():
    assert formatted("") == "lang 1\n"


def test_comments_around_the_first_line_stay():
    text = "# Licence\n\nlang 1  # the first\n# a net\n\nnet f {}\n"
    assert formatted(text) == "# Licence\n\nlang 1  # the first\n\n# a net\n\nnet f {}\n"


def test_long_lines_break_before_arrows_and_then_inside_brackets():
    stages = " -> ".join(f"convolution_number_{i}(64, 3x3)" for i in range(9))
    values = ", ".join(f"a_rather_long_argument_{i} = {i}" for i in range(9))
    text = formatted(f"net f {{\n  y = x -> {stages}\n  z = g({values})\n}}\n")
    assert max(len(line) for line in text.split("\n") if "->" in line) <= PIPE_WIDTH
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert re.search(r"\n    -> convolution_number_\d", text)
    assert re.search(r"\n    a_rather_long_argument_\d = \d, a_rather", text)
