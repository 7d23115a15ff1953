"""`netc explain`: a page about each error code."""

from __future__ import annotations

import re
from pathlib import Path

import click

PAGES = Path(__file__).parent.parent / "errors.d"


def pages() -> dict[str, str]:
    """All pages by code, the heading included."""
    found = {}
    for file in sorted(PAGES.glob("*.md")):
        for part in re.split(r"^(?=## E\d{4})", file.read_text(), flags=re.MULTILINE):
            if heading := re.match(r"## (E\d{4})", part):
                found[heading[1]] = part.strip()
    return found


@click.command(epilog="\b\nExamples:\n  netc explain E0301\n  netc explain --list")
@click.argument("code", required=False)
@click.option("--list", "listing", is_flag=True, help="List all codes.")
def command(code: str | None, listing: bool) -> int:
    """Explain an error code: what it means, a wrong example, and how to mend it."""
    known = pages()
    if listing or not code:
        for name, page in sorted(known.items()):
            click.echo(page.splitlines()[0].removeprefix("## "))
        return 0
    if code.upper() not in known:
        raise click.UsageError(f"There is no error {code}; `netc explain --list` lists them all.")
    click.echo(known[code.upper()])
    return 0
