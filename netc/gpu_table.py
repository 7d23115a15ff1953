"""The kernels of GPU code as a table, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import click

from compiler import resources, sass
from netc.layers import short
from runtime.format import Artifact

COLUMNS = ("kernel", "registers", "shared", "spilled", "occupancy", "FFMA:LDS", "FFMA %", "128-bit loads", "bytes", "FLOPs",
           "predicted µs")


def show(artifact: Artifact, programs: Sequence[str], batch: int, as_json: bool) -> None:
    """Prints the rows of programs (see `compiler.resources.rows`). Raises what that raises."""
    found = {name: resources.rows(artifact.manifest, artifact.members, name, batch) for name in programs}
    if as_json:
        click.echo(json.dumps([row for rows in found.values() for row in rows], indent=1))
        return
    for name, rows in found.items():
        for arch, some in groupby(rows, key=lambda row: row["arch"]):
            _table(f"{artifact.manifest['net']}: {name}, batch {batch}, {arch}", list(some))
    if not sass.available():
        click.echo(f"instructions are not counted: {sass.TOOL} is missing; {sass.INSTALL}")


def _table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layers", overflow="fold")
    for heading in COLUMNS:
        table.add_column(heading, justify="left" if heading == "kernel" else "right", no_wrap=True)
    for row in rows:
        table.add_row(short(row["layers"]), row["kernel"], f"{row['registers']}", f"{row['shared_bytes']:,}",
                      f"{row['spill_bytes']:,}", f"{row['occupancy']:.0%}", *_mix(row["mix"]),
                      f"{row['dram_bytes']:,}", f"{row['flops']:,}", f"{row['predicted_us']:.1f}")
    table.add_section()
    table.add_row(f"{len(rows)} launches", *[""] * (len(COLUMNS) - 3), f"{sum(row['dram_bytes'] for row in rows):,}",
                  f"{sum(row['flops'] for row in rows):,}", f"{sum(row['predicted_us'] for row in rows):.1f}")
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def _mix(mix: dict[str, Any] | None) -> tuple[str, str, str]:
    """FFMA:LDS (or how many products on tensor cores), the share of FFMA, and of wide loads."""
    if mix is None:
        return "", "", ""
    ratio = f"{mix['hmma']} HMMA" if mix["hmma"] else "—" if mix["ffma_lds"] is None else f"{mix['ffma_lds']:.1f}"
    share, wide = ("—" if mix[key] is None else f"{mix[key]:.0%}" for key in ("ffma_share", "wide_loads"))
    return ratio, share, wide
