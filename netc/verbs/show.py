"""`netc show`: a net as a table of layers, or as the text of its graph IR."""

from __future__ import annotations

import json

import click

from netc.options import SET, load_net


@click.command(epilog="\b\nExamples:\n  netc show specs/googlenet.net\n  netc show specs/digits.net --ir\n  netc show x.net --json")
@click.argument("net")
@click.option("--json", "as_json", is_flag=True, help="Print {layers, totals: {params, macs, bytes}}.")
@click.option("--ir", "mode", type=click.Choice(["source", "run", "evaluate", "step"]), is_flag=False, flag_value="source",
              help="Print the graph IR instead: as written (source), or of a program.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Batch that bytes and MACs are counted at.")
@SET
def command(net: str, as_json: bool, mode: str | None, batch: int, settings: tuple[str, ...]) -> int:
    """Show a net: a line a layer (output shape, parameters, MACs, bytes) and totals."""
    loaded = load_net(net, settings)
    if mode:
        from compiler import programs
        from compiler.text import to_text
        graph = loaded.graph if mode == "source" else programs.of(loaded.program, mode)
        click.echo(to_text(graph), nl=False)
        return 0
    from compiler.summary import summarize
    rows, totals = summarize(loaded.graph, batch)
    if as_json:
        click.echo(json.dumps({"net": loaded.program.net, "batch": batch, "layers": rows, "totals": totals}, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table
    table = Table(title=f"{loaded.program.net}, batch {batch}", title_justify="left", box=None, pad_edge=False)
    for heading in ("layer", "op", "output"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "MACs", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["layer"], row["op"], row["output"], *(f"{row[k]:,}" if row[k] else "" for k in ("params", "macs", "bytes")))
    table.add_section()
    table.add_row("total", "", "", *(f"{totals[k]:,}" for k in ("params", "macs", "bytes")))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    return 0
