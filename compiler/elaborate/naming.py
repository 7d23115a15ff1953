"""What layers are called.

A layer's path is the way to it through the user's own names, joined by `/`; its weights are `path.weight`,
`path.bias`, …

1. A statement gives the first segment: the (first) name it binds, the name of an output, loss or metric; a loss without
   a name is `loss`, a metric without one takes the name of its op. In a block, a binding to the block's only result
   adds no segment: it *is* the block.
2. In a statement with a single layer call the path ends there: `fc = x -> dense(10)` owns `fc.weight`, and
   `i3a = x -> inception(…)` puts the inside of the block under `i3a/`.
3. In a statement with several, each call adds a segment: the name of its stage if it has one, else the name of the op,
   block or layer object. Where the same segment occurs more than once in the statement, all of them are numbered from
   1 in the order of the text: `b3 = x -> conv_relu(r3) -> conv_relu(c3, 3x3)` makes `b3/conv_relu1`, `b3/conv_relu2`.
   A stage with `** n` is always numbered. Tensor arithmetic counts as `add`, `sub`, `mul`, `div`, `neg`.
4. The weights of a layer object are called after the object, wherever it is used; its nodes after the place of use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dsl import tree

OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}


@dataclass(frozen=True)
class Label:
    """The segment of one call: `name` alone, or numbered from `first`; `name` None adds no segment."""

    name: str | None
    first: int | None = None

    def at(self, repetition: int = 0) -> str | None:
        return self.name if self.name is None or self.first is None else f"{self.name}{self.first + repetition}"


@dataclass(frozen=True)
class Site:
    """A place in a statement that makes a layer: the tree's node, its segment, how often (None: not repeated)."""

    part: tree.Tree
    segment: str
    repeat: int | None = None


def sites(part: tree.Expression, is_layer: Callable[[tree.Call], bool], is_tensor: Callable[[tree.Expression], bool],
          count: Callable[[tree.Expression], int]) -> Iterator[Site]:
    """The layer-making places of an expression in the order of the text.

    is_layer says whether a call makes a layer (and not, say, `dims(3, 3)`), is_tensor whether an operand is one, count
    evaluates a repetition.
    """
    def walk(part: tree.Tree) -> Iterator[Site]:
        if isinstance(part, tree.Call):
            yield from call(part)
        elif isinstance(part, tree.Pipe):
            yield from walk(part.head)
            for stage in part.stages:
                repeat = None if stage.repeat is None else count(stage.repeat)
                yield Site(stage.call, stage.name or stage.call.callee.parts[-1], repeat)
                yield from arguments(stage.call.arguments)
        elif isinstance(part, tree.Tuple):
            for item in part.items:
                yield from walk(item)
        elif isinstance(part, tree.List):
            yield from arguments(part.items)
        elif isinstance(part, tree.Binary):
            yield from walk(part.left)
            if part.operator in OPERATORS and (is_tensor(part.left) or is_tensor(part.right)):
                yield Site(part, OPERATORS[part.operator])
            yield from walk(part.right)
        elif isinstance(part, tree.Unary):
            if part.operator == "-" and is_tensor(part.operand):
                yield Site(part, "neg")
            yield from walk(part.operand)

    def call(part: tree.Call) -> Iterator[Site]:
        if is_layer(part):
            yield Site(part, part.callee.parts[-1])
        yield from arguments(part.arguments)

    def arguments(items: tuple[tree.Argument, ...]) -> Iterator[Site]:
        for item in items:
            yield from walk(item.value)

    return walk(part)


def labels(found: list[Site]) -> dict[int, Label]:
    """The label of each site, by the identity of its part of the tree."""
    if len(found) == 1 and found[0].repeat is None:
        return {id(found[0].part): Label(None)}
    totals: dict[str, int] = {}
    for site in found:
        totals[site.segment] = totals.get(site.segment, 0) + (1 if site.repeat is None else max(site.repeat, 2))
    given: dict[str, int] = {}
    out = {}
    for site in found:
        first = given.get(site.segment, 0) + 1
        given[site.segment] = first - 1 + (1 if site.repeat is None else site.repeat)
        out[id(site.part)] = Label(site.segment, first if totals[site.segment] > 1 else None)
    return out


def join(*segments: str | None) -> str:
    """The path of the segments that are there."""
    return "/".join(segment for segment in segments if segment)
