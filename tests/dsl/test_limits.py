"""Malformed, binary, huge and deep inputs: each ends in a coded diagnostic, never in an exception."""

import os

import pytest

from dsl.format import format_file
from dsl.lexer import MAX_DEPTH, MAX_DIAGNOSTICS
from dsl.parse import MAX_BYTES, parse, read
from dsl.tree import File


def codes(text: str) -> list[str]:
    return [d.code for d in parse(text, "t.net")[1]]


def test_a_thousand_errors_are_all_reported_in_one_pass():
    lines = "".join(f"  y{i} = x -> conv({i}, -> relu\n  z{i} = {i}\n" for i in range(1000))
    file, problems = parse(f"net f {{\n{lines}}}\n", "t.net")
    assert [d.span.line for d in problems] == list(range(2, 2002, 2))
    assert [s.targets[0].name for s in file.declarations[0].body] == [f"z{i}" for i in range(1000)]
    assert all(d.render() for d in problems)


def test_ten_thousand_lines_parse_and_format():
    text = "net f {\n" + "".join(f"  y{i} = x -> conv({i}, 3x3, pad = same) -> relu\n" for i in range(10_000)) + "}\n"
    file, problems = parse(text, "t.net")
    assert not problems and len(file.declarations[0].body) == 10_000
    assert format_file(file, text) == "lang 1\n\n" + text


@pytest.mark.parametrize("line", ["y = = 3\n", "é = 3\n", "}\n", ")\n"])
def test_there_is_an_end_to_reporting(line):
    problems = parse(line * 5000, "t.net")[1]
    assert len(problems) == MAX_DIAGNOSTICS + 1
    assert problems[-1].code == "E0111"


@pytest.mark.parametrize(
    "deep",
    [
        "y = " + "(" * 3000 + "x" + ")" * 3000,
        "y = " + "f(" * 3000 + ")" * 3000,
        "y = " + "[" * 3000,
        "y = " + "-" * 3000 + "x",
        "y = " + "not " * 3000 + "x",
        "y = x" + " + x" * 3000,
        "if a {\n" * 3000 + "}\n" * 3000,
        "if a {}" + " else if b {}" * 3000,
        "x: f32[" + "-" * 3000 + "N] = y",
        "y = " + "x -> f(" * 3000 + ")" * 3000,
        "y = " + "x -> f ** [" * 3000,
    ],
)
def test_nesting_has_a_limit(deep):
    assert codes(f"net f {{\n{deep}\n}}\n")[0] == "E0108"


@pytest.mark.parametrize(
    "begin, end, count",
    [
        ("(a -> f(b -> s: g(k = ", ")))", MAX_DEPTH // 6 - 1),
        ("a -> f(", ")", MAX_DEPTH // 2 - 2),
        ("a -> f ** [b = ", "]", MAX_DEPTH // 2 - 2),
        ("a -> f(-", ")", MAX_DEPTH // 3 - 2),
        ("not ", "", MAX_DEPTH - 4),
        ("a + ", "", MAX_DEPTH - 4),
    ],
)
def test_what_is_just_allowed_can_be_walked_by_everything(begin, end, count):
    text = f"net f {{\n  y = {begin * count}z{end * count}\n}}\n"
    file, problems = parse(text, "t.net")
    assert not problems
    assert parse(format_file(file, text), "t.net")[0].declarations == file.declarations
    assert repr(file) and hash(file)


def test_long_chains_that_do_not_nest_have_no_limit():
    stages, items, statements = " -> relu" * 3000, ", ".join(["a + b"] * 3000), "if a {\n}\n" * 3000
    assert codes(f"net f {{\n  y = x{stages}\n  z = [{items}]\n{statements}}}\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "(" * 400_000,
        "{" * 400_000,
        '"' * 400_000,
        "a " * 400_000,
        "if a {\n" * 100_000,
        "1x" * 400_000,
        "\\" * 400_000,
        "-" * 400_000,
        "a" * 2_000_000,
        "#" * 2_000_000,
        "\x00" * 100_000,
        "\n" * 500_000,
    ],
)
def test_large_rubbish_is_refused_briefly(text):
    problems = parse(text, "t.net")[1]
    assert len(problems) <= MAX_DIAGNOSTICS + 1
    assert all(len(d.render()) < 1000 for d in problems)
    assert problems or text[0] in "#\n"


def test_more_words_than_a_person_writes(monkeypatch):
    monkeypatch.setattr("dsl.lexer.MAX_TOKENS", 10_000)
    text = "net f {\n  x = 1\n  y = [" + "1, " * 5000 + "1]\n}\n"
    file, problems = parse(text, "t.net")
    assert [d.code for d in problems] == ["E0123"] and len(file.declarations[0].body) == 1


def test_long_numbers_are_refused_not_computed():
    assert codes("let a = " + "9" * 100_000) == ["E0107"]
    assert codes("let a = 1x" + "9" * 100_000) == ["E0107"]
    assert codes("let a = 1." + "9" * 100_000) == ["E0107"]


def test_a_megabyte_line_is_shown_in_part():
    problem = parse("let a = " + "b + " * 20 + "x" * 1_000_000 + " = 3", "t.net")[1][0]
    assert len(problem.render()) < 1000


# --- files -----------------------------------------------------------------------------------------------------------


def refused(path) -> tuple[str, str | None]:
    file, (problem,) = read(path)
    assert isinstance(file, File) and file.declarations == ()
    assert problem.render().startswith(f"error[{problem.code}]: ")
    return problem.code, problem.hint


def test_read_parses_a_file(tmp_path):
    path = tmp_path / "a.net"
    path.write_bytes(b"\xef\xbb\xbflet a = 1 # \xe2\x82\xac\r\nlet b =\r\n")
    file, problems = read(path)
    assert [d.name for d in file.declarations] == ["a"]
    assert [(d.code, d.span.place) for d in problems] == [("E0101", f"{path}:2:8")]


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "digits.net").write_text("")
    assert refused(tmp_path / "digit.net") == ("E0120", "did you mean `digits.net`?")
    assert refused(tmp_path / "nowhere" / "x.net") == ("E0120", None)
    assert refused(tmp_path / "digits.net" / "x.net")[0] in ("E0120", "E0122")
    assert refused("bad\0name.net")[0] == "E0122"


def test_a_directory(tmp_path):
    assert refused(tmp_path)[0] == "E0121"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "a.net"
    path.write_text("")
    path.chmod(0)
    assert refused(path)[0] == "E0122"


@pytest.mark.parametrize(
    "data", [b"lang 1\n\x00", b"\xff\xfel\x00", b"let a = \xe9\n", bytes(range(256)) * 10, b"\x7fELF\x02"]
)
def test_what_is_no_text(tmp_path, data):
    path = tmp_path / "a.net"
    path.write_bytes(data)
    problems = read(path)[1]
    assert problems[0].code in ("E0124", "E0103") and all(d.render() for d in problems)


def test_a_huge_file_is_not_read_whole(tmp_path):
    path = tmp_path / "a.net"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no space
    assert refused(path)[0] == "E0123"
    path.write_bytes(b"#" * MAX_BYTES)
    assert read(path)[1] == []


def test_a_pipe_is_read_like_a_file(tmp_path):
    path = tmp_path / "pipe.net"
    os.mkfifo(path)
    if os.fork() == 0:
        path.write_bytes(b"let a = 1")
        os._exit(0)
    file, problems = read(path)
    os.wait()
    assert not problems and len(file.declarations) == 1
