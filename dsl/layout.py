"""Where the lines of one statement break: kept breaks first, then, past the width, the outermost break that helps."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 120
PIPE_WIDTH = 100  # a pipe reads well over several lines, so it breaks earlier
STEP = 2


@dataclass
class Group:
    """Parts that are indented together; `indent` is that of the line on which the group began."""

    level: int
    width: int = WIDTH
    indent: int = 0


@dataclass(frozen=True)
class Open:
    """The group begins here."""

    group: Group


@dataclass(frozen=True)
class Break:
    """A place for a new line, else `flat`. Comments in front of it: (text, whether it has a line of its own)."""

    group: Group
    flat: str
    forced: bool = False
    shift: int = STEP
    comments: tuple[tuple[str, bool], ...] = ()


Piece = str | Open | Break


def lay_out(pieces: list[Piece], indent: int) -> list[str]:
    """The lines of a statement that begins at `indent`. Linear in the number of pieces (times the nesting)."""
    needed = _needed(pieces)
    lines: list[str] = []
    current, line_indent, column = [" " * indent], indent, indent
    for index, piece in enumerate(pieces):
        match piece:
            case str():
                current.append(piece)
                column += len(piece)
            case Open(group):
                group.indent = line_indent
            case Break(group, flat, forced, shift, comments):
                if not forced and column + len(flat) + needed[index] <= group.width:
                    current.append(flat)
                    column += len(flat)
                    continue
                last = "".join(current).rstrip(" ")
                for text, own_line in comments:
                    if own_line:
                        lines.append(last)
                        last = " " * (group.indent + STEP) + text
                    else:
                        last += "  " + text
                lines.append(last)
                line_indent = column = group.indent + shift
                current = [" " * line_indent]
    lines.append("".join(current).rstrip(" "))
    return lines


def _needed(pieces: list[Piece]) -> list[int]:
    """For each break, the width of what follows up to the next break that is forced or no deeper."""
    needed = [0] * len(pieces)
    ends: list[tuple[int, int]] = []  # (level, position in the flat text) of the breaks behind, innermost last
    position = 0
    for index in range(len(pieces) - 1, -1, -1):
        piece = pieces[index]
        if isinstance(piece, str):
            position += len(piece)
        elif isinstance(piece, Break):
            level = -1 if piece.forced else piece.group.level
            while ends and ends[-1][0] > piece.group.level:
                ends.pop()
            needed[index] = position - (ends[-1][1] if ends else 0)
            while ends and ends[-1][0] >= level:
                ends.pop()
            position += len(piece.flat)
            ends.append((level, position))
    return needed
