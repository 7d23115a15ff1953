"""The programs of a net: `run` (deployed), `evaluate` (with losses and metrics) and `step` (training), as primitives."""

from __future__ import annotations

from typing import Any

from compiler.autodiff import differentiate
from compiler.ir import Graph
from compiler.optimizer import add_optimizer
from compiler.passes.expand import expand
from compiler.passes.select_mode import select_mode


def run(graph: Graph) -> Graph:
    """What is deployed: the subgraph that reaches an output."""
    return expand(select_mode(graph, "deploy"))


def evaluate(graph: Graph) -> Graph:
    """Outputs, losses and metrics, computed as at deployment."""
    return expand(select_mode(graph, "evaluate"))


def step(graph: Graph, config: dict[str, Any]) -> Graph:
    """Forward, loss, backward and optimizer update of one batch; what the runtime watches are losses and metrics."""
    joint, gradients = differentiate(select_mode(graph, "train"))
    joint.gradients = dict(gradients)
    add_optimizer(joint, gradients, config)
    joint.outputs = {}
    return expand(joint.prune())
