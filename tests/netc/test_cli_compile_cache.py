"""Compiling the same again: what counts as the same, and that it is reading files then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import netc as api
from compiler import artifact, imports
from compiler.passes import base, pipeline
from runtime.checkpoint import write_checkpoint
from runtime.format import read
from tests.netc.command import ROOT, netc

BLOCKS = "lang 1\nblock layer(x: tensor, n: int) -> y {\n  y = x -> dense(n) -> relu\n}\n"
NET = """lang 1
import "blocks.net" as b
net small(classes: int = 2) {
  input x: f32[N, 3]
  label y: i32[N] in classes
  logits = x -> b.layer(4) -> dense(classes)
  output p = logits -> softmax
  loss cross_entropy(logits, y)
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NETC_CACHE", raising=False)
    (tmp_path / "blocks.net").write_text(BLOCKS)
    (tmp_path / "small.net").write_text(NET)
    return tmp_path


@pytest.fixture
def built(monkeypatch) -> list:
    """Grows by one with each program that is really compiled."""
    calls: list = []
    real = artifact.code
    monkeypatch.setattr(artifact, "code", lambda *a, **k: calls.append(k) or real(*a, **k))
    return calls


def compiled(folder: Path, *arguments: str) -> bytes:
    done = netc("compile", "small.net", "-o", "out.netb", *arguments, cwd=folder)
    assert done.code == 0, done.err
    return (folder / "out.netb").read_bytes()


def test_the_second_time_gives_the_same_file_and_compiles_nothing(folder, built, monkeypatch):
    first = compiled(folder)
    assert compiled(folder) == first and len(built) == 1
    monkeypatch.setenv("NETC_CACHE", "0")
    assert compiled(folder) == first and len(built) == 2


def test_the_second_time_imports_neither_parser_nor_compiler(folder):
    code = ("import atexit, sys; atexit.register(lambda: print('\\n'.join(sys.modules)));"
            "from netc.cli import main; sys.argv = ['netc', 'compile', 'small.net']; main()")
    first, second = (subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                                    env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "tvm" in first.stdout.split()
    loaded = {name.partition(".")[0] for name in second.stdout.split()}
    assert not loaded & {"tvm", "tvm_ffi", "lark", "networkx", "numpy", "dsl"}
    assert second.stdout.splitlines()[0] == first.stdout.splitlines()[0]


@pytest.mark.parametrize("change", [
    lambda f: (f / "blocks.net").write_text(BLOCKS.replace("relu", "tanh")),
    lambda f: (f / "small.net").write_text(NET.replace("layer(4)", "layer(5)")),
    lambda f: (f / "small.net").write_text(NET + "# a word\n"),
    lambda f: ["--set", "classes=3"], lambda f: ["--design-batch", "2"], lambda f: ["--target", "cpu:generic"]])
def test_what_is_not_the_same_is_compiled(folder, built, change):
    first = compiled(folder)
    done = change(folder)
    second = compiled(folder, *(done if isinstance(done, list) else []))
    assert len(built) == 2 and (second != first or done == ["--design-batch", "2"])


def test_a_file_that_appears_in_the_way_of_an_import_counts(folder, built):
    (folder / "blocks.net").unlink()
    (folder / "small.net").write_text(NET.replace("blocks.net", "inception.net").replace("b.layer(4)", "dense(4)"))
    first = compiled(folder)  # inception.net of the installed networks
    (folder / "inception.net").write_text("lang 1\nlet k = 3\n")
    assert compiled(folder) != first and len(built) == 2


def test_another_seed_takes_the_code_and_draws_other_weights(folder, built):
    one, two = (read_back(folder, compiled(folder, "--seed", seed)) for seed in "12")
    assert len(built) == 1
    assert one.members["host.o"] == two.members["host.o"]
    assert one.members["parameters.safetensors"] != two.members["parameters.safetensors"]
    assert read_back(folder, compiled(folder, "--seed", "1")) == one


def read_back(folder: Path, data: bytes):
    (folder / "back.netb").write_bytes(data)
    return read(folder / "back.netb")


def test_given_parameters_are_taken_from_the_file_each_time(folder, built):
    exe = api.load(folder / "small.net").compile()
    weights = exe.parameters.tensors("weight")
    x = np.ones((2, 3), "f4")
    for factor in (1.0, 0.5):
        write_checkpoint(folder / "w.safetensors", {k: v * np.float32(factor) for k, v in weights.items()},
                         {"class_names": [f"{factor}", "b"]})
        compiled(folder, "--params", "w.safetensors")
        made = api.load_artifact(folder / "out.netb")
        assert made.manifest["class_names"] == [f"{factor}", "b"]
        assert all(np.array_equal(made.parameters[k], v * np.float32(factor)) for k, v in weights.items())
        assert made(x=x)["p"].shape == (2, 2)
    assert len(built) == 2  # run alone, and with evaluate
    write_checkpoint(folder / "w.safetensors", {k: v[:1] for k, v in weights.items()}, {})
    done = netc("compile", "small.net", "--params", "w.safetensors", cwd=folder)
    assert done.code == 1 and "error[E0610]" in done.err


def test_errors_are_those_of_the_first_time(folder):
    compiled(folder)
    (folder / "blocks.net").write_text(BLOCKS.replace("dense", "dens"))
    done = netc("compile", "small.net", cwd=folder)
    assert done.code == 1 and "error[E0203]" in done.err
    assert "error[E0407]" in netc("compile", "small.net", "--set", "classes", cwd=folder).err
    assert "error[E0120]" in netc("compile", "none.net", cwd=folder).err


def test_python_finds_it_too_but_not_what_was_changed_by_hand(folder, built):
    first = api.load(folder / "small.net").build()
    assert api.load(folder / "small.net").build() == first and len(built) == 1
    net = api.load(folder / "small.net")
    relu = next(n for n in net.graph.nodes() if n.op == "relu")
    net.graph.update(relu.name, op="tanh")
    assert net.build().members["host.o"] != first.members["host.o"] and len(built) == 2


def test_passes_of_ones_own_are_never_answered_from_the_cache(folder, built, monkeypatch):
    api.load(folder / "small.net").build()
    monkeypatch.setattr(pipeline, "LAYERS", [*pipeline.LAYERS, "mine"])
    monkeypatch.setattr(base, "PASSES", base.PASSES)
    monkeypatch.setitem(base.PASSES, "mine", None)
    del base.PASSES["mine"]

    @base.graph_pass("mine")
    def mine(graph, context):
        return []

    try:
        for _ in range(2):
            api.load(folder / "small.net").build()
    finally:
        base.PASSES.pop("mine", None)
    assert len(built) == 3


def test_files_of_a_program_are_found_without_the_parser(folder):
    path = folder / "small.net"
    assert set(imports.files(path).values()) == {NET.encode(), BLOCKS.encode()}
    path.write_text('import"blocks.net" as b\nimport "gone.net" as g\nimport "small.net" as me\n')
    assert len(imports.files(path)) == 2
    path.write_text(r'import "b\u006cocks.net" as b')
    assert imports.files(path) is None
    assert imports.files(folder / "none.net") is None
