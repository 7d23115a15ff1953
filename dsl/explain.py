"""What a syntax error means, in words: what was found, what may stand there, and the slip that likely caused it."""

from __future__ import annotations

from collections.abc import Sequence

from dsl.diagnostics import Diagnostic, Source, Span, did_you_mean
from dsl.lexer import CONTINUES, DECLARATIONS, RESERVED, STATEMENTS, TOP, VALUE_ENDS, Token, token_span

VALUE = frozenset({"NAME", "NUMBER", "DIMS", "STRING", "TRUE", "FALSE", "LPAR", "LSQB", "MINUS", "NOT"})
WORDS = {
    "value": "a value", "operator": "an operator", "NAME": "a name", "NUMBER": "a number",
    "STRING": "a string in quotes", "AS": "`as`", "EQUAL": "`=`", "COLON": "`:`", "IN": "`in`", "LPAR": "`(`",
    "LSQB": "`[`", "COMMA": "`,`", "RPAR": "`)`", "RSQB": "`]`", "ARROW": "`->`", "LBRACE": "`{`", "RBRACE": "`}`",
    "ELSE": "`else`", "THEN": "`=>`", "WHEN": "`when`", "NEWLINE": "the end of the line",
}
ORDER = ("value", "NAME", "NUMBER", "STRING", "AS", "EQUAL", "COLON", "IN", "LPAR", "LSQB", "COMMA", "RPAR", "RSQB",
         "ARROW", "operator", "THEN", "WHEN", "LBRACE", "RBRACE", "ELSE", "NEWLINE")


def in_words(names: set[str]) -> str:
    """`a value, `,` or `)`` for a set of terminals."""
    left, kinds = set(names), []
    if {"NAME", "NUMBER", "LPAR"} <= left:
        left -= VALUE
        kinds.append("value")
    if {"PLUS", "MINUS"} <= left:
        left.discard("LPAR")
        kinds.append("operator")
    kinds = sorted([*kinds, *(name for name in left if name in WORDS)], key=ORDER.index)
    phrases = [WORDS[kind] for kind in kinds]
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " or " + phrases[-1]


def found(token: Token) -> str:
    """The token as a reader names it."""
    if token.type == "NEWLINE":
        return "the end of the line"
    if token.type == "$END":
        return "the end of the file"
    if token.type == "RBRACE":
        return "`}`"
    text = token.value if len(token.value) <= 30 else token.value[:27] + "…"
    return text if token.type == "STRING" else f"`{text}`"


class Explainer:
    """Explains the error at `tokens[at]`; its statement began at `tokens[first]`, `row` are the terminals allowed."""

    def __init__(self, source: Source, tokens: Sequence[Token], first: int, at: int, row: set[str], where: str):
        self.source, self.tokens, self.first, self.at, self.row = source, tokens, first, at, row
        self.where = where  # "file", "body", "rule" or "section": what the statement stands in
        self.token = tokens[at]
        self.start = tokens[first]
        self.before = tokens[at - 1] if at > first else None
        self.after = tokens[at + 1] if at + 1 < len(tokens) else None

    def diagnostic(self) -> Diagnostic:
        return self._wrong_start() or self._reserved() or self._unexpected()

    def _at(self, token: Token) -> Span:
        """The place of a token; the end of a line is shown one column behind it."""
        if token.type == "NEWLINE":
            return Span(self.source, token.line, token.column, token.line, token.column + 1)
        return token_span(self.source, token)

    # --- a line that is no statement at all ----------------------------------------------------------------------

    def _wrong_start(self) -> Diagnostic | None:
        start = self.start
        if start.type in RESERVED.values() and self.at == self.first and start.type not in ("ELSE", "IF"):
            return None
        if self.where == "file":
            if self.at == self.first or (start.type == "NAME" and self.at == self.first + 1):
                return self._wrong_declaration()
            return None
        if start.type == "ELSE" and self.at == self.first:
            return Diagnostic("E0105", "`else` without an `if` before it", self._at(start),
                              "it stands behind the `}` of an `if`")
        if start.type != "NAME" or self.at != self.first + 1 or self.where == "rule":
            return None
        word = start.value
        if self.where == "section":
            return Diagnostic("E0101", f"expected `=` after `{word}`, found {found(self.token)}", self._at(self.token),
                              "settings are written `name = value`, on lines of their own or separated by commas")
        if word in DECLARATIONS and self.token.type in ("NAME", "STRING"):
            return Diagnostic("E0105", f"`{word}` cannot stand inside `{{ }}`", self._at(start),
                              "it stands at the left, outside of nets and blocks")
        if word == "elif":
            return Diagnostic("E0105", "`elif` is not a statement", self._at(start), "write `else if`")
        if self.token.type in ("NAME", "NUMBER", "DIMS", "STRING", "MINUS", "LPAR"):
            guess = did_you_mean(word, [*STATEMENTS, "if"])
            if guess or self.token.type == "NAME":
                kinds = "a statement is `name = …`, or begins with input, label, output, loss, metric, let, layer or if"
                return Diagnostic("E0105", f"`{word}` does not begin a statement", self._at(start), guess or kinds)
        if self.token.type in ("LPAR", "NEWLINE", "ARROW", "DOT"):
            message = f"expected `=` after `{word}`, found {found(self.token)}: a value needs a name"
            return Diagnostic("E0105", message, self._at(self.token), f"write `y = {word}…`, or `output y = {word}…`")
        return None

    def _wrong_declaration(self) -> Diagnostic:
        start = self.start
        if start.type == "NAME":
            second = self.tokens[self.first + 1].type
            if start.value in STATEMENTS or second in ("EQUAL", "COMMA", "COLON") and start.value not in TOP:
                hint = "put it between the `{ }` of a net or block; constants of a file are written `let k = 3`"
                return Diagnostic("E0105", "this statement stands outside of a net or block", self._at(start), hint)
            guess = did_you_mean(start.value, TOP)
        elif start.type == "IF":
            return Diagnostic("E0105", "`if` stands outside of a net or block", self._at(start),
                              "put it between the `{ }` of a net or block")
        else:
            guess = None
        shown = found(start if start.type == "NAME" else self.token)
        return Diagnostic("E0105", f"expected import, let, block, net, rule, data or train, found {shown}",
                          self._at(start),
                          guess or "a file is made of these declarations")

    # --- a keyword where a name should stand ---------------------------------------------------------------------

    def _reserved(self) -> Diagnostic | None:
        before = self.before
        if self.token.type == "EQUAL" and before is not None and before.value in RESERVED and (
                self.at == self.first + 1 or self.tokens[self.at - 2].type in ("LPAR", "LSQB", "COMMA")):
            return self._reserved_word(before)
        word = self.token.value
        if word not in RESERVED or "NAME" not in self.row:
            return None
        names_it = self.at == self.first and self.after is not None and self.after.type in ("EQUAL", "COMMA", "COLON")
        if names_it or not VALUE <= self.row or self.after is not None and self.after.type == "EQUAL":
            return self._reserved_word(self.token)
        return None

    def _reserved_word(self, token: Token) -> Diagnostic:
        return Diagnostic("E0106", f"`{token.value}` is a reserved word, not a name", self._at(token),
                          f"call it `{token.value}_`, for example")

    # --- anything else -------------------------------------------------------------------------------------------

    def _unexpected(self) -> Diagnostic:
        token, before = self.token, self.before
        after = f" after {found(before)}" if before is not None and before.type not in ("NEWLINE", "BROKEN") else ""
        if self.at == self.first:
            wanted = {"file": "a declaration", "body": "a statement", "section": "a setting",
                      "rule": "the end of the rule" if self.row == {"RBRACE"} else "a pattern"}[self.where]
        else:
            wanted = in_words(self.row)
        return Diagnostic("E0101", f"expected {wanted}{after}, found {found(token)}", self._at(token), self._hint())

    def _hint(self) -> str | None:
        token, before, start, row = self.token, self.before, self.start, self.row
        kind, last = token.type, before.type if before is not None else ""
        follows_value = last in VALUE_ENDS
        if kind == "POWER":
            return "`**` repeats a stage of a pipe: `-> f(…) ** 3`; there is no power operator"
        if kind == "FLOOR" and self.at == self.first:
            return "a comment begins with `#`"
        if start.type == "LET" and kind == "COLON":
            return "`let` needs no type: `let k = 3`"
        if kind == "COLON" and "EQUAL" in row or kind == "COLON" and self._in_brackets():
            return "a value is given with `=`; `:` gives a type"
        if kind == "EQUAL" and start.type in ("IF",):
            return "to compare, write `==`"
        if kind == "EQUAL" and row == {"LSQB"}:
            return "a value has a tensor type, as in `x: f32[N, 10]`; a constant is written `let k = 3`"
        if start.type == "LAYER" and self.at > self.first + 2:
            return "a layer object is one call: `layer a = conv(64)`"
        if start.type == "OUTPUT" and kind == "COMMA":
            return "each output has a line of its own"
        if kind == "DOT" and last == "NAME":
            return "a name has one dot: the import, and what stands in it"
        if kind == "EQUAL" and "COLON" in row:
            return "a type is given with `:`, as in `x: f32[N, 10]`"
        if kind == "COMPARE" and "COMPARE" not in row and follows_value:
            return "comparisons do not chain: write `a < b and b < c`"
        if kind == "LBRACE" and start.type == "BLOCK" and "ARROW" in row:
            return "a block names its results: `block f(x: tensor) -> y {`"
        if self.where == "rule" and self.at == self.first and row == {"RBRACE"}:
            return "a rule has one rewrite: `pattern => replacement when condition`; give each its own rule"
        if self.where == "rule" and not self._in_brackets() and (self.at == self.first or row & {"THEN", "WHEN"}):
            return "a rule is written `rule f(x: tensor) { pattern => replacement when condition }`"
        if start.type == "RULE" and row == {"LPAR"}:
            return "a rule lists the names of its pattern: `rule f(x: tensor) { … }`"
        if kind == "THEN":
            return "`=>` stands in rules: `rule f(x: tensor) { pattern => replacement }`"
        if kind == "ARROW" and start.type == "NET":
            return "a net has no results in its first line; they are its `output` lines"
        if kind == "RBRACE" or kind == "LBRACE" and start.type not in ("IF", "NET", "BLOCK", "RULE", "DATA", "TRAIN"):
            return "lists stand in [ ]; { } only hold the bodies of declarations and `if`"
        if start.type == "IMPORT":
            return 'write `import "blocks.net" as b`'
        if start.type in ("INPUT", "LABEL") and ("LSQB" in row or "COLON" in row):
            return f"write `{start.value} x: f32[N, 10]`, with the element type and the dims, batch first"
        if kind == "COMMA" and last == "RPAR" or kind == "NEWLINE" and last == "RPAR" and row == {"ARROW"}:
            return "several values in ( ) are the head of a pipe: `(a, b) -> f`"
        if row == {"ARROW"}:
            return "several values in ( ) are the head of a pipe: `(a, b) -> f`"
        if last == "UNIT" and before.value.startswith("x") and kind in ("NUMBER", "NAME", "LPAR"):
            return "dims are written without blanks, `3x3`, or `dims(k, k)` for names"
        if last == "PERCENT" or kind == "PERCENT":
            return "a percentage is written without a blank: `80%`"
        if kind in ("NAME", "DIMS", "NUMBER", "STRING", "LSQB", "LPAR") and follows_value and last != "DIMS":
            return self._missing_between()
        return None

    def unfinished_line(self) -> Diagnostic | None:
        """The error behind `y =` with nothing on its line: what follows was taken for its value, up to the next `=`."""
        if self.token.type not in ("EQUAL", "COLON") or self.at - self.first < 3 or self._in_brackets():
            return None
        operator, name = self.tokens[self.at - 2:self.at]
        ends_line = operator.type in CONTINUES and operator.type != "COMMA" and name.line > operator.end_line
        if name.type != "NAME" or not ends_line:
            return None
        behind = Span(self.source, operator.line, operator.end_column, operator.line, operator.end_column + 1)
        return Diagnostic("E0101", f"expected a value after {found(operator)}, found the end of the line", behind,
                          "a line that ends with an operator goes on in the next line")

    def _in_brackets(self) -> bool:
        depth = 0
        for token in self.tokens[self.first:self.at]:
            depth += (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB"))
        return depth > 0

    def _missing_between(self) -> str | None:
        token, before, row = self.token, self.before, self.row
        named = self.after is not None and self.after.type == "EQUAL"
        if "COMMA" in row and (named or self._in_brackets() and token.type != "NAME"):
            return f"is a `,` missing before {found(token)}?"
        if before.type == "NUMBER":
            return f"to multiply, write `{before.value} * {token.value}`"
        if "ARROW" in row and token.type == "NAME" and not named:
            comma = "`,` or " if "COMMA" in row and self._in_brackets() else ""
            return f"is a {comma}`->` missing before `{token.value}`?"
        if "COMMA" in row and self._in_brackets():
            return f"is a `,` missing before {found(token)}?"
        return None
