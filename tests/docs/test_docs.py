"""Everything that the documents say and a machine can check."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.elaborate import check, load
from compiler.elaborate.apply import MAX_NODES
from compiler.elaborate.body import MAX_DEPTH
from compiler.elaborate.expressions import AXES
from compiler.elaborate.sections import AUGMENTATIONS, DATA_KEYS, OPTIMIZERS, SCHEDULES, TRAIN_KEYS
from compiler.initialize import INITIALIZERS
from compiler.ir import DECLARED
from compiler.ops.base import KINDS, parse_signature
from dsl.parse import MAX_BYTES
from netc.cli import Verbs
from netc.verbs import explain
from tests.docs import ops_page
from tests.docs.examples import PAGES, ROOT, code_lines, examples, programs

EXAMPLES = [example for page in PAGES for example in examples(page)]
PROGRAMS = [pytest.param(text, wanted, id=place)
            for example in EXAMPLES if example.language == "net" for place, text, wanted in programs(example)]
NAME = str(ROOT / "docs" / "example.net")


@pytest.mark.parametrize("text, wanted", PROGRAMS)
def test_net_examples_are_right_or_give_their_error(text, wanted):
    errors = [d for d in check(text, name=NAME) if d.severity == "error"]
    assert [d.code for d in errors] == wanted, "\n".join(d.render() for d in errors)


WEIGHTS = [(before, example) for before, example in zip(EXAMPLES, EXAMPLES[1:]) if example.language == "weights"]


@pytest.mark.parametrize("net, weights", WEIGHTS, ids=[weights.place for _, weights in WEIGHTS])
def test_weights_are_called_as_the_page_says(net, weights):
    (_, text, _), = programs(net)
    graph = load(text, name=NAME).graph
    assert [node.name for node in graph.leaves("parameter")] == weights.text.split()


def test_nets_and_train_sections_can_be_chosen():
    example, = (example for example in EXAMPLES if "chooses" in example.marks)
    found = [load(example.text, name=NAME, net=name) for name in example.marks["chooses"].split()]
    assert [program.net for program in found] == ["small", "linear", "linear", "small"]
    assert load(example.text, name=NAME, net="small", settings={"width": "2 * 3"}).parameters == {"width": 6}


def test_the_page_of_ops_is_up_to_date():
    assert ops_page.PAGE.read_text() == ops_page.text(), "python -m tests.docs.ops_page writes it"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in ("tutorial.md", "seeing.md", "cuda.md")], ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page, tmp_path):
    """Runs the quick `sh` blocks of a page in their order, then its `python` blocks as one program."""
    fetched = shutil.ignore_patterns("mnist", "fashion-mnist", "__pycache__")
    shutil.copytree(ROOT / "specs", tmp_path / "specs", ignore=fetched)
    script, shown, wanted_of_script = "", "", []
    last = None
    for example in examples(page):
        if "file" in example.marks:
            (tmp_path / example.marks["file"]).write_text(example.text)
        elif example.language == "sh" and "long" not in example.marks:
            assert all(line.startswith("netc ") for line in code_lines(example.text)), example.place
            shown = run_commands(example, tmp_path)
        elif example.language == "python" and "long" not in example.marks:
            script += example.text
        elif example.language == "output" and last.language == "python":
            wanted_of_script += example.text.splitlines()
        elif example.language == "output":
            assert_shows(shown, example.text.splitlines(), example.place)
        last = example
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_shows(done.stdout, wanted_of_script, page.name)


def run_commands(example, folder) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = ""
    for line in code_lines(example.text):
        words = shlex.split(line)
        if "add" in example.marks and words[1] == "train":
            words += shlex.split(example.marks["add"])
        done = subprocess.run(words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        failed = done.returncode != 0
        assert failed == ("fails" in example.marks), f"{example.place}: {line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        shown += done.stdout + done.stderr
    return shown


def assert_shows(text: str, wanted: list[str], place: str) -> None:
    """Each wanted line is, in this order, in a line of the text; `…` stands for anything, blanks for blanks."""
    lines = iter([" ".join(line.split()) for line in text.splitlines()])
    for line in wanted:
        pattern = re.compile(".*".join(re.escape(" ".join(part.split())) for part in line.split("…")))
        assert any(pattern.search(shown) for shown in lines), f"{place}: no line like {line!r} in\n{text}"


RENDERED = [(before, example) for before, example in zip(EXAMPLES, EXAMPLES[1:]) if example.language == "rendered"]


@pytest.mark.parametrize("net, message", RENDERED, ids=[message.place for _, message in RENDERED])
def test_messages_are_those_of_the_page(net, message):
    problems = check(net.text, name=net.marks["file"])
    assert "\n".join(problem.render() for problem in problems) + "\n" == message.text


def test_quoted_files_are_the_files():
    quoted = [example for example in EXAMPLES if "same" in example.marks]
    assert quoted
    for example in quoted:
        assert example.text == (ROOT / example.marks["same"]).read_text(), example.place


def heading_anchor(heading: str) -> str:
    """The anchor that GitHub and its like give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in map(heading_anchor, headings), f"{page.name}: {link}"


def test_every_verb_is_in_the_readme_and_its_use_is_shown():
    pages = "".join(page.read_text() for page in PAGES)
    for verb in Verbs(name="netc").list_commands(None):
        assert f"`{verb}`" in PAGES[0].read_text(), verb
        assert f"netc {verb}" in pages, verb


def test_every_range_of_error_codes_is_explained():
    page = (ROOT / "docs" / "errors.md").read_text()
    for code in explain.pages():
        assert f"`{code[:3]}xx`" in page, code


FETCHED = ("specs/data/mnist", "specs/data/fashion-mnist")


def test_files_and_folders_that_prose_names_are_there():
    for page in PAGES:
        for name in re.findall(r"`((?:dsl|compiler|runtime|netc|specs|tests|docs)/[\w/.-]*)`", page.read_text()):
            assert name in FETCHED or (ROOT / name).exists(), f"{page.name}: {name}"


def test_limits_are_those_of_the_code():
    page = " ".join((ROOT / "docs" / "language.md").read_text().split())
    assert f"at most {MAX_NODES:,} operations" in page
    assert f"at most {MAX_DEPTH} deep" in page
    assert f"at most {MAX_BYTES >> 20} MiB" in page


def test_tables_of_the_language_page_are_complete():
    page = (ROOT / "docs" / "language.md").read_text()
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", page, re.MULTILINE)}
    for table, whole in ((OPTIMIZERS, True), (SCHEDULES, False)):
        for name, signature in table.items():
            names = [argument.split("=")[0].strip() for argument in rows[name].split(",")]
            known = [arg.name for arg in parse_signature(signature)]
            assert names == (known if whole else [n for n in known if n != "warmup"]), name
    for key in (*DATA_KEYS, *TRAIN_KEYS):
        assert re.search(rf"^\|.*`{key}`.*\|", page, re.MULTILINE), key
    for name in AUGMENTATIONS:
        assert f"| `{name}(" in page, name
    for word in (*DECLARED, *AXES, *INITIALIZERS, *(kind for kind in KINDS if kind not in ("tensor", "tensors"))):
        assert re.search(rf"[`\s]{word}[`\s(]", page), word
