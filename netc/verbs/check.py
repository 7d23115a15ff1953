"""`netc check`: every error of a file, in one run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from netc.options import SET, parse_settings, split_place


@click.command(epilog="\b\nExamples:\n  netc check specs/digits.net\n  netc check --json x.net")
@click.argument("files", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print diagnostics as JSON (for editors and scripts).")
@SET
def command(files: tuple[str, ...], as_json: bool, settings: tuple[str, ...]) -> int:
    """Check .net files: syntax, names, shapes, data and train sections. Exits with 1 if there is an error."""
    from compiler.elaborate import check
    found = [d for place in files for d in check(Path(split_place(place)[0]), settings=parse_settings(settings))]
    errors = [d for d in found if d.severity == "error"]
    if as_json:
        click.echo(json.dumps([d.as_json() for d in found], indent=1))
    else:
        for diagnostic in found:
            click.echo(diagnostic.render() + "\n", err=True)
        if errors:
            click.echo(f"{len(errors)} error{'s' if len(errors) != 1 else ''}", err=True)
        else:
            click.echo(f"{', '.join(files)}: no errors")
    return 1 if errors else 0
