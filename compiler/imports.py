"""Where the files that a `.net` file imports are: beside it, else among the networks that come with netc."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

IMPORT = re.compile(r'\bimport\s*"((?:[^"\\\n]|\\[^\n])*)"')


def specs_folder() -> Path | None:
    """Where the networks that come with netc are."""
    spec = find_spec("specs")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) if locations else None


def find_import(folder: Path, wanted: str) -> tuple[Path, str] | None:
    """The path of an imported file and what messages call it."""
    if not wanted or "\0" in wanted:
        return None
    beside = folder / wanted
    specs = specs_folder()
    try:
        if beside.is_file():
            return beside, str(beside)
        if specs is not None and (specs / wanted).is_file():
            return specs / wanted, f"specs/{wanted}"
    except OSError:
        return None
    return None


def files(path: Path) -> dict[str, bytes] | None:
    """What a file and all it imports hold, by path, found without parsing; comments that look like an import count too.

    None where that cannot be said: a file cannot be read, or a name is written with escapes.
    """
    found: dict[str, bytes] = {}
    ahead = [path]
    while ahead:
        path = ahead.pop()
        try:
            name = str(path.resolve())
            if name in found:
                continue
            found[name] = path.read_bytes()
        except OSError:
            return None
        for wanted in IMPORT.findall(found[name].decode(errors="replace")):
            if "\\" in wanted:
                return None
            beside = find_import(path.parent, wanted)
            if beside is not None:
                ahead.append(beside[0])
    return found
