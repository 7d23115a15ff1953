"""Text to syntax tree. One pass: after an error the parser drops that statement and goes on behind it."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
from collections.abc import Iterator
from pathlib import Path

from dsl import tree as t
from dsl.diagnostics import Diagnostic, Source, Span, did_you_mean
from dsl.explain import Explainer
from dsl.lexer import DECLARATIONS, MAX_DIAGNOSTICS, Token, tokens
from dsl.table import Table

MAX_BYTES = 8 * 1024 * 1024
DROPPED = "?"  # the name of a declaration whose first line could not be read


@functools.cache
def _table() -> Table:
    return Table()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Trees have no cycles, but many nodes: looking for cycles while they grow would take 40 % of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse(text: str, name: str) -> tuple[t.File, list[Diagnostic]]:
    """The tree of `text` and everything wrong with its syntax, in the order of the text. Never raises.

    With diagnostics, the tree holds the statements that could be read and is not meant to be compiled.
    """
    source = Source(name, text)
    table = _table()
    table.builder.start(source)
    with _collector_paused():
        stream, comments = tokens(source, table.terminals)
        run = _Run(source, stream, table)
        declarations = run.parse()
    diagnostics = run.diagnostics + table.builder.diagnostics
    diagnostics.sort(key=lambda d: (d.span.line, d.span.column))
    if len(diagnostics) > MAX_DIAGNOSTICS:
        last = diagnostics[MAX_DIAGNOSTICS - 1].span
        message = "too many errors: the rest of the file was not looked at"
        diagnostics[MAX_DIAGNOSTICS:] = [Diagnostic("E0111", message, last, "is this a `.net` file?")]
    lines = text.count("\n") + 1
    whole = Span(source, 1, 1, lines, len(text) - text.rfind("\n"))
    return t.File(whole, table.builder.lang_number, declarations, tuple(comments)), diagnostics


class _Run:
    """One parse: the token stream, the LALR state, and for each open `{` where its statement began.

    Recovery: the LALR stack is cut back to its height before the statement, which is exactly the state in which the
    next statement may begin, and the tokens up to the end of the statement are skipped. Where the bad statement opened
    a body, a made-up first line takes its place, so that the errors inside the body are found too.
    """

    def __init__(self, source: Source, stream: list[Token], table: Table):
        self.source, self.stream, self.table = source, stream, table
        self.states: list = [table.start]
        self.values: list = []
        self.diagnostics: list[Diagnostic] = []
        self.first = 0  # index of the statement's first token
        self.height = 1  # of the stack before that statement
        self.open: list[tuple[int, int, str]] = []  # (first, height, kind of body) of the statements around
        self.where = "file"

    def parse(self) -> tuple[t.Declaration, ...]:
        stream, feed, states, values = self.stream, self.table.feed, self.states, self.values
        i, fresh = 0, True
        while i < len(stream):
            token = stream[i]
            if fresh:
                self.first = i
                self.height = len(states)
            if not feed(states, values, token):
                if len(self.diagnostics) > MAX_DIAGNOSTICS:
                    return ()
                i = self._recover(i, fresh)
                fresh = True
                continue
            if fresh:
                self.height = len(states) - 1
            fresh = False
            if token.type == "LBRACE":
                self._enter(self._kind(self.stream[self.first].type))
                fresh = True
            elif token.type == "RBRACE":
                self._leave()
            elif token.type == "NEWLINE":
                fresh = True
            i += 1
        declarations = self.table.finish(states, values)
        return tuple(d for d in declarations if getattr(d, "name", None) != DROPPED)

    @staticmethod
    def _kind(first: str) -> str:
        return "section" if first in ("DATA", "TRAIN") else "rule" if first == "RULE" else "body"

    def _enter(self, kind: str) -> None:
        self.open.append((self.first, self.height, self.where))
        self.where = kind

    def _leave(self) -> None:
        self.first, self.height, self.where = self.open.pop()

    # --- recovery ------------------------------------------------------------------------------------------------

    def _recover(self, at: int, fresh: bool) -> int:
        """Reports the error at `at` and brings the parser to the start of a statement; the index of its first token."""
        stream = self.stream
        token = stream[at]
        diagnostic = token.diagnostic
        if diagnostic is None:
            row = self.table.expected(self.states)
            explainer = Explainer(self.source, stream, self.first, at, row, self.where)
            if diagnostic := explainer.unfinished_line():
                self.diagnostics.append(diagnostic)
                self._cut()
                return at - 1
            diagnostic = explainer.diagnostic()
        self.diagnostics.append(diagnostic)
        if not fresh:
            if stream[at - 1].type == "RBRACE":
                self._feed("NEWLINE", stream[at - 1])
            else:
                self._cut()
        if self.where == "rule" and "NAME" in self.table.expected(self.states):
            for kind in ("NAME", "THEN", "NAME", "NEWLINE"):  # a rule has exactly one rewrite
                self._feed(kind, token)
            if token.type == "RBRACE":
                return at
        end = at
        while stream[end].type not in ("NEWLINE", "LBRACE"):
            end += 1
        if stream[end].type == "NEWLINE":
            return end + 1
        header = self._header(stream[self.first])
        if end == at and stream[self.first].type not in ("IF", "BLOCK", "NET", "RULE", "DATA", "TRAIN") \
                or header is None or stream[at - 1].type == "RBRACE" and not fresh:
            return self._behind_braces(end)
        for kind in header:
            self._feed(kind, stream[end])
        self._enter(self._kind(header[0]))
        return end + 1

    def _cut(self) -> None:
        del self.states[self.height:], self.values[self.height - 1:]

    def _feed(self, kind: str, place: Token) -> None:
        self.table.feed(self.states, self.values, place.at_same_place(kind, DROPPED))

    def _header(self, first: Token) -> list[str] | None:
        """The made-up first line for a body whose own could not be read."""
        if self.where in ("section", "rule"):
            return None
        if self.where == "body":
            return ["IF", "TRUE", "LBRACE"]
        kind = first.type
        if kind == "NAME":
            guess = did_you_mean(first.value, DECLARATIONS)
            kind = DECLARATIONS[guess.split("`")[1]] if guess else "NET"
        if kind in ("DATA", "TRAIN"):
            return [kind, "NAME", "LBRACE"]
        if kind == "RULE":
            return [kind, "NAME", "LPAR", "RPAR", "LBRACE"]
        return ["NET", "NAME", "LBRACE"]

    def _behind_braces(self, at: int) -> int:
        """The index behind the statement whose first `{` stands at `at`."""
        depth = 0
        while depth or self.stream[at].type != "NEWLINE":
            depth += (self.stream[at].type == "LBRACE") - (self.stream[at].type == "RBRACE")
            at += 1
        return at + 1


# --- files -----------------------------------------------------------------------------------------------------------

def read(path: str | Path) -> tuple[t.File, list[Diagnostic]]:
    """Parses a file. One that cannot be read is one diagnostic and an empty tree. Messages show the path as given."""
    text, diagnostic = read_text(path)
    if diagnostic is not None:
        nowhere = Span(Source(str(path), ""), 1, 1, 1, 1)
        return t.File(nowhere, None, ()), [diagnostic]
    return parse(text, str(path))


def read_text(path: str | Path) -> tuple[str, Diagnostic | None]:
    """The text of a file, or why there is none."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return "", Diagnostic("E0120", f"there is no file `{name}`", None, _beside(Path(path)))
    except IsADirectoryError:
        return "", Diagnostic("E0121", f"`{name}` is a directory", None, "name a `.net` file in it")
    except (OSError, ValueError) as problem:
        reason = errno.errorcode.get(getattr(problem, "errno", None) or 0, "") or str(problem)
        return "", Diagnostic("E0122", f"`{name}` cannot be read: {reason}", None, "check its permissions")
    return decode(data, name)


def decode(data: bytes, name: str) -> tuple[str, Diagnostic | None]:
    """The text in `data` (UTF-8, a byte order mark is dropped), or why it is none."""
    if len(data) > MAX_BYTES:
        message = f"`{name}` is larger than {MAX_BYTES // 2**20} MiB"
        return "", Diagnostic("E0123", message, None, "a `.net` file is a page of text")
    if b"\0" in data:
        message = f"`{name}` is a binary file (a zero byte at {data.index(0)})"
        return "", Diagnostic("E0124", message, None, "name a `.net` file")
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as problem:
        return "", Diagnostic("E0124", f"`{name}` is not UTF-8 text (byte {problem.start})", None, "save it as UTF-8")


def _beside(path: Path) -> str | None:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix == ".net"][:1000]
    except (OSError, ValueError):
        return None
    return did_you_mean(path.name, names)
