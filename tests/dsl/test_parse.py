"""Parsing: what each construct becomes, the newline rules, and the exact spans."""

from pathlib import Path

import pytest

from dsl import tree as t
from dsl.diagnostics import Source, Span
from dsl.parse import parse

S = Span(Source("t", ""), 1, 1, 1, 1)  # spans do not count in comparisons
CONSTRUCTS = (Path(__file__).parent / "constructs.net").read_text()


def tree(text: str) -> t.File:
    file, problems = parse(text, "t.net")
    assert not problems, "\n".join(p.render() for p in problems)
    return file


def body(text: str) -> tuple:
    return tree(f"net f {{\n{text}\n}}\n").declarations[0].body


def value(text: str) -> t.Expression:
    return body(f"  v = {text}")[0].value


def name(*parts: str) -> t.Name:
    return t.Name(S, parts)


def number(value, unit=None) -> t.Number:
    return t.Number(S, value, unit)


def call(callee: str, *arguments: t.Argument) -> t.Call:
    return t.Call(S, name(callee), arguments)


def bare(callee: str) -> t.Call:
    return t.Call(S, name(callee), (), True)


def argument(value, name=None) -> t.Argument:
    return t.Argument(S, value, name)


def stage(call, name=None, repeat=None) -> t.Stage:
    return t.Stage(S, call, name, repeat)


def binary(left, operator, right) -> t.Binary:
    return t.Binary(S, operator, left, right)


A, B, C = name("a"), name("b"), name("c")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("3", number(3)),
        ("0.5", number(0.5)),
        (".5", number(0.5)),
        ("2.", number(2.0)),
        ("1e-4", number(1e-4)),
        ("007", number(7)),
        ("5 epochs", number(5, "epochs")),
        ("5epochs", number(5, "epochs")),
        ("80%", number(80, "%")),
        ("0.5%", number(0.5, "%")),
        ("5 % 3", binary(number(5), "%", number(3))),
        ("5%3", binary(number(5), "%", number(3))),
        ("5% - 3", binary(number(5, "%"), "-", number(3))),
        ("5 == 3", binary(number(5), "==", number(3))),
        ("5x5", t.Dims(S, (5, 5))),
        ("3x224x224", t.Dims(S, (3, 224, 224))),
        ('"a b"', t.String(S, "a b")),
        (r'"\n\t\"\\\u{2603}"', t.String(S, '\n\t"\\\u2603')),
        ('"# no comment"', t.String(S, "# no comment")),
        ("true", t.Bool(S, True)),
        ("false", t.Bool(S, False)),
        ("a", A),
        ("g.inception", name("g", "inception")),
        ("f()", call("f")),
        (
            "f(a, 3x3, pad = same, frozen,)",
            call(
                "f", argument(A), argument(t.Dims(S, (3, 3))), argument(name("same"), "pad"), argument(name("frozen"))
            ),
        ),
        ("g.f(a)", t.Call(S, name("g", "f"), (argument(A),))),
        ("[]", t.List(S, ())),
        (
            "[1, [a], b = 2]",
            t.List(S, (argument(number(1)), argument(t.List(S, (argument(A),))), argument(number(2), "b"))),
        ),
        ("-a", t.Unary(S, "-", A)),
        ("--a", t.Unary(S, "-", t.Unary(S, "-", A))),
        ("not a == b", t.Unary(S, "not", binary(A, "==", B))),
        ("a + b * c", binary(A, "+", binary(B, "*", C))),
        ("a - b - c", binary(binary(A, "-", B), "-", C)),
        ("a - (b - c)", binary(A, "-", binary(B, "-", C))),
        ("a // b / c % a", binary(binary(binary(A, "//", B), "/", C), "%", A)),
        ("-a * b", binary(t.Unary(S, "-", A), "*", B)),
        ("a or b and not c", binary(A, "or", binary(B, "and", t.Unary(S, "not", C)))),
        ("a + b < c and a >= b", binary(binary(binary(A, "+", B), "<", C), "and", binary(A, ">=", B))),
        ("a -> relu", t.Pipe(S, A, (stage(bare("relu")),))),
        (
            "a -> f(1) -> r: conv(64) ** 3",
            t.Pipe(
                S, A, (stage(call("f", argument(number(1)))), stage(call("conv", argument(number(64))), "r", number(3)))
            ),
        ),
        ("a -> f ** (b - 1)", t.Pipe(S, A, (stage(bare("f"), None, binary(B, "-", number(1))),))),
        ("a -> g.block", t.Pipe(S, A, (stage(t.Call(S, name("g", "block"), (), True)),))),
        ("(a, b) -> f", t.Pipe(S, t.Tuple(S, (A, B)), (stage(bare("f")),))),
        ("a + b -> f", t.Pipe(S, binary(A, "+", B), (stage(bare("f")),))),
        ("(a -> f) -> g", t.Pipe(S, t.Pipe(S, A, (stage(bare("f")),)), (stage(bare("g")),))),
        (
            "f(a -> g, x = b -> h)",
            call("f", argument(t.Pipe(S, A, (stage(bare("g")),))), argument(t.Pipe(S, B, (stage(bare("h")),)), "x")),
        ),
        ("0.3 * f(a)", binary(number(0.3), "*", call("f", argument(A)))),
    ],
)
def test_expressions(text, expected):
    assert value(text) == expected


def dims(*values) -> t.TensorSpec:
    return t.TensorSpec(S, "f32", values)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a = b", t.Binding(S, (t.Target(S, "a"),), B)),
        ("a, b = f()", t.Binding(S, (t.Target(S, "a"), t.Target(S, "b")), call("f"))),
        ("a: f32[] = b", t.Binding(S, (t.Target(S, "a", dims()),), B)),
        (
            "a: f32[N, c*2, c//2 + 1], b = f()",
            t.Binding(
                S,
                (
                    t.Target(
                        S,
                        "a",
                        dims(name("N"), binary(C, "*", number(2)), binary(binary(C, "//", number(2)), "+", number(1))),
                    ),
                    t.Target(S, "b"),
                ),
                call("f"),
            ),
        ),
        ("let a = 3", t.Let(S, "a", number(3))),
        ("layer a = f(3)", t.Layer(S, "a", call("f", argument(number(3))))),
        ("layer a = relu", t.Layer(S, "a", bare("relu"))),
        ("input a: f32[N]", t.Input(S, "a", dims(name("N")))),
        ("label a: f32[N]", t.Label(S, "a", dims(name("N")))),
        ("label a: f32[N] in c", t.Label(S, "a", dims(name("N")), C)),
        ("output a", t.Output(S, "a")),
        ("output a = b", t.Output(S, "a", B)),
        ("loss f(a)", t.Loss(S, call("f", argument(A)))),
        ("loss -a", t.Loss(S, t.Unary(S, "-", A))),
        ("loss (a, b) -> f", t.Loss(S, t.Pipe(S, t.Tuple(S, (A, B)), (stage(bare("f")),)))),
        ("loss aux = f(a)", t.Loss(S, call("f", argument(A)), "aux")),
        ("metric f(a)", t.Metric(S, call("f", argument(A)))),
        ("metric top = f(a)", t.Metric(S, call("f", argument(A)), "top")),
        ("if a { }", t.If(S, A, ())),
        ("if a { b = c }", t.If(S, A, (t.Binding(S, (t.Target(S, "b"),), C),))),
        ("if a { } else { output b }", t.If(S, A, (), (t.Output(S, "b"),))),
        (
            "if a {\n}\n\n# c\nelse if b {\n}\nelse {\n output b\n}",
            t.If(S, A, (), (t.If(S, B, (), (t.Output(S, "b"),)),)),
        ),
        # keywords are keywords only where their statement can begin
        ("label = b", t.Binding(S, (t.Target(S, "label"),), B)),
        ("input, output = f()", t.Binding(S, (t.Target(S, "input"), t.Target(S, "output")), call("f"))),
        (
            "data: f32[] = f(train, loss = net)",
            t.Binding(
                S, (t.Target(S, "data", dims()),), call("f", argument(name("train")), argument(name("net"), "loss"))
            ),
        ),
        ("let let = let", t.Let(S, "let", name("let"))),
        ("output output", t.Output(S, "output")),
    ],
)
def test_statements(text, expected):
    assert body(text) == (expected,)


@pytest.mark.parametrize(
    "text, expected",
    [
        ('import "a b.net" as g', t.Import(S, t.String(S, "a b.net"), "g")),
        ("let k = 3", t.Let(S, "k", number(3))),
        ("net f {}", t.Net(S, "f", (), ())),
        ("net f() {\n\n}", t.Net(S, "f", (), ())),
        (
            "net f(a: int = 3, b = true, c: f32[N],) {}",
            t.Net(
                S,
                "f",
                (
                    t.Parameter(S, "a", t.TypeName(S, "int"), number(3)),
                    t.Parameter(S, "b", None, t.Bool(S, True)),
                    t.Parameter(S, "c", dims(name("N"))),
                ),
                (),
            ),
        ),
        ("block f() -> y {}", t.Block(S, "f", (), (t.Target(S, "y"),), ())),
        (
            "block f(x: tensor)\n  -> y: f32[N],\n z {}",
            t.Block(
                S,
                "f",
                (t.Parameter(S, "x", t.TypeName(S, "tensor")),),
                (t.Target(S, "y", dims(name("N"))), t.Target(S, "z")),
                (),
            ),
        ),
        ("data d {}", t.Section(S, "data", "d", ())),
        (
            "train t { a = 1, b = 2\n c = 3,\n d = 4, }",
            t.Section(S, "train", "t", tuple(t.Setting(S, key, number(i)) for i, key in enumerate("abcd", 1))),
        ),
        (
            "train data { data = train, net = data, lang = 1 }",
            t.Section(
                S,
                "train",
                "data",
                (
                    t.Setting(S, "data", name("train")),
                    t.Setting(S, "net", name("data")),
                    t.Setting(S, "lang", number(1)),
                ),
            ),
        ),
    ],
)
def test_declarations(text, expected):
    assert tree(text).declarations == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        "a = b -> f -> g",
        "a = b\n-> f\n\n\n-> g",
        "a = b # c\n  # c\n    -> f ->\n g",
        "a =\n b -> f\n -> g",
    ],
)
def test_a_pipe_goes_on_over_lines(text):
    assert body(text) == body("a = b -> f -> g")


@pytest.mark.parametrize("text", ["a = f(b,\nc\n)\n", "a = f(\n\nb\n,\nc)", "a = f(b, # d\nc # e\n)"])
def test_newlines_inside_brackets_do_not_count(text):
    assert body(text) == body("a = f(b, c)")


def test_a_line_ends_a_statement():
    assert body("a = b\nc = a") == body("a = b") + body("c = a")
    assert body("a = b +\nc\nc = a") == body("a = b + c") + body("c = a")
    assert body("a = not\nb and\nc") == body("a = not b and c")


def test_carriage_returns_are_blanks():
    assert tree("net f {\r\n  a = b\r\n}\r\n") == tree("net f {\n  a = b\n}")


def test_lang_and_comments_are_kept():
    file = tree("# one\nlang 1 # two\nnet f { # three\n}\n# four")
    assert file.lang == 1 and tree("net f {}").lang is None
    assert [(text, span.line, span.column) for text, span in file.comments] == [
        ("# one", 1, 1),
        ("# two", 2, 8),
        ("# three", 3, 9),
        ("# four", 5, 1),
    ]


def test_an_empty_text_is_an_empty_file():
    assert tree("") == t.File(S, None, ()) == tree("\n\n  # nothing\n")


# --- spans ---------------------------------------------------------------------------------------------------------


def walk(node):
    if isinstance(node, t.Tree):
        yield node
        for part in vars(node).values():
            yield from walk(part)
    elif isinstance(node, tuple):
        for part in node:
            yield from walk(part)


def cut(text: str, span: Span) -> str:
    lines = text.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)


def shown(text: str) -> list[tuple[str, str]]:
    return [(type(node).__name__, cut(text, node.span)) for node in walk(tree(text).declarations)]


def test_spans_of_a_net_over_several_lines():
    text = (
        "net  f(k: int = 3) {\n  y: f32[N, C*2] = (x + 1,\n    z) -> a: g.f(k = 5 epochs,\n [1x1]) ** (n)   # c\n"
        "    -> relu\n}\n"
    )
    assert shown(text) == [
        ("Net", text[:-1]),
        ("Parameter", "k: int = 3"),
        ("TypeName", "int"),
        ("Number", "3"),
        ("Binding", text[text.index("y:") : text.index("\n}")]),
        ("Target", "y: f32[N, C*2]"),
        ("TensorSpec", "f32[N, C*2]"),
        ("Name", "N"),
        ("Binary", "C*2"),
        ("Name", "C"),
        ("Number", "2"),
        ("Pipe", text[text.index("(x") : text.index("\n}")]),
        ("Tuple", "(x + 1,\n    z)"),
        ("Binary", "x + 1"),
        ("Name", "x"),
        ("Number", "1"),
        ("Name", "z"),
        ("Stage", "-> a: g.f(k = 5 epochs,\n [1x1]) ** (n)"),
        ("Call", "g.f(k = 5 epochs,\n [1x1])"),
        ("Name", "g.f"),
        ("Argument", "k = 5 epochs"),
        ("Number", "5 epochs"),
        ("Argument", "[1x1]"),
        ("List", "[1x1]"),
        ("Argument", "1x1"),
        ("Dims", "1x1"),
        ("Name", "(n)"),
        ("Stage", "-> relu"),
        ("Call", "relu"),
        ("Name", "relu"),
    ]


def test_spans_of_the_other_constructs():
    text = (
        'import "a.net" as g\nlet k = -3\ndata d {\n  a = [x = 70%], b = not true,\n}\n'
        "block b(x: tensor) -> y, z: f32[N] {\n  if a { output y } else if c {\n    layer l = f(1)\n  }\n"
        '  label s: i32[N] in 4\n  loss aux = "e"\n  input i: u8[]\n}'
    )
    assert shown(text) == [
        ("Import", 'import "a.net" as g'),
        ("String", '"a.net"'),
        ("Let", "let k = -3"),
        ("Unary", "-3"),
        ("Number", "3"),
        ("Section", text[text.index("data") : text.index("\nblock")]),
        ("Setting", "a = [x = 70%]"),
        ("List", "[x = 70%]"),
        ("Argument", "x = 70%"),
        ("Number", "70%"),
        ("Setting", "b = not true"),
        ("Unary", "not true"),
        ("Bool", "true"),
        ("Block", text[text.index("block") :]),
        ("Parameter", "x: tensor"),
        ("TypeName", "tensor"),
        ("Target", "y"),
        ("Target", "z: f32[N]"),
        ("TensorSpec", "f32[N]"),
        ("Name", "N"),
        ("If", text[text.index("if") : text.index("\n  label")]),
        ("Name", "a"),
        ("Output", "output y"),
        ("If", text[text.index("if c") : text.index("\n  label")]),
        ("Name", "c"),
        ("Layer", "layer l = f(1)"),
        ("Call", "f(1)"),
        ("Name", "f"),
        ("Argument", "1"),
        ("Number", "1"),
        ("Label", "label s: i32[N] in 4"),
        ("TensorSpec", "i32[N]"),
        ("Name", "N"),
        ("Number", "4"),
        ("Loss", 'loss aux = "e"'),
        ("String", '"e"'),
        ("Input", "input i: u8[]"),
        ("TensorSpec", "u8[]"),
    ]


def test_every_span_of_every_construct_lies_inside_its_parent():
    def check(node, outer):
        begin, end = (node.span.line, node.span.column), (node.span.end_line, node.span.end_column)
        assert outer[0] <= begin < end <= outer[1], node
        for part in vars(node).values():
            for child in part if isinstance(part, tuple) else (part,):
                if isinstance(child, t.Tree):
                    check(child, (begin, end))

    for declaration in tree(CONSTRUCTS).declarations:
        check(declaration, ((1, 1), (CONSTRUCTS.count("\n") + 1, 1)))


def test_a_rule_has_two_sides_and_a_condition():
    text = "rule f(x: tensor, w: weight[O, 1] = 0) {\n  (x -> relu, x)\n  => (x,\n  x) \n  when O > 1\n}\n"
    (rule,) = parse(text, "t.net")[0].declarations
    assert isinstance(rule, t.Rule) and [p.name for p in rule.parameters] == ["x", "w"]
    assert isinstance(rule.pattern, t.Tuple) and isinstance(rule.replacement, t.Tuple)
    assert isinstance(rule.condition, t.Binary) and (rule.span.line, rule.span.end_line) == (1, 6)


def test_when_is_a_word_like_any_other_elsewhere():
    text = "rule when(when: tensor) { when -> relu => when when when == 1 }\nnet rule {\n  when = rule\n}\n"
    file, problems = parse(text, "t.net")
    assert not problems and [d.name for d in file.declarations] == ["when", "rule"]
    assert file.declarations[0].replacement.text == "when"
