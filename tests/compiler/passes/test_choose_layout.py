"""Which tensors keep channels together, and that no choice changes a number."""

import pytest

from tests.compiler.passes.kernels import blocked, check_numbers, planned, source


def test_convolutions_ask_for_blocks_and_the_ops_between_follow(tmp_path):
    net = source(tmp_path, """  a = x -> conv(16, 3x3, pad = same) -> relu -> max_pool(3x3, stride = 1, pad = same) -> lrn(5) -> conv(24) -> relu
  output y = a -> global_avg_pool -> flatten -> dense(4)""")
    graph, steps = planned(net)
    assert {"relu", "max_pool", "mul"} <= blocked(graph)
    (rewrite,) = steps["choose_layout"]
    assert rewrite.taken and rewrite.gain > 0 and "2 convolutions make 8 channels at once" in rewrite.what
    weights = [n for n in graph.nodes() if n.op == "parameter" and n.name in graph.layouts]
    assert [graph.layouts[w.name].axis for w in weights] == [0, 0] and all(w.attrs["packed"] for w in weights)
    check_numbers(net)


@pytest.mark.parametrize("body, ops", [
    ("  output y = x -> conv(12, 3x3) -> relu", set()),       # 12 outputs are no multiple of 8
    ("  output y = x -> conv(16, 3x3)", set()),               # a result is the caller's array
    ("  a = x -> conv(16) -> relu\n  output y = a -> flatten -> dense(3)", {"conv"}),  # read under another shape
    ("  a = x -> conv(8)\n  b = x -> conv(4)\n  output y = concat(a, b) -> conv(8) -> relu", {"conv"}),  # a concat of 12
])
def test_what_stays_as_its_shape_says(tmp_path, body, ops):
    """Values within a kernel may be blocked; what is in memory is not."""
    net = source(tmp_path, body)
    graph, _ = planned(net, off=("merge_sibling_convs", "collapse_linear_chains", "choose_algorithm"))
    assert blocked(graph) <= ops
    check_numbers(net)


def test_parts_that_cut_a_block(tmp_path):
    """A vector of outputs must not go to two tensors: such a convolution makes them one by one."""
    net = source(tmp_path, """  a, b, c = x -> conv(24, 3x3, pad = same) -> relu -> split(sizes = [8, 3, 13])
  p = a -> conv(8, 3x3, pad = same)
  q = b -> max_pool(3x3, stride = 1, pad = same) -> conv(16)
  output y = concat(p, q)
  output z = c -> avg_pool(2x2)
  output w = b""")
    graph, _ = planned(net)
    assert all("x" not in n.inputs for n in graph.nodes() if n.op == "conv" and graph.layouts.get(n.inputs[1]))
    check_numbers(net, batches=(1, 2, 5))


def test_depthwise_grouped_and_strided_convolutions(tmp_path):
    net = source(tmp_path, """  a = x -> conv(16, 3x3, groups = 16, pad = same) -> relu6 -> conv(32, 3x3, groups = 2, stride = 2)
  output y = a -> relu -> conv(16, 3x3, dilation = 2, pad = 2) -> tanh -> conv(8)""")
    assert "conv" in blocked(planned(net)[0])
    check_numbers(net)


def test_training_keeps_layouts(tmp_path):
    path = tmp_path / "t.net"
    path.write_text("""lang 1

net t() {
  input x: f32[N, 8, 6, 6]
  label c: i32[N] in 3
  logits = x -> conv(8, 3x3) -> relu -> flatten -> dense(3)
  output p = logits -> softmax
  loss cross_entropy(logits, c)
}

train fit { net = t, optimizer = sgd(0.1), run = 1 epochs }
""")
    import netc
    from compiler import programs
    options = programs.Options(block=8, check=True)
    graphs = programs.build(netc.load(path).program, ["evaluate", "step"], options)
    assert not graphs["step"].layouts and not graphs["evaluate"].layouts
    skipped = [s for s in options.steps if s.name == "choose_layout"]
    assert {bool(s.skipped) for s in skipped} == {True, False}
    assert [r.why for s in skipped for r in s.rewrites] == ["weights change while this is used"]


def test_switched_off_the_numbers_are_the_same(tmp_path):
    net = source(tmp_path, "  output y = x -> conv(16, 3x3, pad = same) -> relu -> conv(8, 3x3, pad = same)")
    assert not blocked(planned(net, off=("choose_layout",))[0])
    check_numbers(net, off=("choose_layout",))
