"""Finding and opening the files of a data section, with one coded error for each way that can fail."""

from __future__ import annotations

import os
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Iterator

from runtime.errors import NetcError


def resolve(root: str, path: str) -> Path:
    """`path` as the section means it: relative to `root`, `~` allowed."""
    return Path(root) / Path(path).expanduser()


def missing(path: Path, what: str = "file") -> NetcError:
    """The error for a `path` that is not there, with the name in the same folder that looks most like it."""
    hint = f"the path is taken relative to the .net file; looked for {os.path.abspath(path)}"
    if path.parent.is_dir():
        close = get_close_matches(path.name, os.listdir(path.parent), n=1)
        hint = f"did you mean `{close[0]}`?" if close else hint
    return NetcError("E0552", f"there is no {what} `{path}`", hint)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system says about reading `path` into NetcError E0552."""
    try:
        yield
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise NetcError("E0552", f"cannot read `{path}`: {error.strerror or error}",
                        "a file is expected here, with the right to read it") from None


def damaged(path: Path, message: str, hint: str | None = None, line: int | None = None) -> NetcError:
    """The error for a file that is there but is not what it should be."""
    return NetcError("E0553", message, hint, f"{path}:{line}" if line else str(path))
