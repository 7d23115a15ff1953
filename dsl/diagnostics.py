"""What is wrong with a program, where, and the way out. Every room above reports through these."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Source:
    """One text being compiled: the name shown in messages, and its lines."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """Line `number` (from 1), without its newline."""
        lines = self._lines
        return lines[number - 1].rstrip("\r") if 1 <= number <= len(lines) else ""

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.split("\n")


@dataclass(frozen=True)
class Span:
    """A stretch of source text; lines and columns count from 1, `end_column` is one past the last character."""

    source: Source = field(repr=False, compare=False)
    line: int = 1
    column: int = 1
    end_line: int = 1
    end_column: int = 2

    @property
    def place(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.source, self.line, self.column, other.end_line, other.end_column)


@dataclass(frozen=True)
class Note:
    """A second place that belongs to an error: a call on the way, an earlier definition."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """One error (or warning): code, message, span, hint, and the block calls that led there (outermost last)."""

    code: str
    message: str
    span: Span | None
    hint: str | None = None
    notes: tuple[Note, ...] = ()
    severity: str = "error"

    def render(self) -> str:
        """The message as a terminal shows it: headline, place, the user's line, carets, notes, help."""
        out = [f"{self.severity}[{self.code}]: {self.message}"]
        if self.span is not None:
            out += excerpt(self.span)
        for note in self.notes:
            place = f" at {note.span.place}" if note.span else ""
            out.append(f"   = note: {note.message}{place}")
        if self.hint:
            out.append(f"   = help: {self.hint}")
        return "\n".join(out)

    def as_json(self) -> dict:
        """Plain data for editors and scripts."""
        span = self.span
        place = None if span is None else {
            "file": span.source.name, "line": span.line, "column": span.column,
            "end_line": span.end_line, "end_column": span.end_column,
        }
        return {"code": self.code, "severity": self.severity, "message": self.message, "hint": self.hint, "span": place,
                "notes": [{"message": n.message, "place": n.span.place if n.span else None} for n in self.notes]}


SHOWN = 160  # characters of a line that are shown; a minified megabyte line must not flood the terminal


def excerpt(span: Span) -> list[str]:
    """The `-->` place, the source line and the carets under it."""
    number = str(span.line)
    text = span.source.line(span.line)
    first = span.column - 1
    last = span.end_column - 1 if span.end_line == span.line else len(text)
    start = 0 if len(text) <= SHOWN else max(0, min(first - 20, len(text) - SHOWN))
    shown = "".join(c if c.isprintable() else " " for c in text[start:start + SHOWN])
    width = max(1, min(last, start + SHOWN) - first)
    pad = " " * len(number)
    return [f"{pad}--> {span.place}", f"{number} | {shown}", f"{pad} | {' ' * (first - start)}{'^' * width}"]


class DiagnosticError(Exception):
    """Raised when a program cannot be compiled: carries every diagnostic of the run."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = list(diagnostics)
        super().__init__("\n\n".join(d.render() for d in self.diagnostics))


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """"did you mean `max_pool`?" when one of the candidates is close to `word`."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None
