"""The programs of a net: `run` (deployed), `evaluate` (with losses and metrics) and `step` (training), as primitives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compiler import dims
from compiler.autodiff import differentiate
from compiler.cost import MACHINES, seconds
from compiler.dims import Dim, Poly
from compiler.ir import Graph, TensorType
from compiler.optimizer import add_optimizer
from compiler.passes.base import Context
from compiler.passes.expand import expand
from compiler.passes.pipeline import KERNELS, LAYERS, PRIMITIVES, Step, optimize
from compiler.passes.select_mode import select_mode
from compiler.prepare import hoist
from compiler.tally import tally
from runtime.errors import NetcError

if TYPE_CHECKING:
    from compiler.elaborate import Program


@dataclass(frozen=True)
class Options:
    """How programs are optimized. machine: a key of cost.MACHINES. block: channels that the target's schedules like together.
    exact: nothing that rounds differently. memory, scratch: the largest arena allowed, and what is known of what kernels need
    for themselves (`base.Context`). search: seconds to look for an order of rewrites in. off, only, check, keep: see `pipeline.optimize`."""

    machine: str = "cpu"
    batch: int = 1
    block: int = 1
    exact: bool = False
    off: Collection[str] = ()
    only: Collection[str] = ()
    check: bool = False
    keep: bool = False
    memory: int | None = None
    scratch: Mapping[str, Dim] = field(default_factory=dict)
    search: float = 0.0
    precision: str = "f32"  # of operands of products, and of what lies between layers
    low: float = 1.0  # how many times as fast as in f32 products of bf16 are
    steps: list[Step] = field(default_factory=list, compare=False)  # what the passes did, in order

    def context(self, training: bool, packed: bool = True) -> Context:
        machine = replace(MACHINES[self.machine], low=self.low)
        return Context(lambda graph, nodes: seconds(graph, nodes, machine, self.batch), self.batch, training, packed,
                       self.block, machine, self.exact, self.memory, self.scratch, self.search,
                       lambda graph: predicted(graph, self), self.precision)


def build(program: Program, names: Collection[str], options: Options = Options(),
          scratch: Mapping[str, Mapping[str, Dim]] = MappingProxyType({})) -> dict[str, Graph]:
    """The named programs ready for lowering, and `prepare` if they have one: where nothing trains, what depends on
    parameters alone moves there. scratch: for each program, as in Options."""
    packed = "step" not in names
    batches = {name: design_batch(program, name, options.batch) for name in names}
    graphs = {name: of(program, name, replace(options, batch=batches[name]) if name == "step" else options, packed)
              for name in names}
    prepare = hoist(graphs) if packed else None
    ready = {name: kernels(graph, replace(options, batch=batches[name], scratch=scratch.get(name, {})), name == "step", packed)
             for name, graph in graphs.items()}
    return ready | ({"prepare": kernels(prepare, replace(options, steps=[]))} if prepare else {})


def design_batch(program: Program, name: str, batch: int) -> int:
    """The batch that a program is made for: `batch` for `run`, that of the data section for `step` and `evaluate`, the only one
    that a variant of `run` takes."""
    if (only := only_batch(name)) is not None:
        return only
    return (program.data or {}).get("batch", batch) if name in ("step", "evaluate") else batch


def kernels(graph: Graph, options: Options = Options(), training: bool = False, packed: bool = True) -> Graph:
    """A graph of primitives that says which of them share a kernel, and where tensors lie."""
    return _passes(graph, KERNELS, options, training, packed)


def of(program: Program, name: str, options: Options = Options(), packed: bool = True) -> Graph:
    """The program called `name` (run, `variant`, evaluate, step) of an elaborated net. Raises NetcError E0510, E0511 for a step
    that has no loss or no train section, E0416 for a variant where there is no batch to choose."""
    if (only := only_batch(name)) is not None:
        return run(with_batch(program.graph, only), replace(options, batch=only), packed)
    if name != "step":
        return {"run": run, "evaluate": evaluate}[name](program.graph, options, packed)
    if not program.graph.losses:
        raise NetcError("E0510", f"net `{program.net}` has no loss to train on",
                        "add a line such as `loss cross_entropy(logits, label)`")
    if program.train is None:
        raise NetcError("E0511", f"there is no train section for net `{program.net}`",
                        "add `train fit { net = …, data = …, optimizer = sgd(lr = 0.1), run = 10 epochs }`")
    return step(program.graph, program.train.to_json(), options)


def variant(batch: int) -> str:
    """The name of the program that is `run` for one batch only."""
    return f"run_{batch}"


def only_batch(name: str) -> int | None:
    """The batch that a program is for, None for one of any batch."""
    batch = name.removeprefix("run_")
    return int(batch) if batch != name else None


def batch_symbol(graph: Graph) -> str:
    """The symbol that the inputs' first axis has. Raises NetcError E0416 where there is none."""
    for node in graph.leaves("input"):
        if node.type.rank and len(found := dims.symbols(node.type.shape[0])) == 1:
            return min(found)
    raise NetcError("E0416", "the inputs of this net have no batch to choose variants by: their first size is a number",
                    "leave --batch out; the net is made for that size already")


def with_batch(graph: Graph, batch: int) -> Graph:
    """A copy of the source graph for this batch only."""
    sizes, made = {batch_symbol(graph): batch}, graph.copy()

    def fixed(value: Any) -> Any:
        if isinstance(value, Poly):
            return dims.substitute(value, sizes)
        if isinstance(value, TensorType):
            return TensorType(value.dtype, fixed(value.shape))
        return type(value)(map(fixed, value)) if isinstance(value, (tuple, list)) else value

    for node in graph.nodes():
        made.update(node.name, type=fixed(node.type), attrs={key: fixed(value) for key, value in node.attrs.items()})
    return made


def run(graph: Graph, options: Options = Options(), packed: bool = True) -> Graph:
    """What is deployed: the subgraph that reaches an output."""
    return _inference(select_mode(graph, "deploy"), options, packed)


def evaluate(graph: Graph, options: Options = Options(), packed: bool = True) -> Graph:
    """Outputs, losses and metrics, computed as at deployment."""
    return _inference(select_mode(graph, "evaluate"), options, packed)


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


def _inference(graph: Graph, options: Options, packed: bool) -> Graph:
    native = MACHINES[options.machine].native
    graph = expand(_passes(graph, LAYERS, options, packed=packed), lambda node: not native(node))
    return _passes(graph, PRIMITIVES, options, packed=packed)


def predicted(graph: Graph, options: Options) -> float:
    """Predicted seconds of a graph of layers for inference, lowered as the passes would have it (without the search)."""
    options = replace(options, search=0.0, check=False, keep=False, steps=[])
    graphs = {"run": _inference(graph.copy(), options, packed=True)}
    hoist(graphs)
    return tally(kernels(graphs["run"], options), MACHINES[options.machine], options.batch)["predicted_ms"] / 1e3


def _passes(graph: Graph, names: list[str], options: Options, training: bool = False, packed: bool = True) -> Graph:
    graph, steps = optimize(graph, options.context(training, packed), names=names, off=options.off, only=options.only,
                            check=options.check, keep=options.keep)
    options.steps.extend(steps)
    return graph
