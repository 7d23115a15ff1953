"""Paths of layers and weights: the rules of compiler/elaborate/naming.py, one test each."""

from tests.compiler.elaborate.programs import names, net

BLOCKS = """
block conv_relu(x: tensor, ch: int, k: dims = 1x1) -> y {
  y = x -> conv(ch, k, pad = same) -> relu
}
block inception(x: tensor, c1: int, r3: int, c3: int) -> y {
  b1 = x -> conv_relu(c1)
  b3 = x -> conv_relu(r3) -> conv_relu(c3, 3x3)
  y = concat(b1, b3, axis = channel)
}
"""


def test_single_call_is_named_by_its_binding():
    program = net("  a = x -> flatten\n  fc = a -> dense(10)\n  output p = fc -> softmax")
    assert names(program, "parameter") == ["fc.weight", "fc.bias"]
    assert names(program, "softmax") == ["p"]


def test_chain_adds_ops_numbered_only_where_they_repeat():
    program = net("  output p = x -> conv(4, 3x3) -> relu -> conv(5, 3x3) -> flatten -> dense(10)")
    assert names(program, "conv") == ["p/conv1", "p/conv2"]
    assert names(program, "relu") == ["p/relu"]
    assert names(program, "dense") == ["p/dense"]


def test_numbers_follow_the_text_through_nested_calls():
    program = net("  output p = concat(x -> conv(1), relu(x -> conv(2)), axis = channel) -> conv(3)")
    weights = {n.name: n.type.shape[0] for n in program.graph.leaves("parameter") if n.name.endswith(".weight")}
    assert weights == {"p/conv1.weight": 1, "p/conv2.weight": 2, "p/conv3.weight": 3}


def test_stage_names_replace_op_names():
    program = net("  output p = x -> reduce: conv(2) -> conv(4, 3x3) -> relu")
    assert names(program, "conv") == ["p/reduce", "p/conv"]


def test_blocks():
    program = net("  i3a = x -> inception(2, 3, 4)\n  output p = i3a -> relu -> inception(1, 1, 1)", BLOCKS)
    assert names(program, "conv") == ["i3a/b1/conv", "i3a/b3/conv_relu1/conv", "i3a/b3/conv_relu2/conv",
                                      "p/inception/b1/conv", "p/inception/b3/conv_relu1/conv",
                                      "p/inception/b3/conv_relu2/conv"]
    assert names(program, "concat") == ["i3a", "p/inception"]


def test_repeated_stages_are_numbered_and_own_their_weights():
    program = net("  a = x -> conv(3) ** 3\n  b = a -> body: conv(3) ** 2 -> conv(3)\n  output p = b -> conv(3) ** 1")
    assert names(program, "conv") == ["a/conv1", "a/conv2", "a/conv3", "b/body1", "b/body2", "b/conv", "p/conv1"]
    assert len(names(program, "parameter")) == 14


def test_numbers_go_on_behind_a_repeated_stage():
    program = net("  output p = x -> conv(3) -> conv(3) ** 2 -> conv(3)")
    assert names(program, "conv") == ["p/conv1", "p/conv2", "p/conv3", "p/conv4"]


def test_arithmetic():
    program = net("  a = x -> conv(3)\n  s = a + x\n  output p = 0.5 * a - s / 2 + -x")
    assert names(program, "add") == ["s", "p/add"]
    assert names(program, "mul") == ["p/mul"] and names(program, "neg") == ["p/neg"]
    assert names(program, "constant") == ["p/mul.const", "p/div.const"]


def test_losses_and_metrics():
    program = net("""  logits = x -> flatten -> dense(10)
  output p = logits -> softmax
  loss cross_entropy(logits, y)
  loss 0.3 * cross_entropy(logits, y)
  loss extra = 0.1 * mean(logits * logits)
  metric accuracy(logits, y)
  metric top2 = top_k(logits, y, 2)
  metric accuracy(p, y)""")
    assert program.graph.losses == {"loss": "loss", "loss2": "loss2/mul", "extra": "extra/mul1"}
    assert program.graph.metrics == {"accuracy": "accuracy", "top2": "top2", "accuracy2": "accuracy2"}


def test_layer_objects_share_weights_under_their_own_name():
    program = net("""  layer tower = conv_relu(3)
  a = x -> tower
  output p = a -> tower -> relu
  output q = tower(x) + a""", BLOCKS)
    assert names(program, "parameter") == ["tower/conv.weight", "tower/conv.bias"]
    assert names(program, "conv") == ["a/conv", "p/tower/conv", "q/tower/conv"]
    assert all(program.graph[n].inputs[1:] == ("tower/conv.weight", "tower/conv.bias") for n in names(program, "conv"))
    assert {o.layer for o in program.graph["tower/conv.weight"].origins} == {"a/conv", "p/tower/conv", "q/tower/conv"}


def test_layer_object_in_a_block_belongs_to_that_call_of_the_block():
    before = "block twice(x: tensor) -> y {\n  layer f = conv(3)\n  a = x -> f\n  y = a -> f\n}\n"
    program = net("  a = x -> twice\n  layer g = twice()\n  b = a -> g\n  output p = b -> g", before)
    assert names(program, "parameter") == ["a/f.weight", "a/f.bias", "g/f.weight", "g/f.bias"]
    assert len(names(program, "conv")) == 6


def test_every_node_has_an_origin_that_is_its_text():
    program = net("  output p = x -> inception(1, 2, 3) -> relu", BLOCKS)
    lines = [text for _, text in program.sources][0].split("\n")
    for node in program.graph.nodes():
        for origin in node.origins:
            name, line, column = origin.place.rsplit(":", 2)
            word = {"input": "input" if node.name == "x" else "label", "parameter": "conv"}.get(node.op, node.op)
            assert name == "t.net" and lines[int(line) - 1][int(column) - 1:].startswith(word)
        assert node.origins


def test_names_that_meet_stay_unique():
    before = "block f(x: tensor) -> y {\n  relu = x -> conv(3)\n  y = relu -> relu -> conv(3)\n}\n"
    program = net("  output p = x -> f", before)
    assert len(program.graph) == 2 + 4 + 3
    assert names(program, "conv") == ["p/relu", "p/conv"] and names(program, "relu") == ["p/relu2"]
