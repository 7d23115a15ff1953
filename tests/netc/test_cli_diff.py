"""`netc diff`: two nets, or one before and after passes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from netc.cli import cli
from netc.verbs.explain import pages

ROOT = Path(__file__).parents[2]
NET = """lang 1

net small {
  input x: f32[N, 4, 8, 8]
  a = x -> left: conv(4) -> relu
  b = x -> right: conv(6) -> relu
  output p = concat(a, b, axis = channel) -> max_pool(2x2) -> last: conv(8, 3x3, pad = same)
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("diff")
    (path / "a.net").write_text(NET)
    (path / "moved.net").write_text("\n# A comment moves every line.\n" + NET)
    (path / "b.net").write_text(NET.replace("right: conv(6) -> relu", "right: conv(6, 3x3, pad = same) -> tanh")
                                .replace("max_pool(2x2) -> ", ""))
    return path


def diff(folder: Path, *arguments: str) -> tuple[int, str]:
    names = [str(folder / a) if a.endswith(".net") else a for a in arguments]
    result: Result = CliRunner().invoke(cli, ["diff", *names], standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, result.output


def as_json(folder: Path, *arguments: str) -> dict:
    return json.loads(diff(folder, *arguments, "--json")[1])


def test_equal_nets_say_nothing(folder):
    assert diff(folder, "a.net", "a.net") == (0, "")
    assert diff(folder, "a.net", "moved.net") == (0, "")
    assert as_json(folder, "a.net", "moved.net")["same"] is True


def test_what_differs_between_two_nets_stands_under_the_layers(folder):
    code, text = diff(folder, "a.net", "b.net")
    lines = text.splitlines()
    assert code == 1 and lines[0].startswith("--- ") and lines[1].startswith("+++ ")
    at = lines.index("@@ b/right: changed kernel, pad @@")
    assert lines[at + 1].startswith("-%b/right = conv(%x, ") and "kernel = [1, 1]" in lines[at + 1]
    assert lines[at + 2].startswith("+%b/right = conv(%x, ") and "pad = [[1, 1], [1, 1]]" in lines[at + 2]
    assert "@@ b/relu: removed @@" in lines and "@@ b/tanh: added @@" in lines and "@@ p/max_pool: removed @@" in lines
    assert "@@ p/last: changed inputs, type @@" in lines


def test_the_same_as_json(folder):
    report = as_json(folder, "a.net", "b.net")
    assert report["same"] is False
    assert [n["name"] for n in report["added"]] == ["b/tanh"]
    assert {n["name"] for n in report["removed"]} == {"b/relu", "p/max_pool"}
    changed = {n["name"]: n for n in report["changed"]}
    assert changed["b/right"]["layers"] == ["b/right"]
    assert changed["b/right"]["fields"]["attrs.kernel"] == [[1, 1], [3, 3]]
    assert changed["b/right.weight"]["fields"]["type"] == ["f32[6, 4, 1, 1]", "f32[6, 4, 3, 3]"]
    assert changed["p/last"]["fields"]["type"] == ["f32[N, 8, 4, 4]", "f32[N, 8, 8, 8]"]


def test_before_and_after_a_pass(folder):
    report = as_json(folder, "a.net", "--before", "merge_sibling_convs", "--after", "merge_sibling_convs")
    assert {"a/left", "b/right", "a/relu", "b/relu"} == {n["name"] for n in report["removed"]}
    merged, = (n for n in report["added"] if n["op"] == "conv")
    assert merged["layers"] == ["a/left", "a/relu", "b/relu", "b/right"]
    assert diff(folder, "a.net", "--before", "fold_batch_norm", "--after", "fold_batch_norm") == (0, "")


def test_kernels_that_passes_made(folder):
    code, text = diff(folder, "a.net", "--before", "fuse_elementwise", "--after", "fuse_elementwise")
    kernels = text[text.index("@@ kernels @@"):].splitlines()[1:]
    assert code == 1 and kernels
    single, joined = ([line for line in kernels if line.startswith(sign)] for sign in "-+")
    assert all(len(line.split()) == 2 for line in single) and all(len(line.split()) > 2 for line in joined)
    report = as_json(folder, "a.net", "--before", "fuse_elementwise", "--after", "fuse_elementwise")
    assert sorted(sum(report["kernels"]["removed"], [])) == sorted(sum(report["kernels"]["added"], []))


def test_from_the_source_and_to_the_end(folder):
    whole, rest = as_json(folder, "a.net", "--after", "clean"), as_json(folder, "a.net", "--before", "fold_batch_norm")
    assert any(len(n["layers"]) > 1 for n in whole["added"]) and any(len(n["layers"]) > 1 for n in rest["added"])
    assert rest["kernels"]["added"]


@pytest.mark.parametrize("arguments, code", [
    (["a.net"], "E0433"), (["a.net", "b.net", "--after", "clean"], "E0433"), (["a.net", "--after", "nix"], "E0411"),
    (["a.net", "--after", "clean", "--target", "tpu"], "E0701"),
])
def test_errors_have_codes_and_exit_with_2(folder, arguments, code):
    done, text = diff(folder, *arguments)
    assert done == 2 and f"error[{code}]" in text and code in pages()


def test_the_exit_code_of_the_program(folder):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "netc", "diff", *arguments], cwd=ROOT, capture_output=True, text=True)

    assert run(str(folder / "a.net"), str(folder / "b.net")).returncode == 1
    wrong = run(str(folder / "a.net"), str(folder / "none.net"))
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and "error[" in wrong.stderr


def test_dumps_of_two_passes(folder, tmp_path):
    CliRunner().invoke(cli, ["opt", str(folder / "a.net"), "--dump-dir", str(tmp_path)], standalone_mode=False)
    before, after = (str(next(tmp_path.glob(f"*-{name}.txt"))) for name in ("fold_batch_norm", "choose_layout"))
    code, out = diff(folder, before, after)
    assert code == 1 and "layout" in out and diff(folder, before, before) == (0, "")
    (tmp_path / "other.txt").write_text("lang 1\n")
    assert diff(folder, before, str(tmp_path / "other.txt"))[0] == 2
