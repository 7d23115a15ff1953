"""`netc rule`: what the rules of a `.net` file are, and whether they are right."""

from __future__ import annotations

import json
from pathlib import Path

import click

from netc.options import split_place


@click.group(epilog="\b\nExamples:\n  netc rule check my_rules.net\n"
             "  netc rule check my_rules.net:one_rule --samples 500\n  netc rule list specs/rules.net")
def command() -> None:
    """Test rewrite rules: `rule name(x: tensor) { pattern => replacement }`."""


@command.command()
@click.argument("file")
@click.option("--samples", default=100, show_default=True, type=click.IntRange(min=1),
              help="Nets to test each rule on.")
@click.option("--seed", default=1, show_default=True, help="Where the random nets and numbers start.")
@click.option("--json", "as_json", is_flag=True, help="Print {rules: [{name, samples, error, wrong}], errors: […]}.")
def check(file: str, samples: int, seed: int, as_json: bool) -> int:
    """Test the rules of FILE, or the one of FILE:NAME, on random nets in 64-bit floats.

    For each rule nets are drawn that its pattern matches: shapes, arguments, numbers. Both sides must have one type and
    make the same numbers; of what is wrong the smallest counterexample is shown. Exits with 1 if a rule is wrong.
    """
    from compiler.rules import Tested, test
    path, name = split_place(file)
    done: list[Tested] = []

    def show(tested: Tested) -> None:
        done.append(tested)
        if not as_json:
            click.echo(f"{tested.rule.name}: {'wrong' if tested.wrong else 'right'}" + (
                f" on {tested.samples} nets, max relative error {tested.error:.1e}" if tested.samples else ""))

    problems = test(Path(path), [name] if name else (), samples, seed, show)
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        rules = [{"name": t.rule.name, "samples": t.samples, "error": t.error, "wrong": t.wrong} for t in done]
        click.echo(json.dumps({"rules": rules, "errors": [problem.as_json() for problem in problems]}, indent=1))
        return 1 if errors else 0
    for problem in problems:
        click.echo("\n" + problem.render(), err=True)
    if errors:
        click.echo(f"\n{len(errors)} error{'s' if len(errors) != 1 else ''}", err=True)
    return 1 if errors else 0


@command.command("list")
@click.argument("file")
def list_rules(file: str) -> int:
    """List the rules of FILE."""
    from compiler.rules import load
    path, name = split_place(file)
    for rule in load(Path(path), [name] if name else ()):
        click.echo(f"{rule.name:24} {Path(path).name}:{rule.tree.span.line}")
    return 0
