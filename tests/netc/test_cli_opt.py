"""`netc opt`: the table, the dumps, what --explain says, wrong command lines; and the page on how passes work."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import netc
from compiler.passes import base, pipeline
from compiler.text import from_text
from netc.cli import cli
from netc.verbs.explain import pages
from runtime.errors import NetcError

ROOT = Path(__file__).parents[2]
COUNTS = {"nodes", "kernels", "flops", "bytes", "predicted_ms"}
# Two reductions read x and go on into convolutions: they merge; their 3x3 sibling `c` cannot.
NET = """lang 1

net small(classes: int = 2) {
  input x: f32[N, 64, 16, 16]
  label y: i32[N] in classes

  a = x -> left: conv(4) -> relu -> conv(8, 3x3, pad = same)
  b = x -> right: conv(4) -> relu -> conv(8, 3x3, pad = same)
  c = x -> conv(8, 3x3, pad = same)
  logits = concat(a, b, c, axis = channel) -> global_avg_pool -> flatten -> dense(classes)

  output p = logits -> softmax
  loss cross_entropy(logits, y)
}

train fit { net = small, optimizer = sgd(lr = 0.1), run = 2 epochs }
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("opt") / "small.net"
    path.write_text(NET)
    return str(path)


def opt(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["opt", *arguments], standalone_mode=False)


def as_json(*arguments: str) -> dict:
    result = opt(*arguments, "--json")
    assert result.exception is None, result.exception
    return json.loads(result.output)


def passes(report: dict) -> dict[str, dict]:
    return {entry["name"]: entry for entry in report["passes"]}


def test_the_report_counts_before_and_after_each_pass(net):
    report = as_json(net, "--verify")
    assert [entry["name"] for entry in report["passes"]] == pipeline.PIPELINE
    counts = [report["before"], *(entry["after"] for entry in report["passes"]), report["after"]]
    assert all(set(count) == COUNTS for count in counts)
    assert report["after"] == report["passes"][-1]["after"]
    merged = passes(report)["merge_sibling_convs"]
    assert (merged["taken"], merged["refused"]) == (1, 1)
    assert all(report["after"][key] < report["before"][key] for key in ("kernels", "bytes", "predicted_ms"))


def test_counts_of_a_net_small_enough_to_count_by_hand(tmp_path):
    """dense and relu are one kernel, which reads x, weight and bias and writes p."""
    text = "lang 1\nnet tiny {\n  input x: f32[N, 3]\n  output p = x -> dense(2) -> relu\n}\n"
    (tmp_path / "tiny.net").write_text(text)
    for batch in (5, 10):
        report = as_json(str(tmp_path / "tiny.net"), "--batch", str(batch))
        assert report["before"] == report["after"] and report["before"]["kernels"] == 1
        assert report["before"]["bytes"] == 4 * (batch * 3 + 3 * 2 + 2 + batch * 2)
        assert 2 * batch * 3 * 2 <= report["before"]["flops"] <= 2 * batch * (3 * 2 + 2)


def test_kernels_are_those_of_the_artifact(net):
    assert as_json(net)["after"]["kernels"] == len(netc.load(net).compile("run").programs["run"]["kernels"])


def test_the_training_step_is_counted_whole(net):
    run, step = as_json(net), as_json(net, "--program", "step", "--target", "cuda:sm_80")
    assert step["before"]["kernels"] > 2 * run["before"]["kernels"]
    assert {entry["name"] for entry in step["passes"] if "skipped" in entry} == {
        name for name in pipeline.PIPELINE if not base.PASSES[name].training}


def test_passes_can_be_switched(net):
    off = passes(as_json(net, "--off", "merge_sibling_convs"))
    assert off["merge_sibling_convs"]["skipped"] == "switched off" and "skipped" not in off["clean"]
    only = passes(as_json(net, "--only", "merge_sibling_convs"))
    assert [name for name, entry in only.items() if "skipped" not in entry] == ["merge_sibling_convs"]
    assert [*passes(as_json(net, "--stop-after", "merge_sibling_convs"))][-1] == "merge_sibling_convs"


def test_the_dumps_read_back(net, tmp_path):
    assert opt(net, "--dump-dir", str(tmp_path / "dump"), "--stop-after", "merge_sibling_convs").exception is None
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    before = pipeline.PIPELINE.index("merge_sibling_convs") + 1
    assert len(names) == before + 1
    assert (names[0], names[-1]) == ("00-source.txt", f"{before:02}-merge_sibling_convs.txt")
    first, last = (from_text((tmp_path / "dump" / name).read_text()) for name in (names[0], names[-1]))
    assert [sum(n.op == "conv" for n in graph.nodes()) for graph in (first, last)] == [5, 4]


def test_explain_names_layers_gains_and_reasons(net):
    text = opt(net, "--explain").output
    assert re.search(r"taken: 2 convs of x become one, with one relu, gain \d+\.\d\d us\n +a/left, b/right", text)
    assert re.search(r"refused: conv stays apart from its siblings \(its window.*\)\n +c", text)
    rewrites = passes(as_json(net, "--explain"))["merge_sibling_convs"]["rewrites"]
    assert {tuple(r["layers"]): r["taken"] for r in rewrites} == {("a/left", "b/right"): True, ("c",): False}


def test_the_table_has_a_line_for_each_pass(net):
    lines = opt(net, "--off", "clean").output.splitlines()
    assert lines[0].startswith("small: run on cpu, batch 1") and lines[2].split()[0] == "source"
    assert [line.split()[0] for line in lines[3:3 + len(pipeline.PIPELINE)]] == pipeline.PIPELINE
    assert lines[2 + len(pipeline.PIPELINE)].split()[1] == "skipped"


@pytest.mark.parametrize("arguments, code", [
    (["--off", "merge"], "E0411"), (["--only", "nix"], "E0411"), (["--stop-after", "Clean"], "E0411"),
    (["--target", "cuda:sm_70"], "E0412"), (["--target", "cuda"], "E0702"), (["--target", "tpu"], "E0701"),
    (["--target", "cpu:z80"], "E0701"),
])
def test_mistakes_are_explained(net, arguments, code):
    result = opt(net, *arguments)
    assert isinstance(result.exception, NetcError) and result.exception.code == code and code in pages()


def test_a_dump_that_cannot_be_written(net):
    result = opt(net, "--dump-dir", net)
    assert isinstance(result.exception, NetcError) and result.exception.code == "E0413"


def test_help_has_examples():
    text = CliRunner().invoke(cli, ["opt", "--help"]).output
    assert "netc opt specs/googlenet.net --explain" in text and all(f"--{o}" in text for o in (
        "target", "program", "off", "only", "stop-after", "dump-dir", "explain", "verify", "batch", "json"))


def test_the_page_links_every_pass_and_every_pass_has_a_page():
    text = (ROOT / "docs/passes/README.md").read_text()
    for name in pipeline.PIPELINE:
        assert f"[{name}]({name}.md)" in text and (ROOT / f"docs/passes/{name}.md").exists(), name


def test_a_pass_of_ones_own_as_the_page_shows_it(tmp_path, monkeypatch, capsys):
    example, = re.findall(r"```python\n(.*?)```", (ROOT / "docs/passes/README.md").read_text(), re.DOTALL)
    assert example.count("\n") <= 25
    before, known = list(pipeline.LAYERS), set(base.PASSES)
    (tmp_path / "own.py").write_text(example)
    (tmp_path / "x.net").write_text("lang 1\nnet x {\n  input x: f32[N, 3]\n"
                                    "  output p = x -> dense(2) -> square -> relu\n}\n")
    monkeypatch.chdir(tmp_path)
    try:
        graph = runpy.run_path("own.py")["graph"]
    finally:
        pipeline.LAYERS[:] = before
        for name in set(base.PASSES) - known:
            del base.PASSES[name]
    assert not any(node.op == "relu" for node in graph.nodes())
    assert "relu(square(x)) -> square(x) ('p/relu', 'p/square')" in capsys.readouterr().out
