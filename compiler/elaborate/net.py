"""The body of a net: inputs, labels, outputs, losses and metrics, and what must hold of the whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from compiler.elaborate.body import Body, Place, Session, declared_parameters
from compiler.elaborate.expressions import Evaluator, wrap
from compiler.elaborate.files import Unit, file_evaluator
from compiler.elaborate.report import Failed, Report
from compiler.elaborate.scope import Scope
from compiler.elaborate.values import Tensor, describe, made_by
from compiler.ir import Graph, Node, Origin
from compiler.ops import REGISTRY
from dsl import tree
from dsl.diagnostics import Span, did_you_mean
from dsl.parse import parse


@dataclass(frozen=True)
class Elaborated:
    """A net as a graph, with the values its parameters took."""

    graph: Graph
    parameters: dict[str, Any]

    def metric_modes(self) -> dict[str, str]:
        """Metric → whether "max" or "min" of it is best: metric ops count hits, but for those that measure an error."""
        ops = {name: REGISTRY[self.graph[node].op] for name, node in self.graph.metrics.items()}
        return {name: "max" if op.roles == ("metric",) and "error" not in op.name else "min"
                for name, op in ops.items()}


class NetBody(Body):
    """Elaborates the statements of a net."""

    def __init__(self, session: Session, unit: Unit):
        super().__init__(session, unit, Place("", ""))
        self.spans: dict[str, Span] = {}  # of outputs

    def statement(self, part: tree.Statement) -> None:
        match part:
            case tree.Input() | tree.Label():
                self.leaf(part)
            case tree.Output():
                self.output(part)
            case tree.Loss():
                self.loss(part)
            case tree.Metric():
                self.metric(part)
            case _:
                super().statement(part)

    def leaf(self, part: tree.Input | tree.Label) -> None:
        type = self.declared_type(part.type)
        attrs: dict[str, Any] = {"role": "input"}
        if isinstance(part, tree.Label):
            attrs = {"role": "label", "classes": self.classes(part, type.dtype)}
        earlier = self.scope.find(part.name)
        self.scope.bind(part.name, Tensor(part.name, type, "input", part.span, part.name), part.span)
        if earlier is None:
            path = self.session.unique(part.name)
            self.graph.add(Node(path, "input", (), type, attrs, frozenset({Origin(path, part.span.place)})))

    def classes(self, part: tree.Label, dtype: str) -> int | None:
        if part.classes is None:
            return None
        count = self.convert(part.classes, "int", f"the number of classes of `{part.name}`")
        if count < 1:
            self.fail("E0425", f"`{part.name}` has at least 1 class, got {count}", part.classes.span)
        if dtype[0] not in "iu":
            self.fail("E0325", f"classes are whole numbers, `{part.name}` is {dtype}", part.type.span, "write `i32[N]`")
        return count

    def tensor(self, part: tree.Expression, segment: str, what: str) -> Tensor:
        value = self.valued(part, segment)
        if not isinstance(value, Tensor):
            self.fail("E0423", f"{what} is a tensor, got {describe(value)}", part.span)
        return value

    def output(self, part: tree.Output) -> None:
        if part.value is None:
            value = self.name(tree.Name(part.span, (part.name,)))
            if not isinstance(value, Tensor):
                self.fail("E0423", f"an output is a tensor, `{part.name}` is {describe(value)}", part.span)
        else:
            value = self.tensor(part.value, part.name, "an output")
            self.scope.bind(part.name, replace(value, name=part.name), part.span)
        if part.name in self.graph.outputs:
            self.fail("E0202", f"there is an output `{part.name}` already", part.span)
        self.graph.outputs[part.name] = value.node
        self.spans[part.name] = part.span

    def loss(self, part: tree.Loss) -> None:
        name = self.table_name(part, "loss", self.graph.losses)
        value = self.scalar(part, name, "a loss")
        op = REGISTRY[self.graph[value.node].op]
        if op.roles == ("metric",):
            self.fail("E0326", f"`{op.name}` is a metric: it has no gradient to train with", part.value.span,
                      f"write `metric {op.name}(…)`, and a loss such as `cross_entropy`")
        self.graph.losses[name] = value.node

    def metric(self, part: tree.Metric) -> None:
        last = part.value.stages[-1].call if isinstance(part.value, tree.Pipe) else part.value
        callee = last.callee if isinstance(last, tree.Call) else last
        word = callee.parts[-1] if isinstance(callee, tree.Name) else "metric"
        name = self.table_name(part, word, self.graph.metrics)
        self.graph.metrics[name] = self.scalar(part, name, "a metric").node

    def table_name(self, part: tree.Loss | tree.Metric, default: str, table: dict[str, str]) -> str:
        """The name of a loss or metric; those without one are numbered from the second on."""
        if part.name is None:
            number, name = 1, default
            while name in table:
                number += 1
                name = f"{default}{number}"
            return name
        if part.name in table:
            self.fail("E0202", f"there is a {type(part).__name__.lower()} `{part.name}` already", part.span)
        return part.name

    def scalar(self, part: tree.Loss | tree.Metric, segment: str, what: str) -> Tensor:
        value = self.tensor(part.value, segment, what)
        if value.type.shape or not value.type.is_float:
            self.fail("E0326", f"{what} is one number, got {value.type}", part.value.span,
                      "losses such as `cross_entropy` make one, `-> mean` averages a tensor", made_by([value]))
        return value

    # --- the whole net -------------------------------------------------------------------------------------------

    def check(self, net: tree.Net) -> None:
        """What is wrong with the net as a whole; called when its statements are free of errors."""
        if not self.graph.outputs:
            self.report.error("E0208", f"the net `{net.name}` has no output", net.span,
                              "add `output p = …`: what is deployed is what reaches an output")
        # Programs hand all results back by name.
        tables = {"a loss": self.graph.losses, "a metric": self.graph.metrics}
        for kind, table in tables.items():
            for name in self.graph.outputs.keys() & table.keys():
                self.report.error("E0202", f"`{name}` is the name of an output and of {kind}", self.spans[name],
                                  f"give one of them another name, such as `{kind.split()[1]} {name}_value = …`")
        for name in self.graph.losses.keys() & self.graph.metrics.keys():
            self.report.error("E0202", f"`{name}` is the name of a loss and of a metric", net.span,
                              f"give one of them another name, such as `metric {name}_value = …`")
        labels = {node.name for node in self.graph.leaves("input") if node.attrs["role"] == "label"}
        for name, node in self.graph.outputs.items():
            reached = labels & (nx.ancestors(self.graph.nx, node) | {node})
            if reached:
                self.report.error("E0327", f"the output `{name}` depends on the label `{min(reached)}`",
                                  self.spans[name],
                                  "a deployed net gets no labels: compute outputs from inputs only")
        used = set(self.graph.results())
        for node in list(used):
            used |= nx.ancestors(self.graph.nx, node)
        for node in self.graph.leaves("input"):
            if node.name not in used:
                self.report.warn("E0209", f"the {node.attrs['role']} `{node.name}` is not used",
                                 self.scope.entries[node.name].span, "remove it, or use it")


def elaborate_net(report: Report, unit: Unit, net: tree.Net, settings: dict[str, str]) -> Elaborated | None:
    """The graph of a net, or None where something is wrong (which is reported)."""
    before = len(report.errors)
    session = Session(Graph(net.name), report)
    body = NetBody(session, unit)
    try:
        parameters = resolve_parameters(report, unit, net, settings, body)
    except Failed:
        return None
    body.run(net.body)
    if body.broken or len(report.errors) > before:
        return None
    body.check(net)
    return Elaborated(session.graph, parameters)


def settable(net: tree.Net) -> list[str]:
    """The names that `--set` may give for a net."""
    return [part.name for part in net.parameters]


def resolve_parameters(report: Report, unit: Unit, net: tree.Net, settings: dict[str, str],
                       body: Body) -> dict[str, Any]:
    """Binds the net's parameters in `body`'s scope: from `settings` (expression texts), else their defaults."""
    arguments = declared_parameters(file_evaluator(unit, report), net.parameters, tensors=False)
    names = [arg.name for arg in arguments]
    failed = False
    for name in settings:
        if name not in names:
            hint = did_you_mean(name, names) or (f"it has {', '.join(names)}" if names else "it has no parameters")
            report.error("E0420", f"the net `{net.name}` has no parameter `{name}`", None, hint)
            failed = True
    values = {}
    for arg, part in zip(arguments, net.parameters):
        what = f"`{arg.name}` of `{net.name}`"
        try:
            if arg.name in settings:
                source = setting_expression(report, arg.name, settings[arg.name])
                outside = Evaluator(report, Scope(report), body.imported)
                values[arg.name] = outside.convert(source, arg.kind, what)
            elif arg.default is None:
                report.fail("E0421", f"the net `{net.name}` needs a value for `{arg.name}`", part.span,
                            f"give it a default, or `--set {arg.name}=…`")
            else:
                values[arg.name] = body.convert(arg.default, arg.kind, what)
            body.scope.bind(arg.name, wrap(values[arg.name], arg.kind), part.span)
        except Failed:
            body.scope.poison(arg.name, part.span)
            failed = True
    if failed:
        raise Failed
    return values


def setting_expression(report: Report, name: str, text: str) -> tree.Expression:
    """The expression of `--set name=text`."""
    file, diagnostics = parse(f"let {name} = {text}", f"--set {name}")
    for diagnostic in diagnostics:
        report.add(diagnostic)
    if diagnostics:
        raise Failed
    match file.declarations:
        case (tree.Let(value=value),):
            return value
    report.fail("E0420", f"the setting of `{name}` is not one value: {text!r}", None, "write `--set name=value`")

