"""Error messages: each file in err/ holds wrong programs, with every expected error in place as a comment.

A comment `# error: E0101 3:7-3:9 message | help` under a line expects exactly that diagnostic, and nothing else may be
reported.
"""

import re
from pathlib import Path

import pytest

from dsl.diagnostics import Diagnostic
from dsl.parse import parse

FILES = sorted((Path(__file__).parent / "err").glob("*.net"))


def expectation(diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    text = (
        f"# error: {diagnostic.code} {span.line}:{span.column}-{span.end_line}:{span.end_column} {diagnostic.message}"
    )
    text += "".join(f" | note: {note.message} at {note.span.line}:{note.span.column}" for note in diagnostic.notes)
    return text + (f" | help: {diagnostic.hint}" if diagnostic.hint else "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_errors_are_those_that_the_file_expects(path):
    text = path.read_text()
    expected = re.findall(r"^# error:.*$", text, re.MULTILINE)
    _, found = parse(text, path.name)
    assert expected
    assert sorted(expectation(d) for d in found) == sorted(expected)


def test_every_syntax_code_is_expected_somewhere():
    codes = set(re.findall(r"# error: (E01[01]\d)", "".join(path.read_text() for path in FILES)))
    used = set(re.findall(r'"(E01[01]\d)"', "".join(p.read_text() for p in Path(__file__).parents[2].glob("dsl/*.py"))))
    assert used - {"E0111"} == codes  # E0111, too many errors, is in test_limits.py


def test_good_parts_around_errors_are_kept():
    text = "let a = 1\nnet f {\n  x = = 1\n  y = 2\n  z = (3\n  w = 4\n}\nnet g(3) {\n  y = = 5\n}\nlet b = 2\n"
    file, problems = parse(text, "t.net")
    assert [d.span.line for d in problems] == [3, 5, 8, 9]
    assert [d.name for d in file.declarations] == ["a", "f", "b"]
    assert [s.targets[0].name for s in file.declarations[1].body] == ["y", "w"]


def test_a_rendered_error_shows_line_caret_and_help():
    _, (problem,) = parse("net f {\n  y = x -> conv(64, stride: 2)\n}\n", "a.net")
    assert problem.render().split("\n") == [
        "error[E0101]: expected `=`, `,`, `)`, `->` or an operator after `stride`, found `:`",
        " --> a.net:2:27",
        "2 |   y = x -> conv(64, stride: 2)",
        "  |                           ^",
        "   = help: a value is given with `=`; `:` gives a type",
    ]
