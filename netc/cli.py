"""The command line: one file a verb in `netc/verbs/`, found and imported only when it is used."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

VERBS = {  # verb: the line `netc --help` shows; the order is that of a day's work
    "check": "Check a .net file and report every error in it.",
    "fmt": "Format .net files.",
    "show": "Show a net: a line a layer, totals, the graph IR.",
    "opt": "Optimize a net's graph and show what each pass did.",
    "rule": "Test rewrite rules on random nets.",
    "diff": "Compare two nets, or a net before and after passes.",
    "ops": "List the ops of the language, or explain one.",
    "explain": "Explain an error code.",
    "train": "Train a net.",
    "test": "Measure a trained net on its test data.",
    "compile": "Compile a net to an artifact for CPU or GPU.",
    "inspect": "List what an artifact holds.",
    "run": "Run an artifact on inputs.",
    "tune": "Choose the fastest of an artifact's GPU kernels.",
    "time": "Time a net, whole and layer by layer.",
    "data": "Fetch data sets the tutorials use.",
}


class Verbs(click.Group):
    """Looks a verb up in `netc/verbs/` when it is called; the list for --help needs no import."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [verb for verb in VERBS if (Path(__file__).parent / "verbs" / f"{verb}.py").exists()]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        return importlib.import_module(f"netc.verbs.{name}").command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb]) for verb in self.list_commands(context)])

    def resolve_command(self, context: click.Context, args: list[str]):
        verbs = self.list_commands(context)
        if args and args[0] not in verbs:
            from netc.usage import UnknownVerb
            raise UnknownVerb(args[0], verbs, context)
        return super().resolve_command(context, args)


EXAMPLE = """\b
Examples:
  netc check specs/digits.net
  netc train specs/digits.net
  netc compile specs/digits.net --params runs/digits/best.safetensors -o digits.netb
  netc run digits.netb --input image=seven.png
"""


@click.group(cls=Verbs, epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option("0.1.0", prog_name="netc")
def cli() -> None:
    """Compile neural networks written as text to binaries that run and train."""


def main() -> None:
    """Runs the command line; every mistake of the user ends in a coded message and exit code 1 (2 for wrong usage)."""
    try:
        sys.exit(cli.main(prog_name="netc", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except click.UsageError as problem:
        from netc.usage import coded as coded_usage
        click.echo(str(coded_usage(problem)), err=True)
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as problem:
        message = coded(problem)
        if message is None:
            raise
        click.echo(message, err=True)
        sys.exit(1)


def coded(problem: Exception) -> str | None:
    """The text of an error that carries a code; None for a bug of ours, which keeps its traceback."""
    from runtime.errors import NetcError
    if isinstance(problem, NetcError):
        return str(problem)
    if isinstance(problem, MemoryError):
        return str(NetcError("E0608", f"out of memory: {problem}", "use a smaller batch or a smaller net"))
    diagnostics = sys.modules.get("dsl.diagnostics")
    if diagnostics and isinstance(problem, diagnostics.DiagnosticError):
        count = len(problem.diagnostics)
        return f"{problem}\n\n{count} error{'s' if count != 1 else ''}"
    if hasattr(problem, "code") and hasattr(problem, "message"):
        help = f"\n  = help: {problem.hint}" if getattr(problem, "hint", None) else ""
        return f"error[{problem.code}]: {problem.message}{help}"
    return None
