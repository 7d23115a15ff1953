"""The user's layers of a kernel as a table shows them: several in little room, each with its whole path."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import commonprefix


def short(layers: Iterable[str]) -> str:
    """`i3a: b1/conv+relu, bp/max_pool` for i3a/b1/conv, i3a/b1/relu and i3a/bp/max_pool."""
    paths = [layer.split("/") for layer in layers]
    shared = commonprefix([path[:-1] for path in paths])
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault("/".join(path[len(shared):-1]), []).append(path[-1])
    parts = [f"{folder}/{'+'.join(names)}" if folder else "+".join(names) for folder, names in groups.items()]
    if not shared:
        return ", ".join(parts)
    return "/".join([*shared, *parts]) if len(parts) == 1 else f"{'/'.join(shared)}: {', '.join(parts)}"
