"""What differs between two graphs: nodes added, removed or changed, and kernels, with the user's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler import tally
from compiler.group import is_leaf
from compiler.ir import Graph, Node

RESULTS = ("outputs", "losses", "metrics", "updates", "gradients")


@dataclass(frozen=True)
class Change:
    """One node that differs. before, after: the node in each graph, None where it is in one of them only. fields: what
    differs, as (before, after) by `op`, `type`, `inputs`, `layout`, `place`, or `attrs.NAME`."""

    before: Node | None
    after: Node | None
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return (self.after or self.before).name

    @property
    def kind(self) -> str:
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def layers(self) -> list[str]:
        """The user's layers the node comes from, in either graph."""
        return sorted({o.layer for node in (self.before, self.after) if node for o in node.origins})


@dataclass(frozen=True)
class Difference:
    """changes: of nodes, in the order of the graphs. results: (before, after) of results by name. kernels: those of one
    graph only, each the names of its nodes; empty where neither graph says what shares a kernel."""

    changes: list[Change]
    results: Mapping[str, tuple[str | None, str | None]]
    kernels: tuple[list[list[str]], list[list[str]]]

    def __bool__(self) -> bool:
        return bool(self.changes or self.results or any(self.kernels))


def compare(before: Graph, after: Graph) -> Difference:
    """What differs between two graphs; where in a text a node comes from does not count."""
    changes = []
    for name in _order(before, after):
        one, other = (graph[name] if name in graph else None for graph in (before, after))
        fields = _fields(before, one, after, other) if one and other else {}
        if fields or not one or not other:
            changes.append(Change(one, other, fields))
    results: dict[str, tuple[str | None, str | None]] = {}
    for table in RESULTS:
        old, new = getattr(before, table), getattr(after, table)
        results |= {f"{table}.{key}": (old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])
                    if old.get(key) != new.get(key)}
    return Difference(changes, results, _kernels(before, after))


def _order(before: Graph, after: Graph) -> list[str]:
    """All names as they come in `after`; what is in `before` only, behind the operation that it came behind there."""
    names = [node.name for node in after.sorted()]
    gone: dict[str, list[str]] = {}
    last = ""
    for node in before.sorted():
        if node.name not in after:
            gone.setdefault(last, []).append(node.name)
        elif not is_leaf(node):
            last = node.name
    return gone.get("", []) + [found for name in names for found in (name, *gone.get(name, ()))]


def _fields(before: Graph, one: Node, after: Graph, other: Node) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for name in ("op", "inputs", "type"):
        if getattr(one, name) != getattr(other, name):
            found[name] = getattr(one, name), getattr(other, name)
    for key in dict.fromkeys([*one.attrs, *other.attrs]):
        old, new = one.attrs.get(key), other.attrs.get(key)
        arrays = isinstance(old, np.ndarray) and isinstance(new, np.ndarray)
        if not (np.array_equal(old, new) if arrays else old == new):
            found[f"attrs.{key}"] = old, new
    for name in ("layout", "place"):
        old, new = (getattr(graph, name + "s").get(one.name) for graph in (before, after))
        if old != new:
            found[name] = old, new
    return found


def _kernels(before: Graph, after: Graph) -> tuple[list[list[str]], list[list[str]]]:
    if before.kernels is None and after.kernels is None:
        return [], []
    one, other = ({frozenset(kernel): kernel for kernel in tally.kernels(graph)} for graph in (before, after))
    return [one[k] for k in one if k not in other], [other[k] for k in other if k not in one]
