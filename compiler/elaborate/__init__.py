"""From `.net` text to the source graph: names resolved, blocks instantiated, shapes inferred, every error with its place.

`load` is the whole of it; `declarations` says what a file holds, `check` finds everything wrong with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.elaborate.files import Library, Unit
from compiler.elaborate.net import elaborate_net
from compiler.elaborate.report import Report
from compiler.ir import Graph
from dsl.diagnostics import Diagnostic, DiagnosticError, did_you_mean


@dataclass(frozen=True)
class Program:
    """A net, elaborated.

    net: its name; parameters: the values its parameters took; sources: (name, text) of all files that were read,
    the net's own first; warnings: what is odd but not wrong.
    """

    graph: Graph
    net: str
    parameters: dict[str, Any]
    sources: tuple[tuple[str, str], ...]
    warnings: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Declarations:
    """The names a file declares, in the order of the text."""

    nets: tuple[str, ...]
    data: tuple[str, ...]
    train: tuple[str, ...]
    blocks: tuple[str, ...]


def load(source: os.PathLike | str, *, name: str | None = None, settings: dict[str, str] | None = None,
         net: str | None = None) -> Program:
    """The program of a file or text.

    source: a path (a PathLike, or a string of one line that ends in `.net`), else the text itself, called `name`, whose
    imports are looked up in the folder of `name`. settings: net parameter → expression text. net: which one; a file with
    a single one needs no choosing.
    Raises DiagnosticError with everything that is wrong, syntax errors included.
    """
    report = Report()
    with deep():
        library = Library(report)
        unit = read(library, source, name)
        stop_at_errors(report)
        chosen = choose(report, unit.nets, net, "net", unit)
        stop_at_errors(report)
        elaborated = elaborate_net(report, unit, chosen, settings or {})
        stop_at_errors(report)
    return Program(elaborated.graph, chosen.name, elaborated.parameters,
                   tuple((u.name, u.text) for u in library.units.values()), report.warnings)


def declarations(source: os.PathLike | str, *, name: str | None = None) -> Declarations:
    """The nets, data and train sections and blocks of a file or text. Raises DiagnosticError."""
    report = Report()
    with deep():
        unit = read(Library(report), source, name)
    stop_at_errors(report)
    return Declarations(tuple(unit.nets), tuple(unit.data), tuple(unit.train), tuple(unit.blocks))


def read(library: Library, source: os.PathLike | str, name: str | None) -> Unit:
    if isinstance(source, os.PathLike) or "\n" not in source and source.endswith(".net"):
        unit = library.load_file(Path(source))
        if unit is None:
            raise DiagnosticError(library.report.diagnostics)
        return unit
    return library.load_text(source, name or "text.net")


def choose(report: Report, table: dict[str, Any], name: str | None, kind: str, unit: Unit) -> Any:
    """The net or section called `name`, or the only one; errors E0210 and E0211."""
    if name is not None:
        if name not in table:
            report.error("E0210", f"`{unit.name}` has no {kind} `{name}`", None,
                         did_you_mean(name, table) or (f"it has {', '.join(table)}" if table else None))
        return table.get(name)
    if len(table) == 1:
        return next(iter(table.values()))
    if not table:
        report.error("E0210", f"`{unit.name}` has no {kind}", None, f"write `{kind} name {{ … }}`")
    else:
        report.error("E0211", f"`{unit.name}` has several {kind} declarations: {', '.join(table)}", None,
                     f"choose one: {unit.name}:{next(iter(table))}")
    return None


def stop_at_errors(report: Report) -> None:
    if report.errors:
        raise DiagnosticError(report.diagnostics)


@contextmanager
def deep() -> Iterator[None]:
    """Room for nested blocks and expressions: their depth is bounded by the parser and by MAX_DEPTH of blocks."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


__all__ = ["Declarations", "Program", "declarations", "load"]
