"""What the optimizer promises of Inception networks, counted from the compiled artifact: kernels, bytes, nothing copied."""

from functools import cache
from pathlib import Path

import pytest

import netc
from compiler.cost import MACHINES
from compiler.passes.select_mode import select_mode
from compiler.tally import elementwise_fused, floor
from runtime.format import size

SPECS = Path(__file__).parents[2] / "specs"
MODULE = """lang 1

import "inception.net" as g

net module() {
  input x: f32[N, 192, 28, 28]
  output y = x -> g.inception(64, 96, 128, 16, 32, 32)
}
"""


@cache
def googlenet():
    net = netc.load(SPECS / "googlenet.net")
    return net, net.build().manifest["programs"]["run"]["kernels"]


def share(net, kernels, batch: int) -> float:
    """Bytes of the compiled kernels, as a part of those of element-wise fusion."""
    source = select_mode(net.graph, "deploy")
    base = elementwise_fused(source, MACHINES["cpu"], batch)["bytes"]
    total = sum(size(k["bytes"], {"N": batch}) for k in kernels)
    assert floor(source, batch) <= total
    return total / base


def test_the_baseline_is_what_stock_frameworks_do():
    source = select_mode(googlenet()[0].graph, "deploy")
    assert elementwise_fused(source, MACHINES["cpu"], 1)["kernels"] == 84


@pytest.mark.parametrize("batch, most", [(1, 0.67), (16, 0.6)])
def test_googlenet_moves_less_memory(batch, most):
    net, kernels = googlenet()
    assert len(kernels) <= 36 and share(net, kernels, batch) <= most


def test_nothing_is_copied_joined_or_padded_by_a_kernel_of_its_own():
    _, kernels = googlenet()
    assert not {op for k in kernels for op in k["ops"]} & {"concat", "copy", "pad", "reshape", "transpose"}


def test_module_3a_within_googlenet_is_two_kernels():
    net, kernels = googlenet()
    ours = [k for k in kernels if any(layer.startswith("i3a/") for layer in k["layers"])]
    assert len(ours) <= 3 and all(layer.startswith("i3a/") for k in ours for layer in k["layers"])


def test_module_3a_alone(tmp_path):
    (tmp_path / "module.net").write_text(MODULE)
    net = netc.load(tmp_path / "module.net")
    source = select_mode(net.graph, "deploy")
    assert elementwise_fused(source, MACHINES["cpu"], 1)["kernels"] == 8
    kernels = net.build().manifest["programs"]["run"]["kernels"]
    assert len(kernels) <= 3 and share(net, kernels, 1) <= 0.45
    results = [(r["name"] if r["in"] == "output" else r["in"], r.get("part")) for k in kernels for r in k["results"]]
    assert sum(name == "y" for name, _ in results) == 4 and all(part for name, part in results if name == "y")
    assert not any("max_pool" in k["name"] for k in kernels)  # what is pooled is no result
