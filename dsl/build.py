"""From what the grammar recognised to the syntax tree. Every method takes the children of its rule, tokens included."""

from __future__ import annotations

import dataclasses

from lark import Transformer

from dsl import tree as t
from dsl.diagnostics import Diagnostic, Source, Span
from dsl.lexer import Token, unescape

LANG = 1


class Builder(Transformer):
    """Builds the tree of one text; `diagnostics` collects what the grammar alone cannot refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.start(Source("", ""))

    def start(self, source: Source) -> None:
        """Forget the last text, begin with `source`."""
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.lang_number: int | None = None
        self.lang_span: Span | None = None

    def span(self, first: Token | t.Tree, last: Token | t.Tree) -> Span:
        begin = first if isinstance(first, Token) else first.span
        end = last if isinstance(last, Token) else last.span
        return Span(self.source, begin.line, begin.column, end.end_line, end.end_column)

    def report(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, hint))

    # --- declarations --------------------------------------------------------------------------------------------

    def file(self, c: list) -> tuple[t.Declaration, ...]:
        if self.lang_span is not None and c[0] is not None:
            self.report("E0109", "`lang` stands before everything else", self.lang_span, "move it to the first line")
        return tuple(d for d in c if d is not None)

    def lang(self, c: list) -> None:
        self.lang_span = span = self.span(c[0], c[1])
        if c[1].value != str(LANG):
            self.report("E0109", f"this is language {c[1].value}; this netc knows language {LANG}",
                        self.span(c[1], c[1]), f"write `lang {LANG}`, or use a newer netc")
        elif self.lang_number is not None:
            self.report("E0109", "`lang` stands only once in a file", span, "remove this line")
        self.lang_number = LANG

    def import_line(self, c: list) -> t.Import:
        path = t.String(self.span(c[1], c[1]), unescape(c[1].value[1:-1]))
        return t.Import(self.span(c[0], c[3]), path, c[3].value)

    def let(self, c: list) -> t.Let:
        return t.Let(self.span(c[0], c[3]), c[1].value, c[3])

    def block(self, c: list) -> t.Block:
        return t.Block(self.span(c[0], c[5][-1]), c[1].value, c[2], c[4], tuple(c[5][1:-1]))

    def net(self, c: list) -> t.Net:
        parameters = c[2] if len(c) == 5 else ()
        return t.Net(self.span(c[0], c[-2][-1]), c[1].value, parameters, tuple(c[-2][1:-1]))

    def rule(self, c: list) -> t.Rule:
        condition = c[8] if c[7].type == "WHEN" else None
        return t.Rule(self.span(c[0], c[-2]), c[1].value, c[2], c[4], c[6], condition)

    def parameters(self, c: list) -> tuple[t.Parameter, ...]:
        return tuple(p for p in c if isinstance(p, t.Parameter))

    def parameter(self, c: list) -> t.Parameter:
        kind = c[2] if len(c) > 1 and c[1].type == "COLON" else None
        default = c[-1] if len(c) > 1 and c[-2].type == "EQUAL" else None
        span = self.span(c[0], c[-1])
        if kind is None and default is None:
            self.report("E0110", f"parameter `{c[0].value}` has neither a type nor a default", span,
                        f"write `{c[0].value}: int`, `{c[0].value}: tensor`, or `{c[0].value} = …`")
        return t.Parameter(span, c[0].value, kind, default)

    def tensor_type(self, c: list) -> t.TensorSpec:
        dims = tuple(d for d in c[2:-1] if isinstance(d, t.Tree))
        for dim in dims:
            self.check_dim(dim)
        return t.TensorSpec(self.span(c[0], c[-1]), c[0].value, dims)

    def check_dim(self, dim: t.Expression) -> None:
        match dim:
            case t.Number(value=int(), unit=None) | t.Name():
                return
            case t.Unary(operator="-"):
                self.check_dim(dim.operand)
            case t.Binary(operator="+" | "-" | "*" | "/" | "//" | "%"):
                self.check_dim(dim.left)
                self.check_dim(dim.right)
            case _:
                self.report("E0110", "a dim of a type is a whole number, a name, or arithmetic of them", dim.span,
                            "for example `f32[N, C*2, H/2, 5]`")

    def type_name(self, c: list) -> t.TypeName:
        return t.TypeName(self.span(c[0], c[0]), c[0].value)

    def section(self, c: list) -> t.Section:
        settings = tuple(s for line in c[3:-2] for s in line)
        return t.Section(self.span(c[0], c[-2]), c[0].value, c[1].value, settings)

    def setting_line(self, c: list) -> tuple[t.Setting, ...]:
        return tuple(s for s in c if isinstance(s, t.Setting))

    def setting(self, c: list) -> t.Setting:
        return t.Setting(self.span(c[0], c[2]), c[0].value, c[2])

    # --- statements ----------------------------------------------------------------------------------------------

    def body(self, c: list) -> list:
        return c

    def binding(self, c: list) -> t.Binding:
        return t.Binding(self.span(c[0][0], c[2]), c[0], c[2])

    def targets(self, c: list) -> tuple[t.Target, ...]:
        return tuple(c[::2])

    def target(self, c: list) -> t.Target:
        return t.Target(self.span(c[0], c[-1]), c[0].value, c[2] if len(c) > 1 else None)

    def layer(self, c: list) -> t.Layer:
        return t.Layer(self.span(c[0], c[3]), c[1].value, c[3])

    def input(self, c: list) -> t.Input:
        return t.Input(self.span(c[0], c[3]), c[1].value, c[3])

    def label(self, c: list) -> t.Label:
        return t.Label(self.span(c[0], c[-2]), c[1].value, c[3], c[5] if len(c) > 5 else None)

    def output(self, c: list) -> t.Output:
        return t.Output(self.span(c[0], c[-2]), c[1].value, c[3] if len(c) > 3 else None)

    def loss(self, c: list) -> t.Loss:
        return t.Loss(self.span(c[0], c[-2]), c[-2], c[1].value if len(c) > 3 else None)

    def metric(self, c: list) -> t.Metric:
        return t.Metric(self.span(c[0], c[-2]), c[-2], c[1].value if len(c) > 3 else None)

    def if_else(self, c: list) -> t.If:
        then = tuple(c[2][1:-1])
        if len(c) == 4:
            return t.If(self.span(c[0], c[2][-1]), c[1], then)
        if isinstance(c[4], t.If):
            return t.If(self.span(c[0], c[4]), c[1], then, (c[4],))
        return t.If(self.span(c[0], c[4][-1]), c[1], then, tuple(c[4][1:-1]))

    # --- expressions ---------------------------------------------------------------------------------------------

    def pipe(self, c: list) -> t.Pipe:
        return t.Pipe(self.span(c[0], c[-1]), c[0], tuple(c[1:]))

    def tuple(self, c: list) -> t.Tuple:
        return t.Tuple(self.span(c[0], c[-1]), tuple(c[1:-1:2]))

    def stage(self, c: list) -> t.Stage:
        name, call = (c[1].value, c[3]) if isinstance(c[1], Token) else (None, c[1])
        return t.Stage(self.span(c[0], c[-1]), call, name, c[-1] if c[-1] is not call else None)

    def bare_call(self, c: list) -> t.Call:
        return t.Call(c[0].span, c[0], (), True)

    def binary(self, c: list) -> t.Binary:
        return t.Binary(self.span(c[0], c[2]), c[1].value, c[0], c[2])

    def unary(self, c: list) -> t.Unary:
        return t.Unary(self.span(c[0], c[1]), c[0].value, c[1])

    def paren(self, c: list) -> t.Expression:
        return dataclasses.replace(c[1], span=self.span(c[0], c[2]))

    def number(self, c: list) -> t.Number:
        text = c[0].value
        value = int(text) if text.isdigit() else float(text)
        return t.Number(self.span(c[0], c[-1]), value, c[1].value if len(c) > 1 else None)

    def dims(self, c: list) -> t.Dims:
        return t.Dims(self.span(c[0], c[0]), tuple(int(size) for size in c[0].value.split("x")))

    def string(self, c: list) -> t.String:
        return t.String(self.span(c[0], c[0]), unescape(c[0].value[1:-1]))

    def bool(self, c: list) -> t.Bool:
        return t.Bool(self.span(c[0], c[0]), c[0].type == "TRUE")

    def name(self, c: list) -> t.Name:
        return t.Name(self.span(c[0], c[-1]), tuple(part.value for part in c[::2]))

    def call(self, c: list) -> t.Call:
        return t.Call(self.span(c[0], c[-1]), c[0], tuple(a for a in c[2:-1] if isinstance(a, t.Argument)))

    def list(self, c: list) -> t.List:
        return t.List(self.span(c[0], c[-1]), tuple(a for a in c[1:-1] if isinstance(a, t.Argument)))

    def argument(self, c: list) -> t.Argument:
        return t.Argument(self.span(c[0], c[-1]), c[-1], c[0].value if len(c) > 1 else None)
