"""Fuzzing, for a bounded time: whatever the text, parsing returns, and what parses formats to the same tree."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsl.format import format_file
from dsl.parse import decode, parse

CONSTRUCTS = (Path(__file__).parent / "constructs.net").read_text()
LINES = CONSTRUCTS.split("\n")
SOUP = [
    "net",
    "block",
    "data",
    "train",
    "let",
    "if",
    "else",
    "input",
    "label",
    "output",
    "loss",
    "metric",
    "layer",
    "lang",
    "import",
    "as",
    "in",
    "and",
    "or",
    "not",
    "true",
    "x",
    "f",
    "3",
    "0.5",
    "5x5",
    "80%",
    '"s"',
    '"',
    "'",
    "->",
    "**",
    "//",
    "==",
    "=",
    ":",
    ",",
    ".",
    "+",
    "-",
    "*",
    "/",
    "%",
    "<",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "\n  ",
    " ",
    "#c\n",
    "é",
    "\0",
    "\\",
    "1e999",
    "\ud800",
]
BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def survives(text: str) -> None:
    file, problems = parse(text, "fuzz.net")
    for problem in problems:
        assert problem.render() and problem.as_json()
        assert 1 <= problem.span.line <= text.count("\n") + 1
        assert (problem.span.line, problem.span.column) < (problem.span.end_line, problem.span.end_column)
    if not problems:
        printed = format_file(file, text)
        again, problems = parse(printed, "fuzz.net")
        assert not problems and again.declarations == file.declarations, printed
        assert format_file(again, printed) == printed


@BOUNDED
@given(st.binary(max_size=400))
def test_bytes(data):
    text, problem = decode(data, "fuzz.net")
    assert problem is None or problem.code == "E0124"
    survives(text)


@BOUNDED
@given(st.text(max_size=200))
def test_characters(text):
    survives(text)


@BOUNDED
@given(
    st.lists(st.sampled_from(SOUP), max_size=60),
    st.sampled_from(["", "net f {\n", "data d {\n", "net f {\n  y = "]),
    st.sampled_from(["", " "]),
)
def test_words(words, prefix, blank):
    survives(prefix + blank.join(words))


@BOUNDED
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "copy", "insert", "swap", "drop line", "copy line"]),
            st.integers(0, len(CONSTRUCTS)),
            st.integers(1, 12),
            st.sampled_from(SOUP),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_damaged_programs(damages):
    text = CONSTRUCTS
    for kind, at, length, word in damages:
        lines = text.split("\n")
        line = at % len(lines)
        match kind:
            case "cut":
                text = text[:at] + text[at + length :]
            case "copy":
                text = text[:at] + text[at : at + length] + text[at:]
            case "insert":
                text = text[:at] + word + text[at:]
            case "swap":
                text = (
                    text[:at] + text[at + length : at + 2 * length] + text[at : at + length] + text[at + 2 * length :]
                )
            case "drop line":
                text = "\n".join(lines[:line] + lines[line + 1 :])
            case "copy line":
                text = "\n".join(lines[:line] + lines[line : line + 1] + lines[line:])
    survives(text)


@BOUNDED
@given(st.lists(st.sampled_from(LINES), max_size=40))
def test_lines_in_any_order(lines):
    survives("\n".join(lines))
