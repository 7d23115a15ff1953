"""Names of values: where they were given, and the rule that no name is given twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compiler.elaborate.report import Report
from compiler.elaborate.values import POISON
from dsl.diagnostics import Note, Span


@dataclass(frozen=True)
class Entry:
    value: Any
    span: Span


def shadowed(report: Report, name: str, span: Span, earlier: Entry) -> None:
    report.error("E0202", f"`{name}` has a value already", span, "choose another name: nothing is shadowed",
                 [Note(f"`{name}` was given", earlier.span)])


class Scope:
    """Names → values of a file (its `let`s), or of one instance of a block or net inside it."""

    def __init__(self, report: Report, parent: Scope | None = None):
        self.report = report
        self.parent = parent
        self.entries: dict[str, Entry] = {}
        self.elsewhere: dict[str, Span] = {}  # names of branches that were not taken, with their `if`

    def find(self, name: str) -> Entry | None:
        return self.entries.get(name) or (self.parent.find(name) if self.parent else None)

    def bind(self, name: str, value: Any, span: Span) -> None:
        """Gives a name its value. A name that has one already is error E0202."""
        earlier = self.find(name)
        if earlier is not None:
            shadowed(self.report, name, span, earlier)
        self.entries.setdefault(name, Entry(value, span))

    def poison(self, name: str, span: Span) -> None:
        """The name exists, its value does not; nothing that uses it is reported."""
        if self.find(name) is None:
            self.entries[name] = Entry(POISON, span)

    def names(self) -> Iterator[str]:
        yield from self.entries
        if self.parent:
            yield from self.parent.names()
