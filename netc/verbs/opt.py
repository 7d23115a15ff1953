"""`netc opt`: what each pass of the optimizer does to a net, and what that is worth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.options import SET, load_net
from runtime.errors import NetcError

if TYPE_CHECKING:
    from compiler.ir import Graph
    from compiler.passes.pipeline import Step

MODES = {"run": "deploy", "evaluate": "evaluate", "step": "train"}


@click.command(epilog="\b\nExamples:\n  netc opt specs/googlenet.net\n"
               "  netc opt specs/googlenet.net --explain --target cuda:sm_80\n"
               "  netc opt specs/digits.net --program step --off clean\n"
               "  netc opt specs/googlenet.net --dump-dir passes --stop-after merge_sibling_convs")
@click.argument("net")
@click.option("--target", default="cpu", show_default=True, help="What to predict for: cpu, or e.g. cuda:sm_80.")
@click.option("--program", default="run", show_default=True, type=click.Choice(list(MODES)),
              help="Which program to optimize.")
@click.option("--off", multiple=True, metavar="PASS", help="Leave a pass out. May be repeated.")
@click.option("--only", multiple=True, metavar="PASS", help="Run this pass and no other. May be repeated.")
@click.option("--stop-after", metavar="PASS", help="Show nothing that comes after this pass.")
@click.option("--dump-dir", metavar="DIR", help="Write the graph after each pass: 00-source.txt, 01-PASS.txt, …")
@click.option("--explain", is_flag=True, help="List every rewrite that was considered: taken or refused, gain, why.")
@click.option("--verify", "check", is_flag=True, help="Run the verifier after each pass.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Batch to count at.")
@click.option("--json", "as_json", is_flag=True, help="Print {before, passes: [{name, taken, refused, …}], after}.")
@SET
def command(net: str, target: str, program: str, off: tuple[str, ...], only: tuple[str, ...], stop_after: str | None,
            dump_dir: str | None, explain: bool, check: bool, batch: int, as_json: bool,
            settings: tuple[str, ...]) -> int:
    """Optimize a net's graph and show what each pass did.

    The table counts after each pass what would be lowered: operations, kernels with their element-wise tails, FLOPs,
    bytes that kernels read and write, and the time a roofline model of the target predicts.
    """
    from compiler import programs
    from compiler.passes.pipeline import require
    from compiler.passes.select_mode import select_mode
    require([*off, *only, *([stop_after] if stop_after else [])])
    loaded = load_net(net, settings)
    options = programs.Options(_machine(target), batch, off, only, check)
    programs.of(loaded.program, program, options)
    names = [step.name for step in options.steps]
    steps = options.steps[:names.index(stop_after) + 1] if stop_after in names else options.steps
    source = select_mode(loaded.graph, MODES[program])
    if dump_dir:
        _dump(Path(dump_dir), source, steps)
    counts = _counts(source, steps, loaded.train_config if program == "step" else None, options)
    passes = [{"name": step.name, "taken": step.taken, "refused": len(step.rewrites) - step.taken,
               "seconds": step.seconds, "after": count, **({"skipped": step.skipped} if step.skipped else {}),
               **({"rewrites": [vars(rewrite) for rewrite in step.rewrites]} if explain else {})}
              for step, count in zip(steps, counts[1:])]
    if as_json:
        click.echo(json.dumps({"net": loaded.program.net, "program": program, "target": target, "batch": batch,
                               "before": counts[0], "passes": passes, "after": counts[-1]}, indent=1))
        return 0
    _table(f"{loaded.program.net}: {program} on {target}, batch {batch}", counts[0], passes)
    if explain:
        _explain(steps)
    return 0


def _machine(target: str) -> str:
    """The row of the cost model for a target. Raises NetcError E0412, E0701 or E0702."""
    from compiler.cost import MACHINES
    from compiler.target import CPUS
    kind, _, name = target.strip().partition(":")
    if kind == "cpu" and name in ("", "host", *CPUS):
        return "cpu"
    if kind != "cuda":
        raise NetcError("E0701", f"there is no target `{target}`", "known are cpu, cpu:NAME and cuda:ARCH")
    known = " and ".join(f"cuda:{machine}" for machine in MACHINES if machine.startswith("sm_"))
    if not name:
        raise NetcError("E0702", "a CUDA target names its architecture", f"there are cost tables for {known}")
    if name not in MACHINES:
        raise NetcError("E0412", f"there is no cost table for `{target}`", f"there are tables for cpu, {known}")
    return name


def _counts(source: Graph, steps: list[Step], train: dict[str, Any] | None, options: Any) -> list[dict[str, float]]:
    """What would be lowered of the source, and after each pass; a pass that took nothing leaves it as it was."""
    from compiler import programs
    from compiler.cost import MACHINES
    from compiler.passes.expand import expand
    from compiler.passes.pipeline import LAYERS
    from compiler.prepare import hoist
    from compiler.tally import tally

    def count(graph: Graph, layers: bool) -> dict[str, float]:
        if layers:
            graph = programs.join(graph, train) if train else expand(graph)
        graph = graph.copy()
        if not train:
            hoist({"program": graph})
        return tally(graph, MACHINES[options.machine], options.batch)

    counts = [count(source, layers=True)]
    for step in steps:
        counts.append(count(step.graph, step.name in LAYERS) if step.taken else counts[-1])
    return counts


def _dump(folder: Path, source: Graph, steps: list[Step]) -> None:
    from compiler.text import to_text
    try:
        os.makedirs(folder, exist_ok=True)
        for number, (name, graph) in enumerate([("source", source), *((step.name, step.graph) for step in steps)]):
            (folder / f"{number:02}-{name}.txt").write_text(to_text(graph), encoding="utf-8")
    except OSError as problem:
        raise NetcError("E0413", f"cannot write {folder}: {problem.strerror}",
                        "give a folder to --dump-dir") from problem


def _table(title: str, before: dict[str, float], passes: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("after pass", no_wrap=True)
    for heading in ("taken", "refused", "ms", "nodes", "kernels", "FLOPs", "bytes", "predicted ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("source", "", "", "", *_numbers(before))
    for row in passes:
        done = ("skipped", "", "") if "skipped" in row else (
            str(row["taken"]), str(row["refused"]), f"{1e3 * row['seconds']:.1f}")
        table.add_row(row["name"], *done, *_numbers(row["after"]))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _numbers(count: dict[str, float]) -> tuple[str, ...]:
    return (*(f"{count[key]:,}" for key in ("nodes", "kernels", "flops", "bytes")), f"{count['predicted_ms']:.4f}")


def _explain(steps: list[Step]) -> None:
    for step in steps:
        if not step.rewrites and not step.skipped:
            continue
        click.echo(f"\n{step.name}" + (f": skipped, {step.skipped}" if step.skipped else ""))
        for rewrite in step.rewrites:
            word = "gain" if rewrite.gain > 0 else "loss"
            gain = f", {word} {1e6 * abs(rewrite.gain):.2f} us" if rewrite.gain else ""
            click.echo(f"  {'taken' if rewrite.taken else 'refused'}: {rewrite.what}{gain}"
                       + (f" ({rewrite.why})" if rewrite.why else ""))
            if rewrite.layers:
                click.echo(f"    {', '.join(rewrite.layers)}")
