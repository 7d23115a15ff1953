"""What a pass is: a named rewrite of a graph that says what it did, what it declined, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compiler.cost import Machine
from compiler.dims import Dim
from compiler.ir import Graph, Node


@dataclass(frozen=True)
class Context:
    """What passes may ask: the cost model of the target, and the batch that decisions are made for.

    seconds(graph, nodes): predicted time of the given nodes, each a kernel of its own with its element-wise tail.
    training: whether the graph will be differentiated, so that its weights change from step to step; packed: whether what
    depends on weights alone is computed once, when they are loaded. block: how many channels the target's schedules like
    together; machine: what the target can do, and its schedules. exact: whether algorithms that round differently are ruled
    out. memory: the largest arena that is allowed, None for any; scratch: bytes that a kernel needs for itself, by the name
    of its last node, as far as they are known. search: seconds to look for an order of rewrites in; predict(graph):
    predicted seconds of a graph of layers as it would be lowered. precision: what products are computed in, a word of
    `choose_precision.PRECISIONS`.
    """

    seconds: Callable[[Graph, list[Node]], float]
    batch: int = 1
    training: bool = False
    packed: bool = True
    block: int = 1
    machine: Machine = Machine(flops=float("inf"), bandwidth=float("inf"), launch=0.0)
    exact: bool = False
    memory: int | None = None
    scratch: Mapping[str, Dim] = field(default_factory=dict)
    search: float = 0.0
    predict: Callable[[Graph], float] = lambda graph: 0.0
    precision: str = "f32"


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that was considered. layers: whose; gain: predicted seconds saved (what it would cost, if negative)."""

    what: str
    layers: tuple[str, ...]
    taken: bool = True
    gain: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Pass:
    """A pass of the pipeline. `run` changes the graph in place and returns what it considered.

    training: whether it applies to a graph that will be trained; if not, `reason` says why not. otherwise: what is done
    where the pass is switched off; nothing, for most.
    """

    name: str
    run: Callable[[Graph, Context], list[Rewrite]] = field(repr=False)
    doc: str = ""
    training: bool = True
    reason: str = ""
    otherwise: Callable[[Graph, Context], list[Rewrite]] = field(default=lambda graph, context: [], repr=False)


PASSES: dict[str, Pass] = {}


def graph_pass(name: str, *, training: bool = True, reason: str = "",
               otherwise: Callable[[Graph, Context], list[Rewrite]] = lambda graph, context: []) -> Callable[[Any], Any]:
    """Decorator: makes a function (graph, context) → rewrites a pass, which `pipeline.PIPELINE` can name."""
    def declare(function: Callable[[Graph, Context], list[Rewrite]]) -> Callable[[Graph, Context], list[Rewrite]]:
        if name in PASSES:
            raise ValueError(f"the pass {name!r} is declared twice")
        PASSES[name] = Pass(name, function, (function.__doc__ or "").strip(), training, reason, otherwise)
        return function

    return declare


def layers(*nodes: Node) -> tuple[str, ...]:
    """The user's layers that nodes come from, for a Rewrite."""
    return tuple(sorted({origin.layer for node in nodes for origin in node.origins}))
