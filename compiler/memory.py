"""Where tensors live while a program runs: one arena, shared by tensors whose lifetimes do not meet.

Sizes depend on the batch, so tensors are put into classes of one growth each (all that is proportional to N, all that is
constant, …); each class is packed by lifetimes in units of its growth and gets its own stretch of the arena.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.dims import Dim, Poly

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A tensor of `bytes`, alive from the step `first` that writes it to the step `last` that reads it, both included."""

    name: str
    bytes: Dim
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Offsets into the arena, and its size."""

    offsets: Mapping[str, Dim]
    size: Dim


def plan(lifetimes: list[Lifetime]) -> Plan:
    """Packs greedily, the largest first, each into the lowest gap that is free during its life (best known simple rule
    for static allocation)."""
    classes: dict[Dim, list[tuple[Lifetime, int]]] = {}
    for life in lifetimes:
        growth, units = _split(life.bytes)
        classes.setdefault(growth, []).append((life, units))
    offsets: dict[str, Dim] = {}
    base: Dim = 0
    for growth, members in classes.items():
        placed: list[tuple[int, int, Lifetime]] = []
        top = 0
        for life, units in sorted(members, key=lambda m: (-m[1], m[0].first, m[0].name)):
            at = 0
            for start, end, _ in sorted((s, e, o) for s, e, o in
                                        ((s, e, o.name) for s, e, o in placed if _meet(o, life))):
                if at + units <= start:
                    break
                at = max(at, end)
            placed.append((at, at + units, life))
            top = max(top, at + units)
            offsets[life.name] = base + growth * at
        base = base + growth * top
    return Plan(offsets, base)


def _meet(one: Lifetime, other: Lifetime) -> bool:
    return one.first <= other.last and other.first <= one.last


def _split(size: Dim) -> tuple[Dim, int]:
    """`size` as growth × units, the units a multiple of the alignment: N*100 is N × 128."""
    if isinstance(size, int):
        return 1, _aligned(size)
    if len(size.terms) == 1:
        (monomial, factor), = size.terms
        return Poly(((monomial, 1),)), _aligned(factor)
    return (size + (ALIGNMENT - 1)) // ALIGNMENT, ALIGNMENT


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
