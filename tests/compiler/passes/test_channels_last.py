"""Which tensors have their channels innermost for GPUs, and that no number changes."""

import numpy as np
import pytest

import netc
from compiler import programs
from compiler.passes.channels_last import LAST, OUTPUTS_LAST
from tests.compiler.passes.kernels import planned, source
from tests.runtime.emulated import needs_emulator

BODY = """  a = x -> conv(16, 3x3, pad = same) -> relu -> max_pool(3x3, stride = 1, pad = same) -> lrn(5) -> conv(24) -> relu
  b = x -> conv(8)
  output y = concat(a, b) -> conv(12, 3x3) -> global_avg_pool -> flatten -> dense(4)"""


def last(graph):
    return {graph[name].op for name, layout in graph.layouts.items() if layout == LAST}


def test_maps_and_packed_weights(tmp_path):
    graph, steps = planned(source(tmp_path, BODY), machine="sm_80")
    assert {"conv", "relu", "max_pool", "concat"} <= last(graph)
    weights = [n for n in graph.nodes() if n.op == "parameter" and len(n.type.shape) == 4]
    assert weights and all(graph.layouts[w.name] == OUTPUTS_LAST and w.attrs["packed"] for w in weights)
    (rewrite,) = steps["channels_last"]
    assert rewrite.taken and "tensors keep the channels of a position together" in rewrite.what
    assert not last(planned(source(tmp_path, BODY))[0])  # a CPU keeps blocks


@pytest.mark.parametrize("body", ["  output y = x -> conv(16)", "  output y = x -> conv(8) -> flatten -> dense(2)",
                                  "  a = x -> conv(7)\n  b = x -> conv(9)\n  output y = concat(a, b)"])
def test_what_stays_as_its_shape_says(tmp_path, body):
    """Results are the caller's arrays, and other shapes look at the memory as it is; 7 channels are no 16-byte loads."""
    graph, _ = planned(source(tmp_path, body), machine="sm_80", off=("merge_sibling_convs", "collapse_linear_chains"))
    assert not last(graph)


def test_training_keeps_weights_as_they_are(tmp_path):
    path = tmp_path / "t.net"
    path.write_text("""lang 1

net t() {
  input x: f32[N, 8, 6, 6]
  label c: i32[N] in 3
  logits = x -> conv(8, 3x3, pad = same) -> relu -> conv(8, 3x3) -> relu -> flatten -> dense(3)
  output p = logits -> softmax
  loss cross_entropy(logits, c)
}

train fit { net = t, optimizer = sgd(0.1), run = 1 epochs }
""")
    graph = programs.build(netc.load(path).program, ["step"], programs.Options("sm_80", check=True))["step"]
    assert "conv_input_grad" in last(graph) and OUTPUTS_LAST not in graph.layouts.values()
    assert not any(graph[name].op == "conv_weight_grad" for name in graph.layouts)


@needs_emulator
def test_the_numbers_are_those_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("NETC_EMULATOR_CHECK", "1")
    net = source(tmp_path, BODY)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 16, 12, 12)).astype("f4")}
    want, got = (net.compile("run", target, seed=1)(**feeds)["y"] for target in ("cpu", "cuda-emulator"))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
