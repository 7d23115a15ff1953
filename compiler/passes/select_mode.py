"""Which program a graph becomes: what it keeps, and how its modal ops behave.

deploy: the outputs. evaluate: outputs, losses and metrics; no label is needed for the outputs. train: losses, metrics
and the updates of state; modal ops (dropout, batch_norm) do what they do in training.
"""

from __future__ import annotations

from compiler.ir import Graph
from compiler.ops import REGISTRY
from compiler.passes.expand import rewrite

RESULTS = {
    "deploy": ("outputs",),
    "evaluate": ("outputs", "losses", "metrics"),
    "train": ("losses", "metrics", "updates"),
}


def select_mode(graph: Graph, mode: str) -> Graph:
    """The graph of one program, without what its results do not need. Raises ValueError for an unknown mode."""
    if mode not in RESULTS:
        raise ValueError(f"the modes are {', '.join(RESULTS)}, not {mode}")
    if mode == "train":
        graph = rewrite(graph, lambda node: REGISTRY[node.op].modal, lambda b, op, a, xs: op.training(b, a, *xs))
    else:
        graph = graph.copy()
    for table in ("outputs", "losses", "metrics", "updates"):
        if table not in RESULTS[mode]:
            getattr(graph, table).clear()
    return graph.prune()
