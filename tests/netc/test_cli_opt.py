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
COUNTS = ["nodes", "kernels", "flops", "bytes", "arena_bytes", "predicted_ms"]
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
    counts = [report["unfused"], report["elementwise_fused"], *(entry["after"] for entry in report["passes"]), report["after"]]
    assert all(list(count) == COUNTS for count in counts)
    assert report["after"] == report["passes"][-1]["after"]
    merged = passes(report)["merge_sibling_convs"]
    assert (merged["taken"], merged["refused"]) == (1, 1)
    better = [(report["unfused"], report["elementwise_fused"]), (counts[2], report["after"])]
    assert all(one[key] > other[key] for one, other in better for key in ("kernels", "bytes", "predicted_ms"))
    assert 0 < report["floor_bytes"] < report["after"]["bytes"]


def test_counts_of_a_net_small_enough_to_count_by_hand(tmp_path):
    """dense and relu are one kernel, which reads x, weight and bias and writes p; unfused, the bias and the relu each read
    and write the result once more."""
    text = "lang 1\nnet tiny {\n  input x: f32[N, 3]\n  output p = x -> dense(2) -> relu\n}\n"
    (tmp_path / "tiny.net").write_text(text)
    for batch in (5, 10):
        report = as_json(str(tmp_path / "tiny.net"), "--batch", str(batch))
        once = 4 * (batch * 3 + 3 * 2 + 2 + batch * 2)
        assert report["elementwise_fused"] == report["after"] and report["after"]["kernels"] == 1
        assert report["after"]["bytes"] == report["floor_bytes"] == once and report["after"]["arena_bytes"] == 0
        assert 2 * batch * 3 * 2 <= report["after"]["flops"] <= 2 * batch * (3 * 2 + 2)
        assert report["unfused"]["kernels"] == 3 and report["unfused"]["bytes"] == once + 4 * (4 * batch * 2)


def test_padding_is_a_kernel_of_its_own_where_nothing_is_fused(tmp_path):
    text = "lang 1\nnet padded {\n  input x: f32[N, 2, 4, 4]\n  output p = x -> conv(1, 3x3, pad = same, bias = false)\n}\n"
    (tmp_path / "padded.net").write_text(text)
    report = as_json(str(tmp_path / "padded.net"))
    x, padded, weight, p = 4 * 2 * 16, 4 * 2 * 36, 4 * 2 * 9, 4 * 16
    assert (report["unfused"]["kernels"], report["unfused"]["bytes"]) == (2, x + padded + padded + weight + p)
    assert (report["elementwise_fused"]["kernels"], report["elementwise_fused"]["bytes"]) == (1, x + weight + p)


def test_googlenet_is_84_kernels_where_only_elementwise_work_is_fused():
    report = as_json(str(ROOT / "specs/googlenet.net"), "--batch", "2", "--only", "clean")
    convs, pools, concats, lrns = 57, 14, 9, 2
    assert report["elementwise_fused"]["kernels"] == convs + pools + concats + lrns + 2 == 84
    padded = 1 + 1 + 2 * 9 + 9  # conv1, conv2, the 3x3 and 5x5 of each module, its pool
    assert report["unfused"]["kernels"] == 2 * (convs + 1) + convs + padded + pools + concats + lrns + 1


def test_kernels_are_those_of_the_artifact(net):
    assert as_json(net)["after"]["kernels"] == len(netc.load(net).compile("run").programs["run"]["kernels"])


def test_the_training_step_is_counted_whole(net):
    run, step = as_json(net), as_json(net, "--program", "step", "--target", "cuda:sm_80")
    assert step["unfused"]["kernels"] > 2 * run["unfused"]["kernels"]
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


def test_a_dump_goes_on_with_the_passes_behind_it(net, tmp_path):
    for program in ("run", "step"):
        folder = tmp_path / program
        whole = as_json(net, "--dump-dir", str(folder), "--program", program)
        for number, name in ((0, "source"), *enumerate(pipeline.PIPELINE, 1)):
            report = as_json(str(folder / f"{number:02}-{name}.txt"), "--dump-dir", str(tmp_path / "rest"))
            assert [p["name"] for p in report["passes"]] == pipeline.PIPELINE[number:]
            assert {**report, "passes": 0, "net": 0} == {**whole, "passes": 0, "net": 0}, name
            last = f"{len(pipeline.PIPELINE):02}-{pipeline.PIPELINE[-1]}.txt"
            assert (folder / last).read_text() == (tmp_path / "rest" / last).read_text()


def test_a_dump_without_its_source_has_no_baseline(net, tmp_path):
    as_json(net, "--dump-dir", str(tmp_path))
    (tmp_path / "00-source.txt").unlink()
    report = as_json(str(tmp_path / "01-fold_batch_norm.txt"))
    assert report["unfused"] is None and report["after"]["kernels"] > 0
    assert "unfused" not in opt(str(tmp_path / "01-fold_batch_norm.txt")).output


def test_a_text_that_is_no_dump(net, tmp_path):
    (tmp_path / "x.txt").write_text("graph x {\n}\n")
    for path in (tmp_path / "x.txt", tmp_path / "none.txt"):
        result = opt(str(path))
        assert isinstance(result.exception, NetcError) and result.exception.code == "E0431" and "E0431" in pages()


def test_explain_names_layers_gains_and_reasons(net):
    text = opt(net, "--explain").output
    assert re.search(r"taken: 2 convs of x become one, with one relu, gain \d+\.\d\d us\n +a/left, b/right", text)
    assert re.search(r"refused: conv stays apart from its siblings \(its window.*\)\n +c", text)
    rewrites = passes(as_json(net, "--explain"))["merge_sibling_convs"]["rewrites"]
    assert {tuple(r["layers"]): r["taken"] for r in rewrites} == {("a/left", "b/right"): True, ("c",): False}


def test_the_table_has_a_line_for_each_pass(net):
    lines = opt(net, "--off", "clean").output.splitlines()
    assert lines[0].startswith("small: run on cpu, batch 1")
    assert lines[2].startswith("unfused") and lines[3].startswith("element-wise fused")
    assert [line.split()[0] for line in lines[4:6 + len(pipeline.PIPELINE)]] == [*pipeline.PIPELINE, "after", "floor"]
    assert next(line for line in lines if line.startswith("clean")).split()[1] == "skipped"


@pytest.mark.parametrize("arguments, code", [
    (["--off", "merge"], "E0411"), (["--only", "nix"], "E0411"), (["--stop-after", "Clean"], "E0411"),
    (["--target", "cuda:sm_70"], "E0412"), (["--target", "tpu"], "E0701"),
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


def test_cuda_alone_is_the_first_gpu_there_is_a_table_for(net):
    alone, named = (as_json(net, "--target", target)["after"] for target in ("cuda", "cuda:sm_80"))
    assert alone == named
