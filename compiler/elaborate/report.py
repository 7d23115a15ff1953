"""Where elaboration puts what is wrong: every diagnostic once, and one exception that ends the statement at fault."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from dsl.diagnostics import Diagnostic, Note, Span


class Failed(Exception):
    """The part at hand has no value, and the reason was reported already: whoever catches this stays silent."""


# Errors that a statement lost to a syntax error may cause elsewhere in its file: something is not there.
FOLLOWING = {"E0201", "E0203", "E0206", "E0208", "E0209", "E0521", "E0523", "E0524", "E0526"}


def follows(diagnostic: Diagnostic) -> bool:
    """Whether an error may come from a statement that was lost. A word close to an op's name is its own mistake."""
    misspelt = diagnostic.code == "E0203" and diagnostic.hint is not None and diagnostic.hint.startswith("did you mean")
    return diagnostic.code in FOLLOWING and not misspelt


class Report:
    """Collects diagnostics. One place says one thing of a kind once, however often a block is instantiated.

    files: names of the files that were read, in order. incomplete: those of them with syntax errors, which
    are elaborated as far as they could be read.
    """

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.files: list[str] = []
        self.incomplete: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        self._syntax: set[str] = set()  # places that the parser has spoken about

    def add(self, diagnostic: Diagnostic) -> None:
        if diagnostic.span is not None:
            if diagnostic.span.source.name in self.incomplete and follows(diagnostic):
                return
            key = (diagnostic.code, diagnostic.span.place)
            if key in self._seen or diagnostic.span.place in self._syntax:
                return
            if diagnostic.code.startswith("E01"):
                self._syntax.add(diagnostic.span.place)
            self._seen.add(key)
        self.diagnostics.append(diagnostic)

    def has(self, span: Span) -> bool:
        """Whether something was said about this very place."""
        return any(place == span.place for _, place in self._seen)

    def error(self, code: str, message: str, span: Span | None, hint: str | None = None,
              notes: Iterable[Note] = ()) -> None:
        self.add(Diagnostic(code, message, span, hint, tuple(notes)))

    def fail(self, code: str, message: str, span: Span | None, hint: str | None = None,
             notes: Iterable[Note] = ()) -> NoReturn:
        self.error(code, message, span, hint, notes)
        raise Failed

    def warn(self, code: str, message: str, span: Span | None, hint: str | None = None) -> None:
        self.add(Diagnostic(code, message, span, hint, severity="warning"))

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.severity == "error"]

    def sorted(self) -> list[Diagnostic]:
        """All of them, file by file in the order of the text."""
        files = {name: number for number, name in enumerate(self.files)}
        return sorted(self.diagnostics, key=lambda d: (-1, 0, 0) if d.span is None else (
            files.get(d.span.source.name, -1), d.span.line, d.span.column))

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity != "error")
