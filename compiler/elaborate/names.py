"""Names of bodies that were not elaborated: blocks nobody calls, branches not taken, what stands behind an error.

Elaboration follows values; this pass only reads the text, so that an unknown op or name is an error wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.elaborate.body import bound_names, unknown_callee
from compiler.elaborate.expressions import WORDS, words_of
from compiler.elaborate.files import Unit, is_op
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.scope import shadowed
from compiler.initialize import INITIALIZERS
from compiler.ops import REGISTRY
from dsl import tree
from dsl.diagnostics import did_you_mean

ALL_WORDS = {word for kind in WORDS for word in words_of(kind)}


def check_names(report: Report, unit: Unit) -> None:
    """Reports unknown ops, blocks, argument names and values of all bodies of a file, where nothing was said yet."""
    for part in (*unit.blocks.values(), *unit.nets.values()):
        checker = Checker(report, unit, part)
        checker.shadowing(part)
        checker.statements(part.body)


class Checker:
    def __init__(self, report: Report, unit: Unit, part: tree.Block | tree.Net):
        self.report = report
        self.unit = unit
        statements = list(flat(part.body))
        self.layers = {s.name for s in statements if isinstance(s, tree.Layer)}
        self.known = {*unit.scope.names(), *(p.name for p in part.parameters)}
        for statement in statements:
            self.known |= set(bound_names(statement))
        leaves = [s for s in statements if isinstance(s, (tree.Input, tree.Label))]
        types = [item.type for item in (*part.parameters, *leaves)]
        for type in types:
            if isinstance(type, tree.TensorSpec):
                self.known |= {dim.text for dim in type.dims if isinstance(dim, tree.Name)}

    def shadowing(self, part: tree.Block | tree.Net) -> None:
        """Names of the body that a `let` of the file has taken."""
        for item in (*part.parameters, *flat(part.body)):
            targets = item.targets if isinstance(item, tree.Binding) else () if isinstance(item, tree.If) else (item,)
            for target in targets:
                earlier = self.unit.scope.find(getattr(target, "name", None) or "")
                loose = isinstance(target, (tree.Loss, tree.Metric)) or (
                    isinstance(target, tree.Output) and target.value is None)
                if earlier is not None and not loose and not self.report.has(target.span):
                    shadowed(self.report, target.name, target.span, earlier)

    def statements(self, body: tuple[tree.Statement, ...]) -> None:
        for statement in flat(body):
            for part in expressions(statement):
                self.expression(part, frozenset())

    def expression(self, part: tree.Expression, words: frozenset[str]) -> None:
        match part:
            case tree.Name():
                self.name(part, words)
            case tree.Call():
                self.call(part, bool(words))
            case tree.Pipe():
                self.expression(part.head, frozenset())
                for stage in part.stages:
                    self.call(stage.call, False)
                    if stage.repeat is not None:
                        self.expression(stage.repeat, frozenset())
            case tree.Tuple():
                for item in part.items:
                    self.expression(item, frozenset())
            case tree.List():
                for item in part.items:
                    self.expression(item.value, words)
            case tree.Unary():
                self.expression(part.operand, frozenset())
            case tree.Binary():
                self.expression(part.left, frozenset())
                self.expression(part.right, frozenset())

    def name(self, part: tree.Name, words: frozenset[str]) -> None:
        if len(part.parts) > 1 or part.text in self.known or part.text in words:
            return
        if not self.report.has(part.span):
            self.report.error("E0201", f"there is no `{part.text}` here", part.span,
                              did_you_mean(part.text, [*self.known, *words]))

    def call(self, part: tree.Call, argument: bool) -> None:
        names: dict[str, bool] | None = None  # of the parameters; whether each is a flag
        words: set[str] = set()
        callee = part.callee
        if callee.text == "dims" or argument and callee.text in INITIALIZERS:
            names = None
        elif callee.text in self.layers:
            names = None
        elif (block := self.block(callee)) is not None:
            names = {p.name: isinstance(p.type, tree.TypeName) and p.type.name == "bool" for p in block.parameters}
        elif len(callee.parts) == 1 and is_op(callee.text):
            names = {arg.name: arg.kind == "bool" for arg in REGISTRY[callee.text].args()}
            words = {word for arg in REGISTRY[callee.text].args() for word in words_of(arg.kind)}
        else:
            self.unknown(callee)
        for item in part.arguments:
            unknown = item.name is not None and names is not None and item.name not in names
            if unknown and not self.report.has(item.span):
                self.report.error("E0420", f"`{callee.text}` has no argument `{item.name}`", item.span,
                                  did_you_mean(item.name, names) or f"it has {', '.join(names)}")
            flags = {name for name, flag in (names or {}).items() if flag and item.name is None}
            self.expression(item.value, frozenset(words | flags | ALL_WORDS))

    def block(self, callee: tree.Name) -> tree.Block | None:
        if len(callee.parts) == 1:
            return self.unit.blocks.get(callee.text)
        other = self.unit.imports.get(callee.parts[0])
        return other.blocks.get(callee.parts[1]) if other is not None else None

    def unknown(self, callee: tree.Name) -> None:
        if self.report.has(callee.span):
            return
        try:
            self.report.error(*unknown_callee(self.unit, self.report, callee, self.unit.scope))
        except Failed:
            return  # the import it comes through went wrong, and that was reported


def flat(body: tuple[tree.Statement, ...]) -> Iterator[tree.Statement]:
    """All statements, those in branches too."""
    for statement in body:
        yield statement
        if isinstance(statement, tree.If):
            yield from flat(statement.then)
            yield from flat(statement.orelse)


def expressions(statement: tree.Statement) -> Iterator[tree.Expression]:
    """The expressions of one statement, dims of asserted types among them."""
    match statement:
        case tree.Binding():
            for target in statement.targets:
                if target.type is not None:
                    yield from target.type.dims
            yield statement.value
        case tree.If():
            yield statement.condition
        case tree.Input():
            yield from statement.type.dims
        case tree.Label():
            yield from statement.type.dims
            if statement.classes is not None:
                yield statement.classes
        case tree.Output():
            if statement.value is not None:
                yield statement.value
        case _:
            yield statement.value
