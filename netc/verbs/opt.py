"""`netc opt`: what each pass of the optimizer does to a net, and what that is worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.options import EXACT, MEMORY, PRECISION, SEARCH, SET, load_net, split_place

if TYPE_CHECKING:
    from compiler.passes.pipeline import Step
    from compiler.programs import Options
    from netc.view.stages import History

COLUMNS = {"nodes": "nodes", "kernels": "kernels", "flops": "FLOPs", "bytes": "bytes", "arena_bytes": "arena",
           "predicted_ms": "predicted ms"}


@click.command(epilog="\b\nExamples:\n  netc opt specs/googlenet.net\n"
               "  netc opt specs/googlenet.net --explain --target cuda:sm_80\n"
               "  netc opt specs/digits.net --program step --off clean\n"
               "  netc opt specs/googlenet.net --dump-dir passes --stop-after merge_sibling_convs\n"
               "  netc opt specs/googlenet.net --rules specs/rules.net --explain\n"
               "  netc opt passes/04-merge_sibling_convs.txt")
@click.argument("net")
@click.option("--target", default="cpu", show_default=True, help="What to predict for: cpu, cuda, or e.g. cuda:sm_90.")
@click.option("--program", default="run", show_default=True, type=click.Choice(["run", "evaluate", "step"]),
              help="Which program to optimize.")
@click.option("--off", multiple=True, metavar="PASS", help="Leave a pass out. May be repeated.")
@click.option("--only", multiple=True, metavar="PASS", help="Run this pass and no other. May be repeated.")
@click.option("--rules", multiple=True, metavar="FILE[:RULE]",
              help="Apply the rules of a .net file, or one of them, before all passes. May be repeated.")
@click.option("--stop-after", metavar="PASS", help="Show nothing that comes after this pass.")
@click.option("--dump-dir", metavar="DIR", help="Write the graph after each pass: 00-source.txt, 01-PASS.txt, …")
@click.option("--explain", is_flag=True, help="List every rewrite that was considered: taken or refused, gain, why.")
@click.option("--verify", "check", is_flag=True, help="Run the verifier after each pass.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Batch to count at.")
@MEMORY
@EXACT
@PRECISION
@SEARCH
@click.option("--json", "as_json", is_flag=True,
              help="Print {unfused, elementwise_fused, floor_bytes, passes: [{name, taken, refused, …}], after}.")
@SET
def command(net: str, target: str, program: str, off: tuple[str, ...], only: tuple[str, ...],
            rules: tuple[str, ...], stop_after: str | None,
            dump_dir: str | None, explain: bool, check: bool, batch: int, exact: bool, precision: str, search: float,
            memory: int | None, as_json: bool,
            settings: tuple[str, ...]) -> int:
    """Optimize a net's graph and show what each pass did.

    NET is a .net file, or a text that --dump-dir wrote: then the passes behind it run.

    The table counts what would be lowered: operations, kernels, FLOPs, bytes that kernels read and write, the arena for
    what lies between them, and the time a roofline model of the target predicts. Above it stands what others make of
    the source: a kernel for each op (unfused), and bias and activation in the kernel before them (element-wise fused).
    """
    from compiler.passes.pipeline import require
    from netc.view import stages as views
    if rules:
        from compiler.rules import joined
        click.get_current_context().with_resource(joined([split_place(place) for place in rules]))
    require([*off, *only, *([stop_after] if stop_after else [])])
    options = views.options(target, batch, off=off, only=only, check=check, memory=memory, exact=exact,
                            search=search, precision=precision)
    history = views.of_dump(Path(net), options) if net.endswith(".txt") else \
        _optimized(load_net(net, settings), program, target, options)
    names = [stage.name for stage in history.stages]
    stages = history.stages[:names.index(stop_after) + 1] if stop_after in names else history.stages
    if dump_dir:
        views.dump(history, Path(dump_dir), stages)
    report = {"net": history.net, "program": history.program, "target": target, "batch": batch, **history.baselines(),
              "passes": [_pass(stage.step, history.counts(stage), explain) for stage in stages if stage.step],
              "after": history.counts(stages[-1])}
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return 0
    _table(report)
    if explain:
        _explain([stage.step for stage in stages if stage.step])
    return 0


def _optimized(loaded: Any, program: str, target: str, options: Options) -> History:
    """The stages of a net. Under a budget its kernels are lowered first: what they need for themselves counts."""
    from compiler import artifact
    from netc.view import stages as views
    if options.memory is None:
        return views.of_net(loaded, program, options)
    target = target if options.machine == "cpu" else f"cuda:{options.machine}"
    free = replace(options, memory=None, steps=[])
    return views.of_net(loaded, program, options, artifact.scratch(loaded.program, [program], target, free))


def _pass(step: Step, count: dict[str, float], explain: bool) -> dict[str, Any]:
    return {"name": step.name, "taken": step.taken, "refused": len(step.rewrites) - step.taken, "seconds": step.seconds,
            "after": count, **({"skipped": step.skipped} if step.skipped else {}),
            **({"rewrites": [vars(rewrite) for rewrite in step.rewrites]} if explain else {})}


def _table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    title = f"{report['net']}: {report['program']} on {report['target']}, batch {report['batch']}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("taken", "refused", "ms", *COLUMNS.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, key in (("unfused", "unfused"), ("element-wise fused", "elementwise_fused")):
        if report[key]:
            table.add_row(name, "", "", "", *_numbers(report[key]))
    for row in report["passes"]:
        done = ("skipped", "", "") if "skipped" in row else (
            str(row["taken"]), str(row["refused"]), f"{1e3 * row['seconds']:.1f}")
        table.add_row(row["name"], *done, *_numbers(row["after"]))
    table.add_row("after", "", "", "", *_numbers(report["after"]))
    fused = report["elementwise_fused"]
    if fused:
        table.add_row("floor", *[""] * 6, f"{report['floor_bytes']:,}", "", "")
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    if fused:
        after, least = report["after"]["bytes"] / fused["bytes"], report["floor_bytes"] / fused["bytes"]
        said = f"no fusion brings them below {least:.2f}" if after >= least else \
            f"fusion alone would not bring them below {least:.2f}, but layers have become fewer"
        click.echo(f"bytes: {after:.2f} of element-wise fused; {said} (docs/seeing.md)")


def _numbers(count: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{count[key]:.4f}" if key == "predicted_ms" else f"{count[key]:,}" for key in COLUMNS)


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
