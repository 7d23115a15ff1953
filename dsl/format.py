"""The only printer of `.net` text: one style, whatever the source looked like.

It keeps what carries meaning for a reader: comments, single blank lines, line breaks between settings, before `->` and
inside brackets. Everything else, blanks and parentheses included, follows from the tree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dsl import tree as t
from dsl.diagnostics import Span
from dsl.layout import PIPE_WIDTH, STEP, WIDTH, Break, Group, Open, Piece, lay_out
from dsl.lexer import ESCAPES, unescape

PIPE, OR, AND, NOT, COMPARE, SUM, PRODUCT, SIGN, PRIMARY = range(9)
BINARY = {
    "or": (OR, OR, AND), "and": (AND, AND, NOT), "+": (SUM, SUM, PRODUCT), "-": (SUM, SUM, PRODUCT),
    **dict.fromkeys(("*", "/", "//", "%"), (PRODUCT, PRODUCT, SIGN)),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (COMPARE, SUM, SUM)),
}  # operator: its own level, and the loosest that its left and right side may have without parentheses
NUMBER_TEXT = re.compile(r"[ \t(]*([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?)")
STRING_TEXT = re.compile(r'[ \t(]*("(?:[^"\\\n]|\\[^\n])*")')

Position = tuple[int, int]
END: Position = (1 << 60, 0)


def format_file(file: t.File, text: str) -> str:
    """The canonical text of `file`, which was parsed without errors from `text` (any text, if it has no comments).

    Parsing the result gives an equal tree (`lang` is written if it was missing), formatting it again the same text.
    """
    return _Printer(file, text).print_file()


def _start(span: Span) -> Position:
    return span.line, span.column


def _end(span: Span) -> Position:
    return span.end_line, span.end_column


class _Printer:
    def __init__(self, file: t.File, text: str):
        self.file = file
        self.text_lines = text.split("\n")
        self.comments = file.comments
        self.next_comment = 0
        self.lines: list[str] = []
        self.pieces: list[Piece] = []
        self.level = 0
        self.pipe_width = PIPE_WIDTH
        self.source_line = 0  # the line of the source that was printed last, to see blank lines
        self.opened = True  # nothing stands in this body yet: no blank line before what comes

    # --- comments ------------------------------------------------------------------------------------------------

    def pending(self, before: Position) -> list[tuple[str, Span]]:
        """The comments in front of a position that were not printed yet; they count as printed now."""
        first = self.next_comment
        while self.next_comment < len(self.comments) and _start(self.comments[self.next_comment][1]) < before:
            self.next_comment += 1
        return list(self.comments[first:self.next_comment])

    def own_line(self, span: Span) -> bool:
        return not self.text_lines[span.line - 1][:span.column - 1].strip()

    def blank_line(self, line: int) -> None:
        if line - self.source_line > 1 and not self.opened:
            self.lines.append("")
        self.opened = False

    def print_comments(self, comments: Sequence[tuple[str, Span]], indent: int) -> None:
        for text, span in comments:
            self.blank_line(span.line)
            self.lines.append(" " * indent + text)
            self.source_line = span.line

    def comments_before(self, position: Position, indent: int) -> None:
        self.print_comments(self.pending(position), indent)

    def finish(self, last: Position, indent: int) -> None:
        """Ends a statement: lays it out, and puts behind it the comments from within it and from its last line."""
        self.flush(indent)
        self.source_line = max(self.source_line, last[0])
        self.comment_behind((last[0] + 1, 0))
        self.comments_before(last, indent)

    def finish_header(self, first: Position, indent: int) -> None:
        """Ends the first line of a body whose first part begins at `first`: one comment can follow it."""
        self.flush(indent)
        self.comment_behind(first)

    def flush(self, indent: int) -> None:
        self.lines += lay_out(self.pieces, indent)
        self.pieces = []

    def comment_behind(self, before: Position) -> None:
        if self.has_comment(before) and not self.own_line(self.comments[self.next_comment][1]):
            text, span = self.comments[self.next_comment]
            self.lines[-1] += "  " + text
            self.source_line = max(self.source_line, span.line)
            self.next_comment += 1

    # --- pieces --------------------------------------------------------------------------------------------------

    def put(self, text: str) -> None:
        self.pieces.append(text)

    def group(self, width: int = WIDTH) -> Group:
        self.level += 1
        group = Group(self.level, width)
        self.pieces.append(Open(group))
        return group

    def close(self) -> None:
        self.level -= 1

    def may_break(self, group: Group, flat: str, after_line: int, before: Position, shift: int = STEP) -> None:
        """A break; it is kept if the source breaks there, and forced by comments."""
        comments = []
        for text, span in self.pending(before):
            comments.append((text, bool(comments) or self.own_line(span)))
        forced = bool(comments) or before[0] > after_line
        self.pieces.append(Break(group, flat, forced, shift, tuple(comments)))

    def items(self, opener: str, closer: str, items: Sequence[t.Tree], show, span: Span, open_line: int) -> None:
        """`(a, b, c)`: breaks are kept behind the opener, between items and before the closer."""
        self.put(opener)
        group = self.group()
        line = open_line
        for index, item in enumerate(items):
            if index:
                self.put(",")
            if index or self.breaks(line, _start(item.span)):
                self.may_break(group, " " if index else "", line, _start(item.span))
            show(item)
            line = item.span.end_line
        closing = (span.end_line, span.end_column - 1)
        if items and self.breaks(line, closing) or not items and self.has_comment(closing):
            self.may_break(group, "", line, closing, 0)
        self.close()
        self.put(closer)

    def has_comment(self, before: Position) -> bool:
        return self.next_comment < len(self.comments) and _start(self.comments[self.next_comment][1]) < before

    def breaks(self, after_line: int, before: Position) -> bool:
        return before[0] > after_line or self.has_comment(before)

    # --- the file ------------------------------------------------------------------------------------------------

    def print_file(self) -> str:
        lang_line = self.lang_line() if self.file.lang is not None else 0
        self.comments_before((lang_line, 1), 0)
        if lang_line:
            self.blank_line(lang_line)
        self.put(f"lang {self.file.lang or 1}")
        self.finish((lang_line, 1 << 30), 0)
        self.source_line = lang_line
        previous: t.Tree | None = None
        for declaration in self.file.declarations:
            self.separate(previous, declaration)
            self.comments_before(_start(declaration.span), 0)
            self.blank_line(declaration.span.line)
            self.declaration(declaration)
            previous = declaration
        if self.has_comment(END) and previous is None:
            self.lines.append("")
            self.opened = True
        self.comments_before(END, 0)
        return "\n".join(self.lines) + "\n"

    def lang_line(self) -> int:
        for number, line in enumerate(self.text_lines, 1):
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                return number
        return 0

    def separate(self, previous: t.Tree | None, declaration: t.Tree) -> None:
        """One blank line between declarations; imports and lets may stand together, and so may rules."""
        together = isinstance(previous, (t.Import, t.Let)) and isinstance(declaration, (t.Import, t.Let)) or \
            isinstance(previous, t.Rule) and isinstance(declaration, t.Rule)
        if not together:
            self.lines.append("")
            self.opened = True

    def declaration(self, declaration: t.Declaration) -> None:
        match declaration:
            case t.Import(path=path, alias=alias):
                self.put(f"import {self.string(path)} as {alias}")
                self.finish(_end(declaration.span), 0)
            case t.Let():
                self.statement(declaration, 0)
            case t.Section(kind=kind, name=name, settings=settings):
                self.put(f"{kind} {name} {{")
                self.body(declaration.span, settings, self.settings, 0)
            case t.Rule() if line := self.one_line(declaration):
                self.put(line)
                self.finish(_end(declaration.span), 0)
            case t.Rule():
                self.put(f"rule {declaration.name}")
                self.parameters(declaration)
                self.put(" {")
                self.body(declaration.span, (declaration,), self.rewrite, 0)
            case t.Net() | t.Block():
                self.put(f"{'net' if isinstance(declaration, t.Net) else 'block'} {declaration.name}")
                self.parameters(declaration)
                if isinstance(declaration, t.Block):
                    self.put(" -> ")
                    self.targets(declaration.results)
                self.put(" {")
                self.body(declaration.span, declaration.body, self.statements, 0)

    def parameters(self, declaration: t.Net | t.Block | t.Rule) -> None:
        if declaration.parameters:
            # The closing parenthesis has no place in the tree.
            last = declaration.parameters[-1].span
            line = self.closer_line(last)
            span = Span(last.source, last.line, last.column, line, last.end_column + 1 if line == last.end_line else 1)
            self.items("(", ")", declaration.parameters, self.parameter, span, declaration.span.line)
        elif not isinstance(declaration, t.Net):
            self.put("()")

    def closer_line(self, last: Span) -> int:
        """The line of the `)` behind the last parameter."""
        column = last.end_column - 1
        for number in range(last.end_line, len(self.text_lines) + 1):
            rest = self.text_lines[number - 1][column:].partition("#")[0]
            if ")" in rest:
                return number
            if rest.strip(" \t\r\f,"):
                break
            column = 0
        return last.end_line

    def parameter(self, parameter: t.Parameter) -> None:
        self.put(parameter.name)
        if parameter.type is not None:
            self.put(": " + self.type(parameter.type))
        if parameter.default is not None:
            self.put(" = ")
            self.expression(parameter.default)

    def targets(self, targets: Sequence[t.Target]) -> None:
        shown = [target.name + (f": {self.type(target.type)}" if target.type else "") for target in targets]
        self.put(", ".join(shown))

    # --- rules ---------------------------------------------------------------------------------------------------

    def one_line(self, rule: t.Rule) -> str:
        """A rule that stands on one line, has no comments inside and fits there; else nothing."""
        span = rule.span
        if span.line != span.end_line or any(_start(span) < _start(c) < _end(span) for _, c in self.comments):
            return ""
        outside, self.pieces = self.pieces, []
        self.put(f"rule {rule.name}")
        self.parameters(rule)
        self.put(" { ")
        self.sides(rule)
        self.put(" }")
        inside, self.pieces = self.pieces, outside
        line = "".join(p if isinstance(p, str) else p.flat for p in inside if not isinstance(p, Open))
        return line if len(line) <= WIDTH else ""

    def rewrite(self, parts: Sequence[t.Rule], indent: int) -> None:
        """The body of a rule."""
        rule, = parts
        self.comments_before(_start(rule.pattern.span), indent)
        self.blank_line(rule.pattern.span.line)
        self.sides(rule)
        self.finish(_end((rule.condition or rule.replacement).span), indent)

    def sides(self, rule: t.Rule) -> None:
        """`pattern => replacement when condition`; breaks are kept before `=>` and `when`."""
        group = self.group()
        self.pipe_width = WIDTH  # a side is read as a whole
        self.expression(rule.pattern)
        self.may_break(group, " ", rule.pattern.span.end_line, _start(rule.replacement.span))
        self.put("=> ")
        self.expression(rule.replacement)
        if rule.condition is not None:
            self.may_break(group, " ", rule.replacement.span.end_line, _start(rule.condition.span))
            self.put("when ")
            self.expression(rule.condition)
        self.pipe_width = PIPE_WIDTH
        self.close()

    # --- bodies --------------------------------------------------------------------------------------------------

    def body(self, span: Span, parts: Sequence[t.Tree], show, indent: int) -> None:
        """What follows a first line that ends with `{`: the parts and the `}`."""
        stop = (span.end_line, span.end_column - 1)
        if parts or self.has_comment(stop):
            self.inside(parts, show, indent, stop)
        self.put("}")
        self.finish(_end(span), indent)

    def inside(self, parts: Sequence[t.Tree], show, indent: int, stop: Position) -> None:
        """The parts of a body, and its comments up to `stop`."""
        first = getattr(parts[0], "pattern", parts[0]) if parts else None
        self.finish_header(_start(first.span) if parts else stop, indent)
        self.opened = True
        show(parts, indent + STEP)
        self.comments_before(stop, indent + STEP)
        self.opened = False

    def statements(self, statements: Sequence[t.Statement], indent: int) -> None:
        for statement in statements:
            value = getattr(statement, "value", None) or statement
            self.comments_before(_start(value.span), indent)
            self.blank_line(statement.span.line)
            self.statement(statement, indent)

    def settings(self, settings: Sequence[t.Setting], indent: int) -> None:
        """Settings on one line stay on one line, as far as it reaches."""
        row: list[t.Setting] = []
        for setting in settings:
            if row and self.breaks(row[-1].span.end_line, _start(setting.span)):
                self.row(row, indent)
                row = []
            if not row:
                self.comments_before(_start(setting.value.span), indent)
                self.blank_line(setting.span.line)
                group = self.group()
            else:
                self.pieces.append(Break(group, ", ", shift=0))
            self.put(f"{setting.name} = ")
            self.expression(setting.value)
            row.append(setting)
        if row:
            self.row(row, indent)

    def row(self, row: Sequence[t.Setting], indent: int) -> None:
        self.close()
        self.finish(_end(row[-1].span), indent)

    def statement(self, statement: t.Statement, indent: int) -> None:
        match statement:
            case t.If():
                self.if_else(statement, indent)
                return
            case t.Binding(targets=targets, value=value):
                self.targets(targets)
                self.put(" = ")
                self.expression(value)
            case t.Let(name=name, value=value) | t.Layer(name=name, value=value):
                self.put(f"{'let' if isinstance(statement, t.Let) else 'layer'} {name} = ")
                self.expression(value)
            case t.Input(name=name, type=type_):
                self.put(f"input {name}: {self.type(type_)}")
            case t.Label(name=name, type=type_, classes=classes):
                self.put(f"label {name}: {self.type(type_)}")
                if classes is not None:
                    self.put(" in ")
                    self.expression(classes)
            case t.Output(name=name, value=value):
                self.put(f"output {name}")
                if value is not None:
                    self.put(" = ")
                    self.expression(value)
            case t.Loss(name=name, value=value) | t.Metric(name=name, value=value):
                self.put("loss " if isinstance(statement, t.Loss) else "metric ")
                self.put(f"{name} = " if name is not None else "")
                self.expression(value)
        self.finish(_end(statement.span), indent)

    def if_else(self, statement: t.If, indent: int) -> None:
        while True:
            self.put("if ")
            self.expression(statement.condition)
            self.put(" {")
            if not statement.orelse:
                self.body(statement.span, statement.then, self.statements, indent)
                return
            behind = statement.then[-1].span if statement.then else statement.condition.span
            self.inside(statement.then, self.statements, indent, self.find_else(behind, statement))
            self.put("} else ")
            match statement.orelse:
                case (t.If() as nested,):
                    statement = nested
                case orelse:
                    self.put("{")
                    self.body(statement.span, orelse, self.statements, indent)
                    return

    def find_else(self, behind: Span, statement: t.If) -> Position:
        """Where `else` stands: comments before it belong to the first body."""
        first = _start(statement.orelse[0].span)
        comments = {}
        for index in range(self.next_comment, len(self.comments)):
            span = self.comments[index][1]
            if _start(span) >= first:
                break
            comments[span.line] = span.column
        if not comments:
            return first
        column = behind.end_column - 1
        for number in range(behind.end_line, first[0] + 1):
            stop = comments.get(number, END[0]) - 1
            at = re.compile(r"\belse\b").search(self.text_lines[number - 1][:stop], column)
            if at:
                return number, at.start() + 1
            column = 0
        return first

    # --- expressions ---------------------------------------------------------------------------------------------

    def expression(self, node: t.Expression, loosest: int = PIPE) -> None:
        parentheses = self.binding_level(node) < loosest
        if parentheses:
            self.put("(")
        match node:
            case t.Number():
                self.put(self.number(node))
            case t.Dims(sizes=sizes):
                self.put("x".join(map(str, sizes)))
            case t.String():
                self.put(self.string(node))
            case t.Bool(value=value):
                self.put("true" if value else "false")
            case t.Name():
                self.put(node.text)
            case t.Call():
                self.call(node)
            case t.List(items=items):
                self.items("[", "]", items, self.argument, node.span, node.span.line)
            case t.Tuple(items=items):
                self.items("(", ")", items, self.expression, node.span, node.span.line)
            case t.Unary(operator=operator, operand=operand):
                self.put("not " if operator == "not" else operator)
                self.expression(operand, self.binding_level(node))
            case t.Binary():
                self.binary(node)
            case t.Pipe():
                self.pipe(node)
        if parentheses:
            self.put(")")

    @staticmethod
    def binding_level(node: t.Expression) -> int:
        match node:
            case t.Pipe():
                return PIPE
            case t.Binary(operator=operator):
                return BINARY[operator][0]
            case t.Unary(operator="not"):
                return NOT
            case t.Unary():
                return SIGN
        return PRIMARY

    def call(self, call: t.Call) -> None:
        self.put(call.callee.text)
        if not call.bare:
            self.items("(", ")", call.arguments, self.argument, call.span, call.callee.span.end_line)

    def argument(self, argument: t.Argument) -> None:
        if argument.name is not None:
            self.put(f"{argument.name} = ")
        self.expression(argument.value)

    def binary(self, node: t.Binary) -> None:
        _, left, right = BINARY[node.operator]
        match node:
            case t.Binary(operator="/", left=t.Number(unit=None), right=t.Number(unit=None)):
                self.put(f"{self.number(node.left)}/{self.number(node.right)}")
                return
        group = self.group()
        self.expression(node.left, left)
        self.put(f" {node.operator}")
        self.may_break(group, " ", node.left.span.end_line, _start(node.right.span))
        self.expression(node.right, right)
        self.close()

    def pipe(self, node: t.Pipe) -> None:
        group = self.group(self.pipe_width)
        self.expression(node.head, OR)
        line = node.head.span.end_line
        for stage in node.stages:
            self.may_break(group, " ", line, _start(stage.span))
            self.put("-> " if stage.name is None else f"-> {stage.name}: ")
            self.call(stage.call)
            if stage.repeat is not None:
                self.put(" ** ")
                self.expression(stage.repeat, PRIMARY)
            line = stage.span.end_line
        self.close()

    def type(self, node: t.Type) -> str:
        if isinstance(node, t.TypeName):
            return node.name
        return f"{node.dtype}[{', '.join(self.dim(dim) for dim in node.dims)}]"

    def dim(self, node: t.Expression, loosest: int = PIPE) -> str:
        """A dim of a type: `C*2`, `H/2 + 1`."""
        match node:
            case t.Unary(operator=operator, operand=operand):
                text = operator + self.dim(operand, SIGN)
            case t.Binary(operator=operator):
                _, left, right = BINARY[operator]
                sign = operator if operator in ("*", "/", "//") else f" {operator} "
                text = self.dim(node.left, left) + sign + self.dim(node.right, right)
            case t.Number():
                text = self.number(node)
            case t.Name():
                text = node.text
        return f"({text})" if self.binding_level(node) < loosest else text

    # --- literals: as they were written, if that is a canonical way to write them -----------------------------------

    def written(self, span: Span) -> str:
        if span.line != span.end_line or span.line > len(self.text_lines):
            return ""
        return self.text_lines[span.line - 1][span.column - 1:span.end_column - 1]

    def number(self, node: t.Number) -> str:
        text = repr(node.value)
        match = NUMBER_TEXT.match(self.written(node.span))
        if match and match[1].isdigit() == isinstance(node.value, int) and float(match[1]) == node.value:
            text = match[1]
        if node.unit is None:
            return text
        return f"{text}%" if node.unit == "%" else f"{text} {node.unit}"

    def string(self, node: t.String) -> str:
        match = STRING_TEXT.match(self.written(node.span))
        if match and unescape(match[1][1:-1]) == node.value:
            return match[1]
        back = {value: f"\\{letter}" for letter, value in ESCAPES.items()}
        return '"' + "".join(back.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):X}}}") for c in node.value) + '"'
