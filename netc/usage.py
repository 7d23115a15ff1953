"""Mistakes on the command line in the form of all other errors: a code, what is wrong, a hint."""

from __future__ import annotations

import difflib

import click

from runtime.errors import NetcError


class UnknownVerb(click.UsageError):
    """`name` is none of the verbs of a group."""

    def __init__(self, name: str, verbs: list[str], context: click.Context):
        super().__init__("", context)
        self.command_name, self.possibilities = name, difflib.get_close_matches(name, verbs, n=1)


# click 8.4 has an exception of its own for what is not found in a group within a group.
_UNKNOWN_VERB = (UnknownVerb, getattr(click.exceptions, "NoSuchCommand", UnknownVerb))


def coded(problem: click.UsageError) -> NetcError:
    """The error that says what click found; E0450 to E0454."""
    path = problem.ctx.command_path if problem.ctx else ""
    hint = f"`{path or 'netc VERB'} --help` says how it is used"
    close = getattr(problem, "possibilities", None)
    if close:
        hint = f"did you mean `{list(close)[0]}`? {hint}"
    if isinstance(problem, _UNKNOWN_VERB):
        return NetcError("E0450", f"`{path}` has no verb `{problem.command_name}`", hint)
    if isinstance(problem, click.NoSuchOption):
        return NetcError("E0451", f"`{path}` has no option `{problem.option_name}`", hint)
    if isinstance(problem, click.MissingParameter) and problem.param is not None:
        kind = "argument" if isinstance(problem.param, click.Argument) else "option"
        return NetcError("E0452", f"`{path}` needs the {kind} {_name(problem)}", hint)
    if isinstance(problem, click.BadParameter) and problem.param is not None:
        return NetcError("E0453", f"{_name(problem)} of `{path}`: {_sentence(problem.message)}", hint)
    return NetcError("E0454", f"`{path}`: {_sentence(problem.format_message())}" if path else
                     _sentence(problem.format_message()), hint)


def _name(problem: click.BadParameter) -> str:
    return problem.param.get_error_hint(problem.ctx).replace("'", "`")


def _sentence(text: str) -> str:
    """click's sentence as ours: quotes in the language of the other errors, no full stop, no capital."""
    text = text.replace("'", "`").strip().removesuffix(".")
    return text[:1].lower() + text[1:]
