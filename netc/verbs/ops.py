"""`netc ops`: the ops of the language, from their declarations."""

from __future__ import annotations

import json

import click


@click.command(epilog="\b\nExamples:\n  netc ops\n  netc ops conv\n  netc ops --json")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(name: str | None, as_json: bool) -> int:
    """List the ops of the language, or explain one: its parameters, defaults and meaning."""
    from compiler.ops import REGISTRY
    from compiler.ops.base import KINDS
    from dsl.diagnostics import did_you_mean
    ops = {n: op for n, op in REGISTRY.items() if op.signature is not None}
    if name and name not in ops:
        hint = did_you_mean(name, ops)
        raise click.UsageError(f"There is no op `{name}`{f'; {hint}' if hint else '; `netc ops` lists them'}")
    chosen = {name: ops[name]} if name else ops
    if as_json:
        click.echo(json.dumps([{"name": n, "family": op.family, "roles": op.roles, "doc": op.doc, "parameters": [
            {"name": a.name, "kind": a.kind, "default": a.default, "required": a.required} for a in op.args()]}
            for n, op in chosen.items()], indent=1))
    elif name:
        op = chosen[name]
        click.echo(f"{name}({op.signature})\n\n{op.doc}\n")
        for arg in op.args():
            default = "" if arg.required else f" (default {_show(arg.default)})"
            click.echo(f"  {arg.name:<12} {KINDS.get(arg.kind, 'one of ' + arg.kind.replace('|', ', '))}{default}")
    else:
        for family in dict.fromkeys(op.family for op in ops.values()):
            click.echo(family)
            for n, op in ops.items():
                if op.family == family:
                    click.echo(f"  {n:<22} {op.doc.splitlines()[0] if op.doc else ''}")
    return 0


def _show(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
