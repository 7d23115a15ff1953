"""From `.net` text to the source graph: names resolved, blocks instantiated, shapes inferred, errors with their place.

`load` is the whole of it; `declarations` says what a file holds, `check` finds everything wrong with it. How layers and
weights are called stands in `naming`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.elaborate.files import Library, Unit
from compiler.elaborate.names import check_names
from compiler.elaborate.net import Elaborated, elaborate_net, settable
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.sections import TrainConfig, TrainSection, check_feed, read_data, read_train
from compiler.ir import Graph
from dsl import tree
from dsl.diagnostics import Diagnostic, DiagnosticError, did_you_mean


@dataclass(frozen=True)
class Program:
    """A net, elaborated.

    net: its name; parameters: the values its parameters took; train: the chosen train section, or the only one for this
    net, else None; data: the data section as JSON of `runtime.data.config.DataConfig`, chosen likewise (the train
    section's first); sources: (name, text) of all files that were read, the net's own first; warnings: what is odd but
    not wrong.
    """

    graph: Graph
    net: str
    parameters: dict[str, Any]
    train: TrainConfig | None
    data: dict[str, Any] | None
    sources: tuple[tuple[str, str], ...]
    warnings: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Declarations:
    """The names a file declares, in the order of the text."""

    nets: tuple[str, ...]
    data: tuple[str, ...]
    train: tuple[str, ...]
    blocks: tuple[str, ...]


def load(source: os.PathLike | str, *, name: str | None = None, settings: Mapping[str, str] | None = None,
         net: str | None = None, train: str | None = None, data: str | None = None) -> Program:
    """The program of a file or text.

    source: a path (a PathLike, or a string of one line that ends in `.net`), else the text itself, called `name`, whose
    imports are looked up in the folder of `name`. settings: net parameter → expression text. net, train, data: which
    ones; one of a kind needs no choosing, a train section chooses its net and data, and `net` may name a train section.
    Raises DiagnosticError with everything that is wrong, syntax errors of all files included.
    """
    report = Report()
    with deep():
        program = Loader(report, source, name).program(dict(settings or {}), net, train, data)
    if program is None or report.errors:
        raise DiagnosticError(report.sorted())
    return program


def check(source: os.PathLike | str, *, name: str | None = None,
          settings: Mapping[str, str] | None = None) -> list[Diagnostic]:
    """Everything wrong or odd in a file or text: all nets, blocks and sections. `settings` as for `load`."""
    report = Report()
    with deep():
        Loader(report, source, name).check(dict(settings or {}))
    return report.sorted()


def declarations(source: os.PathLike | str, *, name: str | None = None) -> Declarations:
    """The nets, sections and blocks of a file or text. Raises DiagnosticError where it cannot be read."""
    report = Report()
    with deep():
        unit = Loader(report, source, name).unit
    if unit is None or report.errors:
        raise DiagnosticError(report.sorted())
    return Declarations(tuple(unit.nets), tuple(unit.data), tuple(unit.train), tuple(unit.blocks))


class Loader:
    """One run over a file and what it imports."""

    def __init__(self, report: Report, source: os.PathLike | str, name: str | None):
        self.report = report
        self.library = Library(report)
        if isinstance(source, os.PathLike) or "\n" not in source and source.endswith(".net"):
            self.unit = self.library.load_file(Path(source))
        else:
            self.unit = self.library.load_text(source, name or "text.net")
        self.complete = self.unit is not None and all(unit.complete for unit in self.library.units.values())
        self.trains: dict[str, TrainSection | None] = {}
        self.datas: dict[int, dict[str, Any] | None] = {}  # by the identity of the section's tree

    def program(self, settings: dict[str, str], net: str | None, train: str | None, data: str | None) -> Program | None:
        """The chosen net with its sections, or None; what is wrong is reported."""
        if self.unit is None:
            return None
        self.sections()
        elaborated = None
        try:
            section = self.chosen_train(net, train)
            unit, part = self.chosen_net(net if section is None or train is not None else None, section)
            elaborated = elaborate_net(self.report, unit, part, settings)
        except Failed:
            elaborated = None
        self.names()
        if elaborated is None:
            return None
        try:
            if section is None:
                section = self.only_train(unit, part)
            found = self.chosen_data(section, data)
            return self.assemble(elaborated, section, found)
        except Failed:
            return None

    def check(self, settings: dict[str, str]) -> None:
        if self.unit is None:
            return
        self.sections()
        if self.unit.complete:
            known = {name for net in self.unit.nets.values() for name in settable(net)}
            for name in settings:
                if name not in known:
                    self.report.error("E0420", f"no net of `{self.unit.name}` has a parameter `{name}`", None,
                                      did_you_mean(name, known))
        for net in self.unit.nets.values():
            own = {name: text for name, text in settings.items() if name in settable(net)}
            if any(p.default is None and p.name not in own for p in net.parameters):
                continue  # only a caller can give the missing value; its names are checked all the same
            elaborated = elaborate_net(self.report, self.unit, net, own)
            if elaborated is not None:
                self.check_sections(net, elaborated)
        self.names()
        if self.unit.rules and self.unit.complete:
            from compiler.rules import check_unit  # which imports this module
            check_unit(self.report, self.unit)

    # --- choosing ------------------------------------------------------------------------------------------------

    def sections(self) -> None:
        """Reads all sections of the file: a mistake in one is an error whichever is chosen."""
        for name, part in self.unit.train.items():
            self.trains[name] = read_train(self.report, self.unit, part)
        for part in self.unit.data.values():
            self.data_config(self.unit, part)

    def data_config(self, unit: Unit, part: tree.Section) -> dict[str, Any] | None:
        if id(part) not in self.datas:
            self.datas[id(part)] = read_data(self.report, unit, part)
        return self.datas[id(part)]

    def chosen_train(self, net: str | None, train: str | None) -> TrainSection | None:
        """The train section that was asked for by name."""
        if train is None and net is not None and net not in self.unit.nets and net in self.unit.train:
            train = net
        if train is None and net is None and not self.unit.nets and len(self.unit.train) == 1:
            train = next(iter(self.unit.train))  # the net is an imported one, which the only section names
        if train is None:
            return None
        if train not in self.unit.train:
            self.missing("train section", train, self.unit.train)
        section = self.trains.get(train)
        if section is None:
            raise Failed
        return section

    def chosen_net(self, net: str | None, section: TrainSection | None) -> tuple[Unit, tree.Net]:
        if section is not None and section.net is not None:
            if net is not None and section.net[1].name != net:
                self.report.fail("E0211", f"the train section `{section.section.name}` trains `{section.net[1].name}`, "
                                 f"not `{net}`", section.section.span, "choose one of the two")
            return section.net
        nets = self.unit.nets
        if net is not None:
            if net not in nets:
                self.missing("net", net, nets)
            return self.unit, nets[net]
        if not nets and not self.complete:
            raise Failed
        if not nets:
            self.report.fail("E0210", f"`{self.unit.name}` has no net", None,
                             "write `net name { … }`, or compile another file")
        if len(nets) > 1:
            self.report.fail("E0211", f"`{self.unit.name}` has several nets: {', '.join(nets)}", None,
                             f"choose one: {self.unit.name}:{next(iter(nets))}")
        return self.unit, next(iter(nets.values()))

    def missing(self, kind: str, name: str, table: Mapping[str, Any]) -> None:
        if not self.complete:
            raise Failed
        self.report.fail("E0210", f"`{self.unit.name}` has no {kind} `{name}`", None,
                         did_you_mean(name, table) or (f"it has {', '.join(table)}" if table else None))

    def only_train(self, unit: Unit, net: tree.Net) -> TrainSection | None:
        """The only train section of a net."""
        found = [s for s in self.trains.values() if s is not None and self.trains_net(s, unit, net)]
        return found[0] if len(found) == 1 else None

    def trains_net(self, section: TrainSection, unit: Unit, net: tree.Net) -> bool:
        if section.net is not None:
            return section.net[1] is net
        return unit is self.unit and len(self.unit.nets) == 1

    def chosen_data(self, section: TrainSection | None, data: str | None) -> tuple[Unit, tree.Section] | None:
        if data is not None:
            if data not in self.unit.data:
                self.missing("data section", data, self.unit.data)
            return self.unit, self.unit.data[data]
        if section is not None and section.data is not None:
            return section.data
        if len(self.unit.data) == 1:
            return self.unit, next(iter(self.unit.data.values()))
        return None

    # --- putting together ----------------------------------------------------------------------------------------

    def assemble(self, elaborated: Elaborated, section: TrainSection | None,
                 found: tuple[Unit, tree.Section] | None) -> Program | None:
        graph = elaborated.graph
        data = None
        if found is not None:
            data = self.data_config(*found)
            if data is None:
                return None
            check_feed(self.report, found[1], data, [node.name for node in graph.leaves("input")])
        train = section.config(graph.name, found[1].name if found is not None else None, elaborated.metric_modes()) \
            if section is not None else None
        sources = tuple((unit.name, unit.text) for unit in self.library.units.values())
        return Program(graph, graph.name, elaborated.parameters, train, data, sources, self.report.warnings)

    def check_sections(self, net: tree.Net, elaborated: Elaborated) -> None:
        """Checks all sections that go with a net against it."""
        for section in self.trains.values():
            if section is not None and self.trains_net(section, self.unit, net):
                try:
                    self.assemble(elaborated, section, self.chosen_data(section, None))
                except Failed:
                    continue

    def names(self) -> None:
        for unit in self.library.units.values():
            check_names(self.report, unit)


@contextmanager
def deep() -> Iterator[None]:
    """Room for nested blocks and expressions: the parser and the limit of nested blocks bound their depth."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


__all__ = ["Declarations", "Program", "TrainConfig", "check", "declarations", "load"]
