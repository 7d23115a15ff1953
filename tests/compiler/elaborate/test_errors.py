"""Wrong programs: the code, the text the error points at, the way out; and that one mistake makes one error."""

import pytest

from compiler.elaborate import check, load
from compiler.elaborate.expressions import EXPECTED, words_of
from compiler.ops import REGISTRY
from compiler.ops.base import KINDS
from dsl.diagnostics import DiagnosticError
from tests.compiler.elaborate.programs import HEAD, at, errors, found

# (statements, code, text pointed at, part of the hint)
ONE = [
    ("  output p = x -> max_pol(2x2)", "E0203", "max_pol", "max_pool"),
    ("  output p = x -> linear(3)", "E0203", "linear", "`dense`"),
    ("  output p = x -> y", "E0203", "y", None),
    ("  output p = x -> g.f", "E0204", "g.f", 'import "g.net" as g'),
    ("  output p = z -> relu", "E0201", "z", None),
    ("  maps = x -> relu\n  output p = mapz -> relu", "E0201", "mapz", "maps"),
    ("  output p = x -> conv(same)", "E0201", "same", "only where an argument asks"),
    ("  x = x -> relu", "E0202", "x", "nothing is shadowed"),
    ("  output p = x\n  output p = x", "E0202", "output p = x", None),
    ("  layer conv = dense(3)", "E0202", "layer conv = dense(3)", None),
    ("  let k = 3\n  if k { output p = x }", "E0424", "k", None),
    ("  output p = x -> dense(3)", "E0301", "dense(3)", "flatten"),
    ("  output p = x + (x -> conv(4))", "E0302", "x + (x -> conv(4))", None),
    ("  output p = x -> conv(4, 9x9)", "E0305", "conv(4, 9x9)", "same"),
    ("  output p = x -> conv(0)", "E0403", "0", None),
    ("  output p = x -> conv(4, groups = 2)", "E0404", "2", None),
    ("  output p = x -> conv(4, 3x3x3)", "E0405", "3x3x3", None),
    ("  output p = x -> softmax(axis = 7)", "E0401", "7", None),
    ("  a: f32[N, 4, 6, 5] = x -> conv(4, 3x3)", "E0320", "5", "6"),
    ("  a: f32[N, 4, 6] = x -> conv(4, 3x3)", "E0320", "f32[N, 4, 6]", None),
    ("  a: i32[N, 4, 6, 6] = x -> conv(4, 3x3)", "E0320", "i32[N, 4, 6, 6]", None),
    ("  a: f32[N, 4, 6, 13/2] = x -> conv(4, 3x3)", "E0323", "13/2", "//"),
    ("  a: f32[N/2, 4, 6, 6] = x -> conv(4, 3x3)", "E0323", "N/2", "//"),
    ("  a: f33[N, 4, 6, 6] = x -> conv(4, 3x3)", "E0205", "f33[N, 4, 6, 6]", "f32"),
    ("  a, b = x -> relu", "E0321", "a, b = x -> relu", None),
    ("  a = 3", "E0422", "3", "let a"),
    ("  let a = x", "E0422", "x", "without `let`"),
    ("  let a = x -> relu", "E0422", "x -> relu", None),
    ("  output p = (x, x)", "E0101", None, None),
    ("  output p = (x, x) -> relu", "E0421", "relu", "relu(x: tensor)"),
    ("  output p = 3 -> relu", "E0423", "3", None),
    ("  output p = [x, x] -> concat", "E0423", "[x, x]", "(a, b)"),
    ("  output p = relu", "E0201", "relu", None),
    ("  output p = relu()", "E0421", "relu()", "x -> relu"),
    ("  output p = relu(3)", "E0423", "3", "pipe a tensor"),
    ("  output p = x -> conv(4, stide = 2)", "E0420", "stide = 2", "stride"),
    ("  output p = x -> conv(4, ch = 2)", "E0421", "ch = 2", None),
    ("  output p = x -> conv(4, stride = 2, 3x3)", "E0421", "3x3", "behind|its name"),
    ("  output p = x -> conv", "E0421", "conv", "conv(x: tensor, ch: int"),
    ("  output p = x -> relu(3)", "E0421", "3", "relu(x: tensor)"),
    ("  output p = x -> conv(2.0)", "E0423", "2.0", "//"),
    ("  output p = x -> conv(true)", "E0423", "true", None),
    ("  output p = x -> conv(N)", "E0423", "N", None),
    ("  output p = x -> conv(4, [3, 3])", "E0423", "[3, 3]", "3x3"),
    ('  output p = x -> conv(4, "3x3")', "E0423", '"3x3"', "3x3"),
    ("  output p = x -> conv(4, pad = some)", "E0423", "some", "same"),
    ("  output p = x -> conv(4, pad = [[1, 2, 3], [1, 2]])", "E0423", "[1, 2, 3]", None),
    ("  output p = x -> softmax(axis = chanel)", "E0423", "chanel", "channel"),
    ("  output p = x -> cast(f23)", "E0423", "f23", "f32"),
    ("  output p = x -> conv(4, init = hee)", "E0423", "hee", "he"),
    ("  output p = x -> conv(4, init = normel(1))", "E0423", "normel(1)", "normal"),
    ("  output p = x -> conv(4, init = normal)", "E0421", "normal", None),
    ("  output p = x -> conv(4, init = normal(-1))", "E0425", "normal(-1)", None),
    ("  output p = x -> conv(4, weight = [[1, 2], [3]])", "E0427", "[3]", None),
    ("  output p = x -> conv(4, weight = [[1, 2], [3, 4]], pad = [[1, 1], 2, 3])", "E0405", "[[1, 1], 2, 3]", None),
    ("  output p = x -> conv(4, weight = [1, 2])", "E0406", "[1, 2]", None),
    ("  output p = x -> conv(5 epochs)", "E0426", "5 epochs", "write 5"),
    ("  output p = x -> dropout(5 epochs)", "E0426", "5 epochs", None),
    ("  output p = x * 50%", "E0426", "50%", "0.5"),
    ("  output p = x -> conv(4, lr = -1)", "E0425", "-1", None),
    ("  output p = x -> conv(1 / 0)", "E0425", "1 / 0", None),
    ("  let a = 9223372036854775807 + 1", "E0425", "9223372036854775807 + 1", "2^63"),
    ("  let a = 1e308 * 10", "E0425", "1e308 * 10", None),
    ("  let a = 3x3 + 1", "E0424", "3x3 + 1", None),
    ("  let a = 3 epochs + 1 steps", "E0426", "3 epochs + 1 steps", None),
    ("  let a = not 3", "E0424", "not 3", None),
    ("  let a = N == 3", "E0424", "N == 3", None),
    ("  let a = x == x", "E0424", "x == x", None),
    ("  output p = x < 3", "E0424", "x < 3", None),
    ("  output p = x -> relu ** (1 - 2)", "E0425", "(1 - 2)", None),
    ("  output p = x -> relu ** 1000000000000", "E0213", "1000000000000", None),
    ("  output p = x -> relu ** 1.5", "E0423", "1.5", None),
    ("  let b = dims(3, 2.5)", "E0423", "2.5", None),
    ("  let b = dims()", "E0421", "dims()", None),
    ("  let b = conv(3)", "E0423", "3", "pipe a tensor"),
    ("  loss x", "E0326", "x", "mean"),
    ("  metric x -> relu", "E0326", "x -> relu", None),
    ("  output p = x\n  loss accuracy(x -> flatten, y)", "E0326", "accuracy(x -> flatten, y)", "metric"),
    ("  loss a = mean(x)\n  loss a = mean(x)", "E0202", "loss a = mean(x)", None),
    ("  input z: f32[N, 0]\n  output p = z", "E0323", "0", None),
    ("  input z: f32[N, 2.5]\n  output p = z", "E0110", "2.5", None),
    ("  label z: f32[N] in 10\n  output p = x", "E0325", "f32[N]", "i32"),
    ("  label z: i32[N] in 0\n  output p = x", "E0425", "0", None),
    ("  label z: i32[N] in x\n  output p = x", "E0423", "x", None),
    ("  input i: u8[N, 3]\n  output p = i * 0.5", "E0324", "0.5", "cast"),
    ("  input i: u8[N, 3]\n  output p = i + 300", "E0324", "300", "cast"),
    ("  output p = x -> cast(u8) -> conv(3)", "E0303", "conv(3)", "cast"),
    ("  output p = x + y", "E0303", "x + y", None),
    ("  layer f = dense(3)\n  a = x -> flatten -> f\n  b = x -> conv(1) -> flatten -> f\n  output p = a + b", "E0322",
     "f", None),
    ("  layer f = dense(3)\n  layer g = f(2)\n  output p = x", "E0422", "f(2)", None),
    ("  layer f = dense(3)\n  output p = x -> flatten -> f(units = 3)", "E0421", "units = 3", None),
]


@pytest.mark.parametrize("body, code, text, hint", ONE)
def test_one_mistake_is_one_error_at_its_place(body, code, text, hint):
    output = "" if "output" in body else "\n  output zz = x"
    wrong = [d for d in errors(body + output) if d.severity == "error"]
    assert [d.code for d in wrong] == [code], [d.render() for d in wrong]
    if text is not None:
        assert at(wrong[0]) == text.split("\n")[0]
    if hint is not None:
        assert any(part in (wrong[0].hint or "") for part in hint.split("|"))


BLOCK = [
    ("block f(x: tensr) -> y { y = x }", "E0205", "tensr"),
    ("block f(x: f32) -> y { y = x }", "E0205", "f32"),
    ("block f(x: tensor = 3) -> y { y = x }", "E0205", "3"),
    ("block f(x: tensor, x: int) -> y { y = x }", "E0202", "x: int"),
    ("block f(x: tensor) -> y { z = x }", "E0206", "y"),
    ("block f(x: tensor) -> y { let y = 3 }", "E0422", "y"),
    ("block f(x: tensor) -> y { output y = x }", "E0207", "output y = x"),
    ("block f(x: tensor) -> y: f32[1, 2] { y = x }", "E0320", "f32[1, 2]"),
    ("block f(x: f32[N, 4, H, W]) -> y { y = x }", "E0320", "4"),
    ("block f(x: f32[N, C, H]) -> y { y = x }", "E0320", "f32[N, C, H]"),
    ("block f(x: f32[N, C, C, H]) -> y { y = x }", "E0320", "C"),
    ("block f(x: tensor, n: int) -> y { y = x }", "E0421", "f"),
    ("block f(x: tensor) -> y { y = x -> f }", "E0212", "f"),
    ("let k = 3\nblock f(x: tensor, k: int = 2) -> y { y = x -> relu }", "E0202", "k: int = 2"),
    ("block f(x: tensor) -> y { y = x -> conv(classes) }", "E0201", "classes"),
    ("block f(x: tensor) -> y { y = x -> conv(1) }\nblock f(x: tensor) -> y { y = x }", "E0202", None),
    ("block f(x: tensor) -> y { y = x }\nblock relu(x: tensor) -> y { y = x }", "E0202", None),
]


@pytest.mark.parametrize("before, code, text", BLOCK)
def test_blocks(before, code, text):
    wrong = [d for d in errors("  output p = x -> f", before) if d.severity == "error"]
    assert [d.code for d in wrong] == [code], [d.render() for d in wrong]
    if text is not None:
        assert at(wrong[0]) == text


def test_the_chain_of_calls_is_told():
    before = "block g(x: tensor, n: int) -> y {\n  y = x -> conv(n, 9x9)\n}\n" \
             "block f(x: tensor) -> y {\n  y = x -> g(2)\n}\n"
    error, = [d for d in errors("  output p = x -> f\n  output q = x -> f", before) if d.severity == "error"]
    assert [(n.message, n.span.place) for n in error.notes] == [
        ("`x` is declared", "t.net:9:3"), ("in `g`, called", "t.net:5:12"), ("in `f`, called", "t.net:11:19")]


def test_where_the_operand_was_made():
    error = errors("  maps = x -> conv(4, 3x3) -> max_pool(2x2)\n  output p = maps -> dense(64) -> tanh")[0]
    assert error.render().split("\n")[:5] == [
        "error[E0301]: `dense` needs a rank-2 input, got f32[N, 4, 3, 3]", " --> t.net:6:22",
        "6 |   output p = maps -> dense(64) -> tanh", "  |                      ^^^^^^^^^",
        "   = note: `maps` is made by max_pool at t.net:5:31"]
    assert error.hint == "put `-> flatten` before it"


def test_all_independent_errors_in_one_run_and_no_follow_ups():
    assert found("""  a = x -> conv(4, 3x3, stide = 2) -> relu -> conv(2.5) -> max_pol(2)
  b = a -> relu -> dense(units = 3, unts = 4)
  c, d = b -> split(2)
  output p = c + d + x -> flatten
  output q = x -> flaten""") == [
        ("E0420", "stide = 2"), ("E0423", "2.5"), ("E0203", "max_pol"), ("E0420", "unts = 4"), ("E0203", "flaten")]


def test_names_are_checked_where_nothing_is_elaborated():
    before = """block unused(x: tensor) -> y {
  y = x -> conv(k, 3x3, stide = 2) -> rellu(frozn)
}
"""
    body = "  if false { a = x -> cov(3, pad = same, init = he)\n  b = a + zz }\n  output p = x"
    assert [(c, t) for c, t in found(body, before)
            if c != "E0209"] == [("E0201", "k"), ("E0420", "stide = 2"), ("E0203", "rellu"), ("E0201", "frozn"),
                                 ("E0203", "cov"), ("E0201", "zz")]


def test_shadowing_is_found_where_nothing_is_elaborated():
    before = "let k = 3\nblock unused(x: tensor, k: int) -> y {\n  if k == 3 { let k = 4 }\n  y = x -> conv(k)\n}\n"
    assert [(c, t) for c, t in found("  output p = x\n  metric accuracy(x -> flatten, y)", before)] == [
        ("E0202", "k: int"), ("E0202", "let k = 4")]


def test_a_value_of_the_other_branch():
    error = next(d for d in errors("  if classes > 10 { a = x -> relu }\n  output p = a") if d.severity == "error")
    assert error.code == "E0201" and "branch" in error.message and error.notes[0].span.place == "t.net:5:3"


def test_syntax_errors_hide_no_others_and_cause_none():
    assert found("  a = = x\n  b = x -> conv(4, stide = 2)\n  output p = a -> relu\n  output q = x -> relo") == [
        ("E0101", "="), ("E0420", "stide = 2"), ("E0203", "relo")]


def test_outputs_and_labels():
    assert found("  a = x -> relu") == [("E0208", HEAD.split("\n")[0]), ("E0209", "input x: f32[N, 3, 8, 8]"),
                                        ("E0209", "label y: i32[N] in classes")]
    assert ("E0327", "output p = y -> cast(f32)") in found("  output p = y -> cast(f32)\n  metric mean(x)")
    assert ("E0327", "output p = l") in found("  l = cross_entropy(x -> flatten, y)\n  loss l\n  output p = l")


def test_flag_and_value_of_one_name():
    before = "block f(x: tensor, frozen: bool) -> y {\n  y = x -> conv(3, %s)\n}\n"
    assert ("E0421", "frozen") in found("  output p = x -> f(true)", before % "frozen")
    assert not [c for c, _ in found("  output p = x -> f(true)\n  metric accuracy(x -> flatten, y)",
                                    before % "frozen = frozen")]


def test_bounded_growth(monkeypatch):
    monkeypatch.setattr("compiler.elaborate.apply.MAX_NODES", 500)
    blocks = "".join(f"block b{i}(x: tensor) -> y {{\n  y = x -> b{i + 1} -> b{i + 1}\n}}\n" for i in range(40))
    wrong = errors("  output p = x -> b0", blocks + "block b40(x: tensor) -> y {\n  y = x -> relu\n}\n")
    assert [d.code for d in wrong if d.severity == "error"] == ["E0213"]


def test_deep_nesting_is_no_traceback():
    nested = "-" * 40 + "(" * 50 + "1" + ")" * 50
    codes = {d.code for d in errors(f"  output p = x -> conv({nested})")}
    assert codes <= {"E0108", "E0209", "E0403", "E0208"}
    blocks = "".join(f"block b{i}(x: tensor) -> y {{\n  y = x -> b{i + 1}\n}}\n" for i in range(45))
    assert not [d for d in errors("  output p = x -> b0", blocks + "block b45(x: tensor) -> y {\n  y = x -> relu\n}\n")
                if d.severity == "error"]


def test_load_raises_everything_together():
    with pytest.raises(DiagnosticError) as caught:
        load(HEAD + "  output p = x -> relo\n  output q = x -> dense(3)\n}\n", name="t.net")
    assert [d.code for d in caught.value.diagnostics] == ["E0203", "E0301"]


def test_a_thousand_errors_in_time():
    body = "\n".join(f"  a{i} = x -> conv(4, stide = {i}) -> relu" for i in range(1000))
    assert len([d for d in errors(body + "\n  output p = x") if d.code == "E0420"]) == 1000


def test_every_kind_of_argument_is_explained():
    for name, op in REGISTRY.items():
        if op.signature is not None:
            for arg in op.args():
                assert arg.kind in KINDS and arg.kind in EXPECTED or words_of(arg.kind), (name, arg)


def test_check_of_a_library_without_a_net():
    assert check("block f(x: tensor) -> y {\n  y = x -> relu\n}\n", name="lib.net") == []


def test_results_share_one_space_of_names():
    text = "net f { input x: f32[N, 3]\n label y: i32[N] in 3\n output loss = x -> softmax\n output accuracy = x\n" \
           " loss cross_entropy(x, y)\n metric accuracy(x, y) }\n"
    found = check(text, name="t.net")
    assert [d.code for d in found] == ["E0202", "E0202"]
    assert {d.span.line for d in found} == {3, 4} and all("another name" in d.hint for d in found)
