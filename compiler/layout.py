"""How a tensor lies in memory. Not part of its type: whoever reads or writes by logical index is right in any layout.

A blocked layout keeps a few neighbouring channels together, so that a vector is full whatever the width of the map; zeros
around each map (a halo) let a padded convolution read it without a padded copy. Another order of the axes (channels last)
lets threads of a GPU that work on neighbouring channels read one line of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compiler.dims import Dim


@dataclass(frozen=True)
class Layout:
    """block: how many neighbours along `axis` lie together, innermost (1: as the shape says, row-major); channels of an
    activation are axis 1, outputs of a weight axis 0. halo: rows above, columns left, rows below, columns right of each
    map that hold zeros. order: the axes, outermost first, where that is not as the shape says; then without block and halo.
    pair: of a blocked weight, how many neighbouring inputs lie together, innermost: instructions that sum two products of 16
    bits take them so."""

    block: int = 1
    axis: int = 1
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    order: tuple[int, ...] = ()
    pair: int = 1

    def extents(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """What is allocated for a tensor of this shape, outermost first."""
        if self == PLAIN:
            return tuple(shape)
        if self.order:
            return tuple(shape[axis] for axis in self.order)
        top, left, bottom, right = self.halo
        *outer, height, width = shape
        sizes = [*outer, height + (top + bottom), width + (left + right)]
        if self.block > 1:
            sizes[self.axis] = sizes[self.axis] // self.block
            sizes.append(self.block)
        if self.pair > 1:
            sizes[1] = sizes[1] // self.pair
            sizes.append(self.pair)
        return tuple(sizes)

    def strides(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """By how many elements a step along each axis of the buffer moves. A blocked weight keeps its inputs behind its taps:
        a convolution reads one stream for each block of outputs."""
        extents = self.extents(shape)
        order = list(range(len(extents)))
        if self.block > 1 and self.axis == 0:
            behind = len(order) - 2 if self.pair > 1 else len(order) - 1
            order = [0, *order[2:behind], 1, *order[behind:]]
        steps: list[Dim] = [1] * len(extents)
        for inner, axis in reversed(list(zip(order[1:], order))):
            steps[axis] = steps[inner] * extents[inner]
        return tuple(steps)

    def physical(self, index: Sequence[Any]) -> tuple[Any, ...]:
        """The index into the buffer, whose origin is the first element that is no halo, of a logical index."""
        if self.order:
            return tuple(index[axis] for axis in self.order)
        if self.block == 1:
            return tuple(index)
        at = index[self.axis]
        blocked = [i // self.block if axis == self.axis else i for axis, i in enumerate(index)]
        if self.pair > 1:
            inputs = blocked[1]
            return (blocked[0], inputs // self.pair, *blocked[2:], at % self.block, inputs % self.pair)
        return (*blocked, at % self.block)

    def logical(self, index: Sequence[Any]) -> tuple[Any, ...]:
        """The logical index of an index into the buffer."""
        if self.order:
            return tuple(index[self.order.index(axis)] for axis in range(len(index)))
        if self.block == 1:
            return tuple(index)
        if self.pair > 1:
            outputs, inputs, *taps, lane, which = index
            return (outputs * self.block + lane, inputs * self.pair + which, *taps)
        *outer, lane = index
        return tuple(i * self.block + lane if axis == self.axis else i for axis, i in enumerate(outer))

    def __str__(self) -> str:
        words = [f"axis {self.axis} by {self.block}"] if self.block > 1 else []
        words += [f"inputs by {self.pair}"] if self.pair > 1 else []
        words += ["order " + ",".join(map(str, self.order))] if self.order else []
        words += ["halo " + ",".join(map(str, self.halo))] if any(self.halo) else []
        return " ".join(words) or "plain"


PLAIN = Layout()
