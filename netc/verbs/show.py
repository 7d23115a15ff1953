"""`netc show`: a net as a table of layers, as the text of its graph IR, as a page, or as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from netc.options import SET, load_net
from runtime.errors import NetcError


@click.command(epilog="\b\nExamples:\n  netc show specs/googlenet.net\n  netc show specs/digits.net --ir\n"
               "  netc show specs/googlenet.net --html googlenet.html\n"
               "  netc show specs/digits.net --html step.html --program step --no-code\n"
               "  netc show specs/googlenet.net --svg googlenet.svg --after merge_sibling_convs\n"
               "  netc show x.net --json")
@click.argument("net")
@click.option("--json", "as_json", is_flag=True, help="Print {layers, totals: {params, macs, bytes}}.")
@click.option("--ir", "mode", type=click.Choice(["source", "run", "evaluate", "step"]), is_flag=False,
              flag_value="source", help="Print the graph IR instead: as written (source), or of a program.")
@click.option("--html", metavar="FILE", help="Write one page with the graph behind each pass; it needs no network.")
@click.option("--svg", metavar="FILE", help="Write a picture of the graph: as written, or --after a pass.")
@click.option("--program", default="run", show_default=True, type=click.Choice(["run", "evaluate", "step"]),
              help="Which program --html and --svg show.")
@click.option("--target", default="cpu", show_default=True, help="What --html and --svg predict and generate code for.")
@click.option("--after", metavar="PASS", help="The pass that --svg shows the graph behind.")
@click.option("--no-code", is_flag=True, help="Leave the generated code out of the page: smaller, and at once.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1),
              help="Batch that bytes and MACs are counted at.")
@SET
def command(net: str, as_json: bool, mode: str | None, html: str | None, svg: str | None, program: str, target: str,
            after: str | None, no_code: bool, batch: int, settings: tuple[str, ...]) -> int:
    """Show a net: a line a layer (output shape, parameters, MACs, bytes) and totals; or as a graph, pass by pass."""
    if after and not svg:
        raise click.UsageError("--after says which graph --svg draws: give --svg FILE too")
    loaded = load_net(net, settings)
    if mode:
        from compiler import programs
        from compiler.text import to_text
        graph = loaded.graph if mode == "source" else programs.of(loaded.program, mode)
        click.echo(to_text(graph), nl=False)
        return 0
    if html or svg:
        _draw(loaded, html, svg, program, target, after, no_code, batch)
        return 0
    from compiler.summary import summarize
    rows, totals = summarize(loaded.graph, batch)
    if as_json:
        click.echo(json.dumps({"net": loaded.program.net, "batch": batch, "layers": rows, "totals": totals}, indent=1))
        return 0
    _table(loaded.program.net, batch, rows, totals)
    return 0


def _draw(loaded: Any, html: str | None, svg: str | None, program: str, target: str, after: str | None, no_code: bool,
          batch: int) -> None:
    from netc.view import stages
    if after:
        from compiler.passes.pipeline import require
        require([after])
    history = stages.of_net(loaded, program, stages.options(target, batch))
    if html:
        from netc.view.page import page
        code = None
        if not no_code:
            from netc.view.code import generate
            click.echo("generating the code of each kernel (--no-code leaves it out)", err=True)
            code = generate(program, history.stages[-1].lowered, target, batch)
        _write(html, page(history, target, loaded.program.sources, code))
    if svg:
        from netc.view.still import still
        names = [stage.name for stage in history.stages]
        _write(svg, still(history, history.stages[names.index(after) if after else 0]))


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as problem:
        raise NetcError("E0432", f"cannot write {path}: {problem.strerror}",
                        "name a file in a folder that exists") from problem
    click.echo(f"wrote {path} ({len(text.encode()):,} bytes)")


def _table(net: str, batch: int, rows: list[dict[str, Any]], totals: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(title=f"{net}, batch {batch}", title_justify="left", box=None, pad_edge=False)
    for heading in ("layer", "op", "output"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "MACs", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["layer"], row["op"], row["output"],
                      *(f"{row[k]:,}" if row[k] else "" for k in ("params", "macs", "bytes")))
    table.add_section()
    table.add_row("total", "", "", *(f"{totals[k]:,}" for k in ("params", "macs", "bytes")))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
