"""`netc inspect`: what is inside an artifact."""

from __future__ import annotations

import json
import sys

import click

from netc.layers import short


@click.command(epilog="\b\nExamples:\n  netc inspect digits.netb\n  netc inspect digits.netb --kernels --batch 16\n"
               "  netc inspect digits.netb --json\n  netc inspect gpu.netb --kernels --program run --json")
@click.argument("artifact")
@click.option("--kernels", is_flag=True,
              help="List each kernel: the layers it computes, its ops, FLOPs and bytes; of GPU code what it takes of each GPU, "
              "its instructions and predicted time.")
@click.option("--program", metavar="NAME", help="With --kernels: only the kernels of this program (run, step, …).")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Batch to count at.")
@click.option("--json", "as_json", is_flag=True,
              help="Print the whole manifest as JSON; with --kernels, of GPU code a row for each kernel.")
@click.option("--extract", metavar="MEMBER", help="Write one member to standard output.")
def command(artifact: str, kernels: bool, program: str | None, batch: int, as_json: bool, extract: str | None) -> int:
    """List what an artifact holds: target, inputs, outputs, parameters, kernels, members; hashes are verified."""
    from runtime.errors import NetcError
    from runtime.format import read
    found = read(artifact)
    manifest = found.manifest
    if extract:
        if extract not in found.members:
            raise NetcError("E0607", f"{artifact} has no member `{extract}`", f"it has {', '.join(found.members)}")
        sys.stdout.buffer.write(found.members[extract])
        return 0
    programs = _programs(manifest, program, artifact)
    if kernels and manifest["target"].get("archs"):
        from netc.gpu_table import show
        show(found, programs, batch, as_json)
        return 0
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
        return 0
    if kernels:
        for name in programs:
            entry = manifest["programs"][name]
            _kernels(f"{manifest['net']}: {name}, batch {batch}", entry, dict.fromkeys(entry["symbols"], batch))
        return 0
    click.echo(f"net       {manifest['net']}" + "".join(f" {k}={v}" for k, v in manifest["settings"].items()))
    for half in (manifest, *manifest.get("halves", {}).values()):
        click.echo(f"target    {half['target']['name']} (netc {manifest['netc']}, TVM {manifest['tvm']})")
    if manifest["target"].get("fast_math"):
        click.echo("numbers   --fast-math: less exact division, square roots and functions on GPUs")
    if manifest.get("tuned"):
        click.echo(f"tuned     on {manifest['tuned']['device']} at batch {manifest['tuned']['batch']}")
    for entry in manifest["inputs"]:
        click.echo(f"{entry['role']:<9} {entry['name']}: {entry['dtype']}{_shape(entry['shape'])}"
                   + (f" in {entry['classes']}" if entry["classes"] else ""))
    if manifest.get("class_names"):
        click.echo(f"classes   {', '.join(manifest['class_names'])}")
    weights = [p for p in manifest["parameters"] if p["kind"] in ("weight", "state")]
    count = sum(p["bytes"] // 4 for p in weights)
    click.echo(f"weights   {count:,} in {len(weights)} tensors, {manifest['parameter_bytes']:,} bytes in all")
    for name, program in manifest["programs"].items():
        outputs = [f"{a['name']}: {a['dtype']}{_shape(a['shape'])}" for a in program["arguments"] if a["kind"] == "output"]
        click.echo(f"program   {name}: {len(program['kernels'])} kernels → {', '.join(outputs)}")
    for name, member in manifest["members"].items():
        click.echo(f"member    {name} {member['bytes']:,} bytes sha256 {member['sha256'][:16]}…")
    return 0


def _programs(manifest: dict, program: str | None, artifact: str) -> list[str]:
    """The named program, or all."""
    from runtime.errors import NetcError
    if program is not None and program not in manifest["programs"]:
        raise NetcError("E0607", f"{artifact} has no program `{program}`", f"it has {', '.join(manifest['programs'])}")
    return [program] if program else list(manifest["programs"])


def _kernels(title: str, program: dict, sizes: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table

    from runtime.format import size
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("layers", "ops"):
        table.add_column(heading, overflow="fold")
    for heading in ("FLOPs", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kernel in program["kernels"]:
        table.add_row(short(kernel["layers"]), " ".join(kernel["ops"]),
                      *(f"{size(kernel[k], sizes):,}" for k in ("flops", "bytes")))
    table.add_section()
    table.add_row(f"{len(program['kernels'])} kernels, {size(program['arena'], sizes):,} bytes of arena", "", *(
        f"{sum(size(kernel[k], sizes) for kernel in program['kernels']):,}" for k in ("flops", "bytes")))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _shape(shape: list) -> str:
    return "[" + ", ".join(_size(s) for s in shape) + "]"


def _size(size: object) -> str:
    if isinstance(size, list):
        operator, *operands = size
        return f" {operator} ".join(_size(o) for o in operands) if operator == "+" else operator.join(map(_size, operands))
    return str(size)
