"""The files of a program: what a `.net` file declares, and the files it imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.elaborate.expressions import Evaluator
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.scope import Scope
from compiler.elaborate.values import Poison
from compiler.imports import find_import, specs_folder
from compiler.ops import REGISTRY
from dsl import tree
from dsl.diagnostics import Diagnostic, Note, Span, did_you_mean
from dsl.parse import DROPPED, parse, read_text

MAX_FILES = 200


@dataclass
class Unit:
    """One file: its declarations by name. `complete` is False where syntax errors took statements away."""

    name: str
    text: str
    tree: tree.File
    folder: Path
    scope: Scope
    complete: bool = True
    blocks: dict[str, tree.Block] = field(default_factory=dict)
    nets: dict[str, tree.Net] = field(default_factory=dict)
    rules: dict[str, tree.Rule] = field(default_factory=dict)
    data: dict[str, tree.Section] = field(default_factory=dict)
    train: dict[str, tree.Section] = field(default_factory=dict)
    imports: dict[str, Unit | None] = field(default_factory=dict)  # None: the import went wrong


@dataclass(frozen=True)
class BlockRef:
    """A block and the file whose names it sees."""

    block: tree.Block
    unit: Unit


class Library:
    """Reads files, each once. All that is wrong with them goes to the report."""

    def __init__(self, report: Report):
        self.report = report
        self.units: dict[Path | str, Unit] = {}
        self._open: list[tuple[Path | str, str]] = []  # the imports on the way to the file being read

    def load_text(self, text: str, name: str, key: Path | str | None = None, folder: Path | None = None) -> Unit:
        """The unit of a text; its imports are looked up in `folder`, by default that of `name`."""
        self.report.files.append(name)
        file, diagnostics = parse(text, name)
        for diagnostic in diagnostics:
            self.report.add(diagnostic)
        unit = Unit(name, text, file, folder if folder is not None else Path(name).parent, Scope(self.report),
                    complete=not diagnostics)
        key = name if key is None else key
        self.units[key] = unit
        if diagnostics:
            self.report.incomplete.add(name)
        self._open.append((key, name))
        declare(unit, self)
        self._open.pop()
        return unit

    def load_file(self, path: Path) -> Unit | None:
        """The unit of a file, or None where it cannot be read (which is reported)."""
        text, diagnostic = read_text(path)
        if diagnostic is not None:
            self.report.add(diagnostic)
            return None
        return self.load_text(text, str(path), path.resolve())

    def load_import(self, unit: Unit, part: tree.Import) -> Unit | None:
        """The imported file: beside the importing one, else in the installed `specs`."""
        wanted, span = part.path.value, part.path.span
        found = find_import(unit.folder, wanted)
        if found is None:
            beside = [p.name for folder in (unit.folder, specs_folder()) if folder is not None and folder.is_dir()
                      for p in sorted(folder.glob("*.net"))]
            self.report.error("E0220", f"there is no file `{wanted}` beside `{unit.name}`, nor in the installed specs",
                              span, did_you_mean(wanted, beside))
            return None
        path, name = found
        key = path.resolve()
        keys = [k for k, _ in self._open]
        if key in keys:
            names = [n for _, n in self._open[keys.index(key):]]
            if len(names) == 1:
                self.report.error("E0221", f"`{wanted}` imports itself", span,
                                  "remove the import: its names are here already")
            else:
                self.report.error("E0221", f"the imports go round: {' -> '.join([*names, name])}", span,
                                  "move what both files need into a third one")
            return None
        if key in self.units:
            return self.units[key]
        if len(self.units) >= MAX_FILES:
            self.report.error("E0222", f"more than {MAX_FILES} files are imported", span)
            return None
        text, diagnostic = read_text(path)
        if diagnostic is not None:
            self.report.add(Diagnostic(diagnostic.code, diagnostic.message, span, diagnostic.hint))
            return None
        return self.load_text(text, name, key, path.parent)


def declare(unit: Unit, library: Library) -> None:
    """Enters the declarations of a file: imports first, then blocks, nets and sections, then `let`s in their order."""
    report = library.report
    spans: dict[tuple[str, str], Span] = {}

    def once(kind: str, name: str, span: Span) -> bool:
        if name == DROPPED:
            return False
        if (kind, name) in spans:
            report.error("E0202", f"there is a {kind} `{name}` already", span, "choose another name",
                         [Note(f"`{name}` was declared", spans[kind, name])])
            return False
        spans[kind, name] = span
        return True

    for part in unit.tree.declarations:
        match part:
            case tree.Import() if once("import", part.alias, part.span):
                unit.imports[part.alias] = library.load_import(unit, part)
            case tree.Block() if once("block", part.name, part.span):
                unit.blocks[part.name] = part
                if is_op(part.name):
                    report.error("E0202", f"`{part.name}` is an op: a block cannot have its name", part.span,
                                 "choose another name: nothing is shadowed")
            case tree.Net() if once("net", part.name, part.span):
                unit.nets[part.name] = part
            case tree.Rule() if once("rule", part.name, part.span):
                unit.rules[part.name] = part
            case tree.Section() if once(f"{part.kind} section", part.name, part.span):
                (unit.data if part.kind == "data" else unit.train)[part.name] = part
    evaluator = file_evaluator(unit, report)
    for part in unit.tree.declarations:
        if isinstance(part, tree.Let):
            try:
                unit.scope.bind(part.name, evaluator.value(part.value), part.span)
            except Failed:
                unit.scope.poison(part.name, part.span)


def file_evaluator(unit: Unit, report: Report) -> Evaluator:
    """Evaluates what stands at the top of a file, where there are no tensors."""
    return Evaluator(report, unit.scope, lambda name: imported(unit, report, name))


def alias(unit: Unit, report: Report, name: tree.Name) -> Unit:
    """The file behind the `g` of `g.inception`."""
    first = name.parts[0]
    if first not in unit.imports:
        hint = did_you_mean(first, unit.imports) or f'import it first: import "{first}.net" as {first}'
        report.fail("E0204", f"nothing is imported as `{first}`", name.span, hint)
    found = unit.imports[first]
    if found is None:
        raise Failed
    return found


def imported(unit: Unit, report: Report, name: tree.Name) -> Any:
    """The value of `g.k`."""
    other = alias(unit, report, name)
    entry = other.scope.find(name.parts[1])
    if entry is None:
        if not other.complete:
            raise Failed
        report.fail("E0201", f"`{other.name}` has no value `{name.parts[1]}`", name.span,
                    did_you_mean(name.parts[1], other.scope.names()))
    if isinstance(entry.value, Poison):
        raise Failed
    return entry.value


def is_op(name: str) -> bool:
    """Whether the language has an op of this name (the IR has more)."""
    return name in REGISTRY and REGISTRY[name].signature is not None


def op_names() -> list[str]:
    return [name for name, op in REGISTRY.items() if op.signature is not None]


