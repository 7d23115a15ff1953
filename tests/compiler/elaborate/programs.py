"""What the tests of elaboration share: programs from text, and errors by code and the text they point at."""

from compiler.elaborate import Program, check, load
from dsl.diagnostics import Diagnostic

HEAD = "net t(classes: int = 10) {\n  input x: f32[N, 3, 8, 8]\n  label y: i32[N] in classes\n"


def net(body: str, before: str = "", **choices) -> Program:
    """The program of a net with an image input `x` and a label `y`."""
    return load(f"{before}\n{HEAD}{body}\n}}\n", name="t.net", **choices)


def errors(body: str, before: str = "") -> list[Diagnostic]:
    """What is wrong with such a net."""
    return check(f"{before}\n{HEAD}{body}\n}}\n", name="t.net")


def at(diagnostic: Diagnostic) -> str:
    """The user's text that a diagnostic points at (its first line)."""
    span = diagnostic.span
    line = span.source.line(span.line)
    return line[span.column - 1:span.end_column - 1 if span.end_line == span.line else len(line)]


def found(body: str, before: str = "") -> list[tuple[str, str]]:
    """(code, text pointed at) of everything wrong with such a net."""
    return [(d.code, at(d)) for d in errors(body, before)]


def names(program: Program, op: str) -> list[str]:
    return [node.name for node in program.graph.nodes() if node.op == op]


def shape(program: Program, name: str) -> str:
    return str(program.graph[name].type)
