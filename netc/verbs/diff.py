"""`netc diff`: what differs between two nets, or between two passes of one, in terms of the user's layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.options import SET, load_net
from runtime.errors import NetcError

if TYPE_CHECKING:
    from compiler.diff import Change, Difference
    from compiler.ir import Graph

COLORS = {"@": "cyan", "-": "red", "+": "green"}


@click.command(epilog="\b\nExamples:\n  netc diff lenet.net wider.net\n  netc diff specs/googlenet.net --after clean\n"
               "  netc diff specs/googlenet.net --before merge_sibling_convs --after merge_sibling_convs --json\n"
               "  netc diff x.net y.net --program step --before clean --after clean")
@click.argument("net")
@click.argument("other", required=False)
@click.option("--before", metavar="PASS", help="Begin with the graph before this pass (with the source, if left out).")
@click.option("--after", metavar="PASS", help="End with the graph after this pass (after all, if left out).")
@click.option("--program", default="run", show_default=True, type=click.Choice(["run", "evaluate", "step"]),
              help="Which program the passes are of.")
@click.option("--target", default="cpu", show_default=True, help="What passes decide for: cpu, cuda, or e.g. cuda:sm_90.")
@click.option("--json", "as_json", is_flag=True, help="Print {same, added, removed, changed, results, kernels}.")
@SET
def command(net: str, other: str | None, before: str | None, after: str | None, program: str, target: str,
            as_json: bool, settings: tuple[str, ...]) -> int:
    """Compare two nets as they are written, or the graph of one net before and after passes. For a net, a text that
    `netc opt --dump-dir` wrote may stand too.

    Each difference stands under the layers it is about, as lines of the graph IR. The exit code is 0 if there is none,
    1 if there is one, and 2 if there is an error.
    """
    from dsl.diagnostics import DiagnosticError
    from netc.cli import coded
    try:
        names, graphs = _graphs(net, other, before, after, program, target, settings)
    except (NetcError, DiagnosticError) as problem:
        click.echo(coded(problem), err=True)
        return 2
    from compiler.diff import compare
    found = compare(*graphs)
    if as_json:
        click.echo(json.dumps(_plain(names, found), indent=1))
    elif found:
        for line in _lines(names, graphs, found):
            click.secho(line, fg=COLORS.get(line[0]), bold=line.startswith(("---", "+++")))
    return 1 if found else 0


def _graphs(net: str, other: str | None, before: str | None, after: str | None, program: str, target: str,
            settings: tuple[str, ...]) -> tuple[tuple[str, str], tuple[Graph, Graph]]:
    if other and (before or after):
        raise NetcError("E0433", "there are two nets and a pass", "give two nets, or one net and --before or --after")
    if other:
        return (net, other), (_graph(net, settings), _graph(other, settings))
    if not (before or after):
        raise NetcError("E0433", f"{net} is compared with nothing", "give a second net, or --before or --after a pass")
    from compiler.passes.pipeline import require
    from netc.view.stages import of_net, options
    require([name for name in (before, after) if name])
    stages = of_net(load_net(net, settings), program, options(target, 1)).stages
    number = {stage.name: stage.number for stage in stages}
    first, last = stages[number[before] - 1 if before else 0], stages[number[after] if after else -1]
    layers = first.layers and last.layers
    return ((f"{net} {first.name}", f"{net} {last.name}"),
            (first.graph, last.graph) if layers else (first.lowered, last.lowered))


def _graph(place: str, settings: tuple[str, ...]) -> Graph:
    """A net as it is written, or the graph of a dump."""
    if not place.endswith(".txt"):
        return load_net(place, settings).graph
    from netc.view.stages import read_dump
    return read_dump(Path(place))[0]


def _lines(names: tuple[str, str], graphs: tuple[Graph, Graph], found: Difference) -> list[str]:
    lines = [f"--- {names[0]}", f"+++ {names[1]}"]
    for change in found.changes:
        what = ", ".join(key.removeprefix("attrs.") for key in change.fields)
        whose = ", ".join(change.layers) or change.name
        lines.append(f"@@ {whose}: {change.kind}{' ' if what else ''}{what} @@")
        for sign, node, graph in (("-", change.before, graphs[0]), ("+", change.after, graphs[1])):
            if node:
                lines += [sign + line for line in _node(graph, change, node)]
    if found.results:
        lines.append("@@ results @@")
        for name, ends in found.results.items():
            word, _, key = name.partition(".")
            lines += [f"{sign}{word} {key} = %{end}" for sign, end in zip("-+", ends) if end]
    if any(found.kernels):
        lines.append("@@ kernels @@")
        lines += [f"{sign}kernel {' '.join(kernel)}" for sign, side in zip("-+", found.kernels) for kernel in side]
    return lines


def _node(graph: Graph, change: Change, node: Any) -> list[str]:
    inputs = ", ".join(f"%{i}" for i in node.inputs)
    attrs = ", ".join(f"{key} = {_value(value)}" for key, value in node.attrs.items())
    lines = [f"%{node.name} = {node.op}({inputs}) {{{attrs}}} : {node.type}"]
    for word, table in (("layout", graph.layouts), ("place", graph.places)):
        if word in change.fields and node.name in table:
            lines.append(f"{word} %{node.name} = {_value(table[node.name])}")
    return lines


def _value(value: Any) -> str:
    """An attribute, a layout or a place, short enough for a line."""
    import numpy as np
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"{value.dtype}[{', '.join(map(str, value.shape))}] from {value.min():g} to {value.max():g}"
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    if hasattr(value, "root"):
        return f"{value.root} from [{', '.join(map(str, value.starts))}]"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value) if isinstance(value, (str, bool)) else str(value)


def _plain(names: tuple[str, str], found: Difference) -> dict[str, Any]:
    def entry(change: Change) -> dict[str, Any]:
        node = change.after or change.before
        fields = {key: [_field(value) for value in values] for key, values in change.fields.items()}
        return {"name": node.name, "op": node.op, "type": str(node.type), "layers": change.layers,
                **({"fields": fields} if fields else {})}

    kinds = {kind: [entry(change) for change in found.changes if change.kind == kind]
             for kind in ("added", "removed", "changed")}
    return {"before": names[0], "after": names[1], "same": not found, **kinds,
            "results": {key: list(ends) for key, ends in found.results.items()},
            "kernels": {"removed": found.kernels[0], "added": found.kernels[1]}}


def _field(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return [_field(v) for v in value] if isinstance(value, (tuple, list)) else _value(value)
