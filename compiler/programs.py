"""The programs of a net: `run` (deployed), `evaluate` (with losses and metrics) and `step` (training), as primitives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.autodiff import differentiate
from compiler.cost import MACHINES, seconds
from compiler.ir import Graph
from compiler.optimizer import add_optimizer
from compiler.passes.base import Context
from compiler.passes.expand import expand
from compiler.passes.pipeline import LAYERS, PRIMITIVES, Step, optimize
from compiler.passes.select_mode import select_mode
from runtime.errors import NetcError

if TYPE_CHECKING:
    from compiler.elaborate import Program


@dataclass(frozen=True)
class Options:
    """How programs are optimized. machine: a key of cost.MACHINES. off, only, stop_after: see `pipeline.optimize`."""

    machine: str = "cpu"
    batch: int = 1
    off: Collection[str] = ()
    only: Collection[str] = ()
    check: bool = False
    steps: list[Step] = field(default_factory=list, compare=False)  # what the passes did, in order

    def context(self, training: bool) -> Context:
        machine = MACHINES[self.machine]
        return Context(lambda graph, nodes: seconds(graph, nodes, machine, self.batch), self.batch, training)


def of(program: Program, name: str, options: Options = Options()) -> Graph:
    """The program called `name` (run, evaluate, step) of an elaborated net. Raises NetcError E0510, E0511 for a step that has
    no loss or no train section."""
    if name != "step":
        return {"run": run, "evaluate": evaluate}[name](program.graph, options)
    if not program.graph.losses:
        raise NetcError("E0510", f"net `{program.net}` has no loss to train on",
                        "add a line such as `loss cross_entropy(logits, label)`")
    if program.train is None:
        raise NetcError("E0511", f"there is no train section for net `{program.net}`",
                        "add `train fit { net = …, data = …, optimizer = sgd(lr = 0.1), run = 10 epochs }`")
    return step(program.graph, program.train.to_json(), options)


def run(graph: Graph, options: Options = Options()) -> Graph:
    """What is deployed: the subgraph that reaches an output."""
    return _inference(select_mode(graph, "deploy"), options)


def evaluate(graph: Graph, options: Options = Options()) -> Graph:
    """Outputs, losses and metrics, computed as at deployment."""
    return _inference(select_mode(graph, "evaluate"), options)


def step(graph: Graph, config: dict[str, Any], options: Options = Options()) -> Graph:
    """Forward, loss, backward and optimizer update of one batch; what the runtime watches are losses and metrics.

    Passes that rewrite layers see the forward graph, so that the gradient of what they made is what is computed.
    """
    forward = _passes(select_mode(graph, "train"), LAYERS, options, training=True)
    return _passes(join(forward, config), PRIMITIVES, options, training=True)


def join(forward: Graph, config: dict[str, Any]) -> Graph:
    """The joint graph of a training step, as primitives: a forward graph, its gradients, and the optimizer's updates."""
    joint, gradients = differentiate(forward)
    joint.gradients = dict(gradients)
    add_optimizer(joint, gradients, config)
    joint.outputs = {}
    return expand(joint.prune())


def _inference(graph: Graph, options: Options) -> Graph:
    return _passes(expand(_passes(graph, LAYERS, options)), PRIMITIVES, options)


def _passes(graph: Graph, names: list[str], options: Options, training: bool = False) -> Graph:
    graph, steps = optimize(graph, options.context(training), names=names, off=options.off, only=options.only,
                            check=options.check)
    options.steps.extend(steps)
    return graph
