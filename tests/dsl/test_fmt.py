"""The verb `netc fmt`, and that every code of this room is explained."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from netc.verbs.fmt import command

ROOT = Path(__file__).parents[2]
UGLY, NEAT = "net  f{\n y=x->relu # é\n}", "lang 1\n\nnet f {\n  y = x -> relu  # é\n}\n"


def fmt(*arguments, text: str | bytes | None = None):
    return CliRunner().invoke(command, [str(a) for a in arguments], input=text)


@pytest.fixture
def ugly(tmp_path):
    path = tmp_path / "ugly.net"
    path.write_text(UGLY, encoding="utf-8")
    return path


def test_files_are_formatted_in_place(ugly):
    ugly.chmod(0o640)
    result = fmt(ugly)
    assert (result.exit_code, result.output) == (0, "")
    assert ugly.read_text(encoding="utf-8") == NEAT
    assert ugly.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in ugly.parent.iterdir()] == ["ugly.net"]
    before = ugly.stat().st_mtime_ns
    assert fmt(ugly).exit_code == 0 and ugly.stat().st_mtime_ns == before


def test_check_writes_nothing(ugly):
    result = fmt("--check", ugly)
    assert result.exit_code == 1 and f"{ugly} would change" in result.output
    assert ugly.read_text(encoding="utf-8") == UGLY
    fmt(ugly)
    assert (fmt("--check", ugly).exit_code, fmt("--check", ugly).output) == (0, "")


def test_diff_shows_and_writes_nothing(ugly):
    result = fmt("--diff", ugly)
    assert result.exit_code == 0
    assert "-net  f{\n" in result.output and "+net f {\n" in result.output
    assert ugly.read_text(encoding="utf-8") == UGLY
    assert fmt("--diff", "--check", ugly).exit_code == 1


def test_standard_input_goes_to_standard_output():
    result = fmt("-", text=UGLY)
    assert (result.exit_code, result.output) == (0, NEAT)
    assert fmt("-", "--check", text=UGLY).exit_code == 1
    assert fmt("-", "--check", text=NEAT).exit_code == 0
    assert "error[E0124]" in fmt("-", text=b"\xff\xfe").output


def test_a_file_with_errors_is_reported_and_left_alone_and_others_are_formatted(ugly):
    bad = ugly.parent / "bad.net"
    bad.write_text("net f {\n  y = = 3\n}\n")
    result = fmt(bad, ugly.parent / "missing.net", ugly)
    assert result.exit_code == 1
    assert f"--> {bad}:2:7" in result.output and "error[E0101]" in result.output and "error[E0120]" in result.output
    assert bad.read_text() == "net f {\n  y = = 3\n}\n"
    assert ugly.read_text(encoding="utf-8") == NEAT


def test_a_link_stays_a_link(ugly):
    link = ugly.parent / "link.net"
    link.symlink_to(ugly)
    assert fmt(link).exit_code == 0
    assert link.is_symlink() and ugly.read_text(encoding="utf-8") == NEAT


def test_what_cannot_be_written_is_said(ugly, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("netc.verbs.fmt.os.replace", refuse)
    result = fmt(ugly)
    assert result.exit_code == 1 and "error[E0125]" in result.output
    assert ugly.read_text(encoding="utf-8") == UGLY
    assert [p.name for p in ugly.parent.iterdir()] == ["ugly.net"]


def test_help_has_an_example():
    assert "netc fmt specs/digits.net" in fmt("--help").output
    assert fmt().exit_code == 2


def test_every_code_is_explained():
    sources = [*ROOT.glob("dsl/*.py"), ROOT / "netc/verbs/fmt.py"]
    used = set(re.findall(r'"(E01\d\d)"', "".join(path.read_text() for path in sources)))
    explained = re.findall(r"^## (E01\d\d) \S", (ROOT / "netc/errors.d/dsl.md").read_text(), re.MULTILINE)
    assert len(explained) == len(set(explained)) and set(explained) == used
