"""The pipeline: which passes run, in which order, and what each did."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from compiler.ir import Graph
from compiler.passes import (  # noqa: F401  (each declares its pass)
    channels_last,
    choose_algorithm,
    choose_layout,
    choose_precision,
    clean,
    collapse_linear_chains,
    concat_gradients,
    eliminate_concat,
    eliminate_padding,
    eliminate_split,
    flatten_updates,
    fold_batch_norm,
    fuse_conv_pool,
    fuse_elementwise,
    fuse_pointwise_conv,
    fuse_pool_pointwise,
    group_independent,
    merge_sibling_convs,
    move_pooling,
    plan_memory,
    recompute,
    search,
    share_reads,
)
from compiler.passes.base import PASSES, Context, Rewrite
from compiler.verify import verify
from runtime.errors import NetcError

# On the user's layers, before differentiation. What is folded or moved away lets the passes behind it see more.
LAYERS = ["fold_batch_norm", "search", "move_pooling", "collapse_linear_chains", "merge_sibling_convs"]
PRIMITIVES = ["concat_gradients", "clean", "choose_precision", "choose_layout", "channels_last", "choose_algorithm"]  # on what is lowered
# On which of them share a kernel, and where tensors lie.
KERNELS = ["fuse_elementwise", "fuse_pool_pointwise", "fuse_conv_pool", "fuse_pointwise_conv", "eliminate_concat",
           "eliminate_split", "eliminate_padding", "share_reads", "group_independent", "flatten_updates", "recompute",
           "plan_memory"]
PIPELINE = [*LAYERS, *PRIMITIVES, *KERNELS]


@dataclass(frozen=True)
class Step:
    """One pass that ran (or that `skipped` says did not): what it considered, how long it took, and the graph behind it where
    graphs are kept."""

    name: str
    rewrites: tuple[Rewrite, ...]
    seconds: float
    skipped: str = ""
    graph: Graph | None = None

    @property
    def taken(self) -> int:
        return sum(r.taken for r in self.rewrites)


def require(names: Collection[str]) -> None:
    """Raises NetcError E0411 for a name that no pass has."""
    for name in names:
        if name not in PASSES:
            close = get_close_matches(name, PASSES, 1)
            hint = f"did you mean `{close[0]}`? " if close else ""
            raise NetcError("E0411", f"there is no pass `{name}`", f"{hint}the passes are {', '.join(PIPELINE)}")


def optimize(graph: Graph, context: Context, *, off: Collection[str] = (), only: Collection[str] = (),
             stop_after: str | None = None, check: bool = False, names: Sequence[str] = PIPELINE,
             keep: bool = False) -> tuple[Graph, list[Step]]:
    """Runs the passes of `names` on a copy of `graph`.

    off, only: passes to leave out, or the only ones to run. check: run the verifier after each. keep: steps hold the graphs
    behind them. Raises NetcError E0411 for a pass that does not exist, BrokenGraph for a pass that broke the graph.
    """
    require([*off, *only, *([stop_after] if stop_after else [])])
    graph = graph.copy()
    steps: list[Step] = []
    for name in names:
        chosen = PASSES[name]
        skipped = "switched off" if name in off or only and name not in only \
            else chosen.reason if context.training and not chosen.training else ""
        before = graph.copy() if check else None
        start = time.perf_counter()
        rewrites = chosen.otherwise(graph, context) if skipped else chosen.run(graph, context)
        if check:
            verify(graph, before)
        seconds = time.perf_counter() - start
        steps.append(Step(name, tuple(rewrites), seconds, skipped, graph.copy() if keep else None))
        if name == stop_after:
            break
    return graph, steps
