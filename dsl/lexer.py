"""From characters to the tokens of the grammar: where a statement ends, which words are keywords, what is a unit.

Whatever is wrong with the text itself (brackets that do not match, foreign characters, broken strings) becomes a token
BROKEN that carries its diagnostic: the parser reports it and goes on behind that statement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dsl.diagnostics import Diagnostic, Note, Source, Span

MAX_DEPTH = 100  # a bracket counts 2, an operator 1: keeps every walk over the tree far from Python's recursion limit
BRACKET = 2
MAX_TOKENS = 250_000  # about 25,000 lines
MAX_DIAGNOSTICS = 2000
MAX_DIGITS = 400
MAX_INT = 2**63 - 1

RESERVED = {"true": "TRUE", "false": "FALSE", "and": "AND", "or": "OR", "not": "NOT", "in": "IN", "if": "IF",
            "else": "ELSE"}
DECLARATIONS = {"import": "IMPORT", "let": "LET", "block": "BLOCK", "net": "NET", "rule": "RULE", "data": "DATA",
                "train": "TRAIN"}
STATEMENTS = {"let": "LET", "layer": "LAYER", "input": "INPUT", "label": "LABEL", "output": "OUTPUT", "loss": "LOSS",
              "metric": "METRIC"}
TOP = DECLARATIONS | {"lang": "LANG"}

CONTINUES = frozenset({
    "ARROW", "THEN", "POWER", "FLOOR", "COMPARE", "EQUAL", "COLON", "COMMA", "DOT", "PLUS", "MINUS", "STAR", "SLASH",
    "PERCENT", "LPAR", "LSQB", "LBRACE", "AND", "OR", "NOT", "IN", "NEWLINE",
})  # a line that ends with one of these goes on
OPERATORS = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "FLOOR", "PERCENT", "COMPARE", "AND", "OR", "NOT"})
VALUE_ENDS = frozenset({"NAME", "NUMBER", "UNIT", "DIMS", "STRING", "TRUE", "FALSE", "RPAR", "RSQB"})
VALUE_STARTS = frozenset({"NAME", "NUMBER", "DIMS", "STRING", "TRUE", "FALSE", "NOT"})
OPENERS = {"LPAR": ")", "LSQB": "]"}
CLOSERS = {"RPAR": "LPAR", "RSQB": "LSQB"}

ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|(.))", re.DOTALL)

FOREIGN_HINTS = {
    ";": "a statement ends with its line; settings are separated by commas", "'": 'strings stand in double quotes: "…"',
    "&&": "write `and`", "||": "write `or`", "!": "write `not`, or `!=` for unequal", "^": "there is no power operator",
    "\0": "this does not look like a text file",
}


class Token:
    """A word of the text: its terminal, its characters, its place (as in Span). A BROKEN one carries its diagnostic."""

    __slots__ = ("type", "value", "line", "column", "end_line", "end_column", "diagnostic")

    def __init__(self, type: str, value: str, line: int, column: int, end_column: int,
                 diagnostic: Diagnostic | None = None):
        self.type, self.value, self.line, self.column = type, value, line, column
        self.end_line, self.end_column, self.diagnostic = line, end_column, diagnostic

    def at_same_place(self, type: str, value: str, diagnostic: Diagnostic | None = None) -> Token:
        return Token(type, value, self.line, self.column, self.end_column, diagnostic)


def token_span(source: Source, token: Token) -> Span:
    return Span(source, token.line, token.column, token.end_line, token.end_column)


def scan(text: str, terminals: re.Pattern) -> Iterator[Token]:
    """The raw tokens of a text; `terminals` has a named group for each terminal and matches everywhere."""
    line, line_start = 1, 0
    for match in terminals.finditer(text):
        kind, value, start = match.lastgroup, match.group(), match.start()
        if kind == "SPACE":
            if breaks := value.count("\n"):
                line += breaks
                line_start = start + value.rfind("\n") + 1
        else:
            column = start - line_start + 1
            yield Token(kind, value, line, column, column + len(value))


def unescape(body: str) -> str:
    """The value of the text between a string's quotes. Raises ValueError(escape, offset in body) at a bad escape."""
    def value(match: re.Match) -> str:
        code, letter = match.groups()
        if letter in ESCAPES:
            return ESCAPES[letter]
        if code is not None and (number := int(code, 16)) <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
            return chr(number)
        raise ValueError(match.group(), match.start())

    return ESCAPE.sub(value, body)


@dataclass
class _Brace:
    opener: Token
    header: Token  # the first token of the statement that opened it
    depth: int


@dataclass
class _Filter:
    """One pass over the raw tokens of a text. `out` grows; `brackets` and `braces` are what is open."""

    source: Source
    out: list[Token] = field(default_factory=list)
    comments: list[tuple[str, Span]] = field(default_factory=list)
    brackets: list[tuple[Token, int]] = field(default_factory=list)
    braces: list[_Brace] = field(default_factory=list)
    depth: int = 0  # how deep the tree is here: open brackets and braces, and operators since the last comma
    closed_depth: int = 0
    first: Token | None = None  # first token of this statement
    broken: int = 0
    stopped: bool = False

    def run(self, raw: Iterable[Token]) -> None:
        previous: Token | None = None
        held: Token | None = None
        for count, token in enumerate(raw):
            if count == MAX_TOKENS:
                self._broken(token, "E0123", f"more than {MAX_TOKENS} words: the rest was not looked at",
                             "a `.net` file is a page of text")
                self.stopped = True
            if self.stopped or self.broken > MAX_DIAGNOSTICS:
                self._close_silently()
                return
            if token.type == "COMMENT":
                self.comments.append((token.value.rstrip(), self._comment_span(token)))
                continue
            if held is not None:
                self._take(previous, held, token)
                previous = held
            held = token
        if held is not None:
            self._take(previous, held, None)
            previous = held
        self._finish(previous)

    def _comment_span(self, token: Token) -> Span:
        width = len(token.value.rstrip())
        return Span(self.source, token.line, token.column, token.line, token.column + width)

    # --- one token -----------------------------------------------------------------------------------------------

    def _take(self, previous: Token | None, token: Token, following: Token | None) -> None:
        new_line = previous is not None and token.line > previous.end_line
        kind = RESERVED.get(token.value) if token.type == "NAME" else None
        if kind is not None:
            token.type = kind
        if new_line and self.brackets and self._bracket_was_forgotten(token, following):
            self._report_open_bracket(token)
        if new_line and not self.brackets:
            self._line_break(token)
        at_start = self._at_start()
        if at_start:
            self._start_statement(token, following)
        if token.type == "NAME":
            self._on_name(previous, token, following, at_start)
        elif token.type == "PERCENT" and self._is_unit(previous, token, following):
            token.type = "UNIT"
            self.out.append(token)
        else:
            handle = self.HANDLERS.get(token.type)
            handle(self, token) if handle else self.out.append(token)

    def _on_operator(self, token: Token) -> None:
        if not self._too_deep(token, 1):
            self.out.append(token)

    def _at_start(self) -> bool:
        return not self.out or self.out[-1].type in ("NEWLINE", "LBRACE")

    def _start_statement(self, token: Token, following: Token | None) -> None:
        self.first = token
        self.depth = self.braces[-1].depth if self.braces else 0
        if self.braces and self._declares(token, following) and token.column <= self.braces[-1].header.column:
            while self.braces:
                self._report_open_brace(token)
            self.depth = 0
            self.first = token

    def _line_break(self, token: Token) -> None:
        last = self.out[-1].type if self.out else "NEWLINE"
        if last in CONTINUES or token.type in ("ARROW", "THEN") or (token.type == "ELSE" and last == "RBRACE") \
                or self._is_when(token):
            return
        self._newline(self.out[-1])

    def _is_when(self, token: Token) -> bool:
        """Whether the condition of a rule begins here: no expression goes on with a word."""
        return token.value == "when" and token.type == "NAME" and bool(self.braces) and not self.brackets \
            and self.braces[-1].header.type == "RULE" and self.out[-1].type in VALUE_ENDS

    def _newline(self, after: Token) -> None:
        self.out.append(Token("NEWLINE", "", after.end_line, after.end_column, after.end_column))

    def _declares(self, token: Token, following: Token | None) -> bool:
        """Whether a declaration begins here: `block f`, `import "x"`."""
        if token.type != "NAME" or following is None or following.line != token.end_line:
            return False
        if token.value == "import":
            return following.type == "STRING"
        named = following.type == "NAME" and following.value not in RESERVED
        return named and token.value in ("block", "net", "rule", "data", "train")

    # --- words and numbers ---------------------------------------------------------------------------------------

    def _on_name(self, previous: Token | None, token: Token, following: Token | None, at_start: bool) -> None:
        after = following.type if following is not None else None
        if self._is_when(token):
            token.type = "WHEN"
            self._on_separator(token)
            return
        if at_start and after not in ("EQUAL", "COLON", "COMMA"):
            header = self.braces[-1].header.type if self.braces else None
            words = TOP if header is None else {} if header in ("DATA", "TRAIN", "RULE") else STATEMENTS
            token.type = words.get(token.value, "NAME")
        elif previous is not None and self.out and self.out[-1] is previous:
            if token.value == "as" and previous.type == "STRING":
                token.type = "AS"
            elif previous.type == "NUMBER" and previous.end_line == token.line and after not in ("LPAR", "EQUAL"):
                token.type = "UNIT"
        self.out.append(token)

    def _is_unit(self, previous: Token | None, token: Token, following: Token | None) -> bool:
        """`80%` is a number with a unit, `80 % n` and `80%n` are remainders."""
        if previous is None or previous.type != "NUMBER":
            return False
        if (previous.end_line, previous.end_column) != (token.line, token.column):
            return False
        operand = following is not None and following.line == token.line and (
            following.type in ("NAME", "NUMBER", "DIMS", "LPAR") and following.value not in RESERVED)
        return not operand

    def _on_number(self, token: Token) -> None:
        value = token.value
        if len(value) > MAX_DIGITS:
            problem = f"a number of {len(value)} characters"
        elif int(value) > MAX_INT if value.isdigit() else math.isinf(float(value)):
            problem = f"`{value}` is too large for a number"
        else:
            self.out.append(token)
            return
        self._broken(token, "E0107", problem, "whole numbers end at 9223372036854775807, others at about 1.7e308")

    def _on_dims(self, token: Token) -> None:
        if len(token.value) > MAX_DIGITS or any(int(size) > MAX_INT for size in token.value.split("x")):
            self._broken(token, "E0107", "these dims are too large", "dims are written like `3x3`")
        else:
            self.out.append(token)

    def _on_string(self, token: Token) -> None:
        try:
            unescape(token.value[1:-1])
        except ValueError as problem:
            escape, offset = problem.args
            column = token.column + 1 + offset
            span = Span(self.source, token.line, column, token.line, column + len(escape))
            hint = r'the escapes are \n \t \" \\ and \u{1F600}'
            self._report(token, Diagnostic("E0104", f"`{escape}` is no escape", span, hint))
        else:
            self.out.append(token)

    def _on_open_string(self, token: Token) -> None:
        self._broken(token, "E0104", "this string is never closed", 'a string ends with `"` on the line it begins on')

    def _on_foreign(self, token: Token) -> None:
        shown = token.value[:20]
        shown = f"`{shown}`" if shown.isprintable() else "U+" + " U+".join(f"{ord(c):04X}" for c in shown[:4])
        hint = FOREIGN_HINTS.get(token.value)
        if hint is None and token.value[0].isalnum():
            hint = "names are made of the letters a-z and A-Z, digits and `_`"
        self._broken(token, "E0103", f"{shown} is not part of the language", hint)

    def _broken(self, token: Token, code: str, message: str, hint: str | None) -> None:
        self._report(token, Diagnostic(code, message, token_span(self.source, token), hint))

    def _report(self, token: Token, diagnostic: Diagnostic) -> None:
        self.broken += 1
        self.out.append(token.at_same_place("BROKEN", token.value, diagnostic))

    # --- brackets ------------------------------------------------------------------------------------------------

    def _on_opener(self, token: Token) -> None:
        self.brackets.append((token, self.depth))
        if not self._too_deep(token, BRACKET):
            self.out.append(token)

    def _on_closer(self, token: Token) -> None:
        wanted = CLOSERS[token.type]
        if self.brackets and self.brackets[-1][0].type == wanted:
            self.depth = self.brackets.pop()[1]
            self.out.append(token)
            return
        span = token_span(self.source, token)
        if not self.brackets:
            self._report(token, Diagnostic("E0102", f"`{token.value}` closes nothing: no bracket is open here", span,
                                           "remove it, or open the bracket before it"))
            return
        opener = self.brackets[-1][0]
        self._report(token, Diagnostic(
            "E0102", f"`{token.value}` does not close `{opener.value}`", span,
            f"close it with `{OPENERS[opener.type]}`", (self._opened(opener),)))
        while self.brackets:
            opener, self.depth = self.brackets.pop()
            if opener.type == wanted:
                break

    def _on_separator(self, token: Token) -> None:
        if self.brackets:
            self.depth = self.brackets[-1][1] + BRACKET
        elif self.braces:
            self.depth = self.braces[-1].depth
        else:
            self.depth = 0
        self.out.append(token)

    def _on_lbrace(self, token: Token) -> None:
        if self.brackets:
            self._report_open_bracket(token)
        if self.out and self.out[-1].type == "ELSE":
            self.depth, step = self.closed_depth, 0
        elif self._else_if():
            self.depth, step = self.closed_depth, 1
        else:
            self.depth, step = self.braces[-1].depth if self.braces else 0, BRACKET
        if self._too_deep(token, step):
            self.stopped = True
            return
        self.braces.append(_Brace(token, self.first or token, self.depth))
        self.out.append(token)

    def _else_if(self) -> bool:
        """Whether the `if` whose `{` comes now stands behind an `else`: such a chain nests in the tree."""
        for token in reversed(self.out):
            if token.type == "IF":
                continue
            if token.type == "ELSE":
                return True
            if token.type in ("NEWLINE", "LBRACE", "RBRACE"):
                return False
        return False

    def _on_rbrace(self, token: Token) -> None:
        if self.brackets:
            self._report_open_bracket(token)
        if not self.braces:
            span = token_span(self.source, token)
            self._report(token, Diagnostic("E0102", "`}` closes nothing: no `{` is open here", span,
                                           "remove it, or look for the `}` that came too early"))
            return
        self._close_brace(token)

    def _close_brace(self, token: Token) -> None:
        if not self._at_start():
            self._newline(self.out[-1])
        brace = self.braces.pop()
        self.closed_depth = brace.depth
        self.first = brace.header
        self.depth = self.braces[-1].depth if self.braces else 0
        self.out.append(token)

    def _bracket_was_forgotten(self, token: Token, following: Token | None) -> bool:
        """Whether a new line inside ( ) or [ ] surely begins a statement: the bracket above was never closed.

        Sure signs: a declaration; or, no deeper than the statement before it, a line that no comma or operator joins.
        """
        if self.first is not None and token.column > self.first.column:
            return False
        if self._declares(token, following):
            return True
        keyword = token.type == "NAME" and token.value in STATEMENTS and following is not None and \
            following.type == "NAME" and following.value not in RESERVED
        return keyword or token.type == "IF" or \
            token.type in VALUE_STARTS and bool(self.out) and self.out[-1].type in VALUE_ENDS

    def _opened(self, opener: Token) -> Note:
        return Note(f"`{opener.value}` was opened", token_span(self.source, opener))

    def _report_open_bracket(self, token: Token) -> None:
        self._report_bracket(token, f"line {token.line} column {token.column}")

    def _report_bracket(self, place: Token, where: str) -> None:
        opener, _ = self.brackets[-1]
        self.brackets.clear()
        self._report(place, Diagnostic(
            "E0102", f"`{opener.value}` opened at {opener.line}:{opener.column} is never closed",
            token_span(self.source, opener), f"add `{OPENERS[opener.type]}` before {where}"))

    def _report_open_brace(self, token: Token | None) -> None:
        brace = self.braces[-1]
        span = token_span(self.source, brace.opener)
        where = "before the end of the file" if token is None else f"before line {token.line}"
        place = token or self.out[-1]
        self._report(place, Diagnostic(
            "E0102", f"`{{` opened at {span.line}:{span.column} is never closed", span, f"add `}}` {where}"))
        self._newline(self.out[-1])
        self._close_brace(place.at_same_place("RBRACE", "}"))
        self._newline(self.out[-1])

    def _too_deep(self, token: Token, step: int) -> bool:
        """Goes deeper by a step; whether it was this one that went too far (what follows is skipped with it)."""
        before = self.depth
        self.depth += step
        if before < MAX_DEPTH <= self.depth:
            limits = f"at most {MAX_DEPTH // BRACKET} brackets, or {MAX_DEPTH} operators, inside each other"
            self._broken(token, "E0108", "nested too deep", f"{limits}: give parts names")
            return True
        return False

    # --- the end -------------------------------------------------------------------------------------------------

    def _finish(self, last: Token | None) -> None:
        if last is None:
            return
        if self.brackets:
            self._report_bracket(last, "the end of the file")
        if not self._at_start():
            self._newline(self.out[-1])
        while self.braces:
            self._report_open_brace(None)

    def _close_silently(self) -> None:
        """The text goes on, but we do not: ends what is open without a word."""
        place = self.out[-1]
        if not self._at_start():
            self._newline(place)
        for _ in self.braces:
            self.out.append(place.at_same_place("RBRACE", "}"))
            self._newline(place)

    HANDLERS = {
        **dict.fromkeys(OPERATORS, _on_operator), "NUMBER": _on_number, "DIMS": _on_dims, "STRING": _on_string,
        "OPEN_STRING": _on_open_string, "FOREIGN": _on_foreign,
        **dict.fromkeys(("COMMA", "ARROW", "THEN"), _on_separator),
        "LPAR": _on_opener, "LSQB": _on_opener, "RPAR": _on_closer, "RSQB": _on_closer,
        "LBRACE": _on_lbrace, "RBRACE": _on_rbrace,
    }


def tokens(source: Source, terminals: re.Pattern) -> tuple[list[Token], list[tuple[str, Span]]]:
    """The tokens of a text as the grammar wants them, and its comments. Never fails."""
    work = _Filter(source)
    work.run(scan(source.text, terminals))
    return work.out, work.comments
