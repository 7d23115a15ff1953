"""What programs mean: values, blocks, pipes, types, settings."""

import numpy as np
import pytest

from compiler.elaborate import declarations, load
from dsl.diagnostics import DiagnosticError
from tests.compiler.elaborate.programs import found, names, net, shape


def channels(expression: str, before: str = "") -> int:
    """The value of a compile-time expression, read off a convolution."""
    return net(f"  output p = x -> conv({expression})", before).graph["p"].type.shape[1]


@pytest.mark.parametrize("expression, value", [
    ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("7 // 2", 3), ("4 / 2", 2), ("3 / 2 * 2", None), ("7 % 4", 3), ("-3 + 5", 2),
    ("classes * 2", 20), ("-(-6)", 6), ("7 // 2 * 2", 6), ("9007199254740993 // 9007199254740993", 1),
])
def test_arithmetic_is_exact(expression, value):
    if value is None:  # a float, also where it is whole
        assert found(f"  output p = x -> conv({expression})") == [("E0423", expression)]
    else:
        assert channels(expression) == value


def test_lets_dims_and_lists():
    before = "let k = 3\nlet size = dims(k, k + 2)\nlet pads = [[1, 1], [2, 2]]\nlet same_init = 0.5\n"
    program = net("  let ch = k * 2\n  output p = x -> conv(ch, size, pad = pads, init = normal(same_init / 2))",
                  before)
    assert program.graph["p"].attrs["kernel"] == (3, 5) and program.graph["p"].attrs["pad"] == ((1, 1), (2, 2))
    assert program.graph["p.weight"].attrs["init"] == ("normal", 0.25)


@pytest.mark.parametrize("condition, value", [
    ("true", 1), ("not true", 2), ("3 > 2 and 2 >= 2", 1), ("3 < 2 or 1 != 1", 2), ("1x1 == dims(1, 1)", 1),
    ('"a" == "b"', 2),
    ("false and 1 / 0 == 1", 2), ("classes == 10", 1), ("1 == 1.0", 1), ("N == N", 1),
])
def test_if(condition, value):
    program = net(f"  if {condition} {{ a = x -> conv(1) }} else {{ a = x -> conv(2) }}\n  output p = a -> relu")
    assert program.graph["p"].type.shape[1] == value


def test_else_if():
    text = "  if classes == 1 { a = x -> conv(1) } else if classes == 10 { a = x -> conv(2) }" \
           " else { a = x -> conv(3) }\n  output p = a"
    assert net(text).graph["a"].type.shape[1] == 2
    assert net(text, settings={"classes": "1"}).graph["a"].type.shape[1] == 1
    assert net(text, settings={"classes": "2 + 2"}).graph["a"].type.shape[1] == 3


def test_block_defaults_see_earlier_parameters_and_the_file():
    before = "let base = 2\nblock f(x: tensor, a: int = base, b: int = a * 3, k: dims = dims(a, 1)) -> y {\n" \
             "  y = x -> conv(b, k)\n}\n"
    program = net("  output p = x -> f\n  output q = x -> f(b = 4)\n  output r = x -> f(1)", before)
    assert [shape(program, n) for n in "pqr"] == ["f32[N, 6, 7, 8]", "f32[N, 4, 7, 8]", "f32[N, 3, 8, 8]"]


def test_typed_parameters_of_every_kind():
    before = """
block f(x: tensor, flag: bool, pad: padding, i: init, w: weight, axis: axis, rate: float = 50%) -> y {
  a = x -> conv(3, 3x3, pad = pad, init = i, frozen = flag)
  b = a -> conv(3, 1x3, weight = w, bias = false)
  y = concat(b, b -> dropout(rate), axis = axis)
}
"""
    program = net("  output p = x -> f(flag, same, uniform(0.5), [[1, 2, 1]], channel)", before)
    graph = program.graph
    assert graph["p/a.weight"].attrs["init"] == ("uniform", 0.5) and not graph["p/a.weight"].attrs["trainable"]
    assert np.array_equal(graph["p/b.weight"].attrs["init"][2, 1], [[1, 2, 1]])
    assert graph["p/dropout"].attrs["rate"] == 0.5


def test_dims_of_types_bind_names_in_blocks():
    before = """
block half(x: f32[N, C, H, W]) -> y: f32[N, C*2, H/2, W // 2] {
  y: f32[N, 2 * C, H / 2, W / 2] = x -> conv(C * 2, dims(2, 2), stride = 2)
}
block add_same(a: f32[N, C, H, W], b: f32[N, C, H, W], n: int) -> y {
  y = a + b -> conv(n)
}
"""
    program = net("  h = x -> half\n  output p = (h, h) -> add_same(5)\n  output q = add_same(h, h, n = 1)", before)
    assert shape(program, "h") == "f32[N, 6, 4, 4]"
    assert found("  output p = (x, x -> conv(4)) -> add_same(1)", before) == [("E0320", "C")]


def test_symbols_of_inputs_are_dims():
    program = load("""net t {
  input a: f32[N, T, 3*4]
  input b: f32[N, T * 2, 12]
  c: f32[N, 3*T, 12] = concat(a, b, axis = 1)
  output d = c -> mean([1, 2])
}
""", name="t.net")
    assert shape(program, "c") == "f32[N, T*3, 12]" and shape(program, "d") == "f32[N]"


def test_several_results():
    before = "block both(x: f32[N, C, H, W]) -> a, b: f32[N, 2, H, W] {\n  a = x -> relu\n  b = x -> conv(2)\n}\n"
    program = net("  left, right = x -> both\n  output p = x -> both -> concat(axis = channel)\n"
                  "  output q = left\n  output r = right", before)
    assert shape(program, "p/concat") == "f32[N, 5, 8, 8]"
    assert program.graph.outputs == {"p": "p/concat", "q": "left/a", "r": "left/b"}


def test_split_has_several_results():
    program = net("  a, b, c = x -> split(3)\n  output p = b\n  output q = (a, c) -> concat")
    assert names(program, "split") == [] and len(names(program, "slice")) == 3
    assert program.graph[program.graph.outputs["p"]].attrs["start"] == 1
    assert found("  a, b = x -> split(3)") == [("E0321", "a, b = x -> split(3)")]


def test_pipes_fill_tensor_parameters_in_order():
    before = "block f(n: int, a: tensor, b: tensor) -> y {\n  y = a -> conv(n) -> sub(b)\n}\n"
    program = net("  z = x -> relu\n  output p = (x, z) -> f(3)\n  output q = x -> f(3, z)\n"
                  "  output r = f(3, x, b = z)", before)
    for name in "pqr":
        assert program.graph[f"{name}/sub"].inputs == (f"{name}/conv", "z")


def test_numbers_in_tensor_arithmetic_become_constants():
    program = net("  output p = 1/3 * x + 1")
    values = [program.graph[n].attrs["value"] for n in names(program, "constant")]
    assert values[0].dtype == np.float32 and values[0] == np.float32(1 / 3) and values[1] == 1


def test_fixed_kernels():
    program = net("  output p = x -> conv(1, 3x3, weight = [[-1,-1,-1],[-1,8,-1],[-1,-1,-1]], bias = false, frozen)")
    node = program.graph["p.weight"]
    kernel = node.attrs["init"]
    assert kernel.shape == (1, 3, 3, 3) and kernel[0, 2, 1, 1] == 8 and not node.attrs["trainable"]


def test_weights_carry_what_training_needs():
    graph = net("  a = x -> conv(4, 3x3, lr = 0.1, init = xavier)\n"
                "  output p = a -> batch_norm -> flatten -> dense(2)").graph
    assert graph["a.weight"].attrs == {"init": ("xavier",), "fans": (27, 36), "trainable": True, "state": False,
                                       "decay": True,
                                       "lr": 0.1}
    assert not graph["a.bias"].attrs["decay"] and graph["p/batch_norm.running_mean"].attrs["state"]


def test_labels_carry_classes():
    graph = net("  output p = x\n  loss cross_entropy(x -> flatten -> dense(classes), y)",
                settings={"classes": "7"}).graph
    assert graph["y"].attrs == {"role": "label", "classes": 7} and graph["x"].attrs == {"role": "input"}
    assert graph["loss/dense.bias"].type.shape == (7,)


def test_settings_are_checked_like_defaults():
    with pytest.raises(DiagnosticError) as caught:
        net("  output p = x", settings={"classes": "2.5", "clases": "3"})
    assert [(d.code, d.hint) for d in caught.value.diagnostics] == [
        ("E0420", "did you mean `classes`?"), ("E0423", "`//` divides and rounds down")]
    with pytest.raises(DiagnosticError) as caught:
        net("  output p = x", settings={"classes": "3\nlet z = 4"})
    assert [d.code for d in caught.value.diagnostics] == ["E0420"]
    with pytest.raises(DiagnosticError) as caught:
        net("  output p = x", settings={"classes": "3 +"})
    assert caught.value.diagnostics[0].span.source.name == "--set classes"


def test_net_parameters_of_all_types():
    program = load("""net t(n: int, wide = false, k: dims = 3x3, i: init = he, note: str = "a") {
  input x: f32[N, 1, 9, 9]
  if wide { output p = x -> conv(n, k, init = i) } else { output p = x -> conv(1, k, init = i) }
}
""", name="t.net", settings={"n": "4", "wide": "true", "i": "constant(0.5)"})
    assert program.parameters == {"n": 4, "wide": True, "k": (3, 3), "i": ("constant", 0.5), "note": "a"}
    assert program.graph["p.weight"].attrs["init"] == ("constant", 0.5) and shape(program, "p") == "f32[N, 4, 7, 7]"


def test_choosing_a_net():
    text = "net a {\n  input x: f32[N, 2]\n  output p = x -> relu\n}\n" \
           "net b {\n  input x: f32[N, 3]\n  output p = x -> tanh\n}\n"
    assert declarations(text, name="t.net").nets == ("a", "b")
    assert load(text, name="t.net", net="b").net == "b"
    for choice, code in ((None, "E0211"), ("c", "E0210")):
        with pytest.raises(DiagnosticError) as caught:
            load(text, name="t.net", net=choice)
        assert [d.code for d in caught.value.diagnostics] == [code]


def test_thousand_layers():
    program = load("net deep {\n  input x: f32[N, 8]\n  output p = x -> dense(8, bias = false) ** 1000\n}\n",
                   name="t.net")
    assert len(names(program, "dense")) == 1000 and program.graph.outputs["p"] == "p/dense1000"


def test_unused_inputs_are_warned_about():
    program = net("  output p = x -> relu")
    assert [(d.code, d.severity) for d in program.warnings] == [("E0209", "warning")]
    assert not net("  output p = x -> relu\n  metric accuracy(x -> flatten, y)").warnings


def test_values_and_callables_are_separate_names():
    program = net("  conv = x -> conv(3)\n  same = conv -> conv(4, 3x3, pad = same)\n  output p = same")
    assert names(program, "conv") == ["conv", "same"]


