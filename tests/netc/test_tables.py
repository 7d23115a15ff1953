"""Tables of kernels name the user's layers, several to a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import netc
from netc.cli import cli
from netc.layers import short
from runtime import format

NET = """lang 1

net small {
  input x: f32[N, 4, 8, 8]
  a = x -> left: conv(4) -> relu
  b = x -> right: conv(6) -> relu
  output p = concat(a, b, axis = channel) -> last: conv(8, 3x3, pad = same)
}
"""


@pytest.mark.parametrize("layers, text", [
    ([], ""), (["p"], "p"), (["stem/conv"], "stem/conv"), (["stem/conv", "stem/relu"], "stem/conv+relu"),
    (["p", "stem/conv"], "p, stem/conv"), (["a/conv", "b/conv", "b/relu"], "a/conv, b/conv+relu"),
    (["i3a/b1/conv", "i3a/b1/relu", "i3a/bp/max_pool"], "i3a: b1/conv+relu, bp/max_pool"),
    (["m/i3a", "m/i3a/b1/conv"], "m: i3a, i3a/b1/conv"),
])
def test_short_names(layers, text):
    assert short(layers) == text


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "small.net").write_text(NET)
    built = netc.load(folder / "small.net").build("run")
    format.write(folder / "small.netb", built.manifest, built.members)
    return folder / "small.netb"


def test_inspect_lists_kernels_by_layer(artifact):
    text = CliRunner().invoke(cli, ["inspect", str(artifact), "--kernels", "--batch", "2"]).output
    kernels = format.read(artifact).manifest["programs"]["run"]["kernels"]
    for kernel in kernels:
        line = next(line for line in text.splitlines() if line.startswith(short(kernel["layers"])))
        assert f"{format.size(kernel['flops'], {'N': 2}):,}" in line
    assert any("a/left+relu, b/relu+right" in line for line in text.splitlines())
    arena = format.size(format.read(artifact).manifest["programs"]["run"]["arena"], {"N": 2})
    assert f"{len(kernels)} kernels, {arena:,} bytes of arena" in text


def test_time_names_every_layer_of_a_fused_kernel(artifact):
    text = CliRunner().invoke(cli, ["time", str(artifact), "--threads", "1"]).output
    assert "a/left+relu, b/relu+right" in text and "p/last" in text
