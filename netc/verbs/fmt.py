"""`netc fmt`: brings `.net` files into the one style."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from pathlib import Path

import click

from dsl.diagnostics import Diagnostic, DiagnosticError
from dsl.format import format_file
from dsl.parse import MAX_BYTES, decode, parse, read_text

EXAMPLE = """\b
Examples:
  netc fmt specs/digits.net           format the file in place
  netc fmt --check --diff *.net       change nothing, show what would change
  cat x.net | netc fmt -              format standard input to standard output
"""


@click.command(epilog=EXAMPLE)
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@click.pass_context
def command(context: click.Context, files: tuple[str, ...], check: bool, diff: bool) -> None:
    """Format .net files in place (`-` is standard input, written to standard output).

    A file with syntax errors is reported and left as it is.
    """
    failed = changed = False
    for name in files:
        try:
            old = _read(name)
            new = _formatted(old, name)
            differs = new != old
            if diff and differs:
                click.echo(_difference(old, new, name), nl=False)
            if check and differs:
                click.echo(f"{_shown(name)} would change", err=True)
            if not check and not diff:
                _write(name, new, differs)
            changed |= differs
        except DiagnosticError as problem:
            click.echo(str(problem), err=True)
            failed = True
    context.exit(1 if failed or check and changed else 0)


def _shown(name: str) -> str:
    return "<stdin>" if name == "-" else name


def _read(name: str) -> str:
    if name == "-":
        text, problem = decode(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>")
    else:
        text, problem = read_text(name)
    if problem is not None:
        raise DiagnosticError([problem])
    return text


def _formatted(text: str, name: str) -> str:
    file, problems = parse(text, _shown(name))
    if problems:
        raise DiagnosticError(problems)
    return format_file(file, text)


def _difference(old: str, new: str, name: str) -> str:
    shown = _shown(name)
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), shown, f"{shown} (formatted)")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def _write(name: str, text: str, differs: bool) -> None:
    """Replaces the file at once, so that a crash leaves the old or the new text; a link keeps pointing where it did."""
    if name == "-":
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
        return
    if not differs:
        return
    path = Path(name).resolve()
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, path.stat().st_mode & 0o7777)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as problem:
        raise DiagnosticError([Diagnostic("E0125", f"`{name}` cannot be written: {problem.strerror}", None,
                                          "check the permissions of the file and of its folder")]) from problem
