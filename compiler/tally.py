"""What a program comes to: operations, kernels, FLOPs, bytes, arena and predicted time, as `netc opt` shows them.

Beside what the compiler makes of a net stand two baselines: `unfused`, a kernel for each op of the source, and
`elementwise_fused`, what stock frameworks do; and the `floor` below which no fusion brings the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from compiler import dims
from compiler.cost import Machine
from compiler.dims import Dim
from compiler.group import group, is_leaf, is_view, view_root
from compiler.ir import Graph, Node
from compiler.memory import Lifetime, plan
from compiler.ops import REGISTRY, namespace
from compiler.passes.fuse_elementwise import choose_kernels
from compiler.views import Place

COUNTS = ("nodes", "kernels", "flops", "bytes", "arena_bytes", "predicted_ms")
PADDED = ("conv", "max_pool", "avg_pool")  # a library without padding of its own copies their input into zeros
BIASED = ("conv", "dense", "matmul")       # operand 2 is a bias


@dataclass(frozen=True)
class Work:
    """What one kernel reads and writes (bytes by the name of the tensor), and its FLOPs."""

    reads: Mapping[str, Dim]
    writes: Mapping[str, Dim]
    flops: Dim

    def at(self, batch: int) -> tuple[int, int]:
        """(FLOPs, bytes) at a batch."""
        return number(self.flops, batch), sum(number(b, batch) for b in [*self.reads.values(), *self.writes.values()])

    def seconds(self, machine: Machine, batch: int) -> float:
        """Predicted time: the roofline of the machine, and what it takes to start a kernel."""
        flops, bytes = self.at(batch)
        return max(flops / machine.flops, bytes / machine.bandwidth) + machine.launch


def kernels(graph: Graph) -> list[list[str]]:
    """The kernels of a graph of primitives, in the order in which they run: the nodes that each computes.

    Concats and slices that are places in memory belong to none, and neither do views and leaves.
    """
    return [launch.nodes for launch in _chosen(graph).kernels]


def _chosen(graph: Graph) -> Graph:
    """The graph with its kernels; where none are chosen yet, each op is one."""
    return graph if graph.kernels is not None else choose_kernels(graph.copy(), fuse=False)


def tally(graph: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a graph of primitives as it would be lowered. Symbols count as the batch.

    nodes: operations, leaves apart. bytes: for each kernel the unique bytes of its tensors, weights included, each read
    or written once. arena_bytes: the memory that the tensors between kernels share.
    """
    graph = _chosen(graph)
    return _total(graph, [work(graph, launch.nodes) for launch in graph.kernels], machine, batch, graph.places)


def work(graph: Graph, nodes: Iterable[str]) -> Work:
    """What a kernel that computes `nodes` reads, writes and takes."""
    inside = dict.fromkeys(nodes)
    reads = dict.fromkeys(view_root(graph, i) for name in inside for i in graph[name].inputs)
    results = set(graph.results())
    writes = [name for name in inside if name in results or any(u not in inside for u in _readers(graph, name))]
    total: Dim = 0
    for name in inside:
        total = total + _flops(graph, graph[name])
    return Work({name: graph[name].type.bytes for name in reads if name not in inside and not _is_number(graph[name])},
                {name: graph[name].type.bytes for name in writes}, total)


def number(value: Dim, batch: int) -> int:
    """A dim at a batch; every symbol counts as the batch."""
    return dims.evaluate(value, {symbol: batch for symbol in dims.symbols(value)})


def flops(graph: Graph, name: str, batch: int) -> int:
    """FLOPs of one node at a batch."""
    return number(_flops(graph, graph[name]), batch)


def _flops(graph: Graph, node: Node) -> Dim:
    return REGISTRY[node.op].flops(namespace(node.attrs), [graph[i].type for i in node.inputs], node.type)


def _readers(graph: Graph, name: str) -> list[str]:
    """Who reads a value, itself or through views; a view that is a result of the program stands for the caller."""
    found = []
    for user in graph.users(name):
        if not is_view(user):
            found.append(user.name)
        else:
            found += _readers(graph, user.name) + ([user.name] if user.name in graph.results() else [])
    return found


def _is_number(node: Node) -> bool:
    return node.op == "constant" and not node.type.shape


# --- what others would make of the source ------------------------------------------------------------------------------

def unfused(source: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a graph of layers with a kernel for each op: bias, activation, concat and padding apart."""
    return _total(source, [part for node in _computed(source) for part in _parts(source, node)], machine, batch)


def elementwise_fused(source: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a graph of layers with bias and activation in the kernel before them, and nothing else."""
    home: dict[str, list[str]] = {}
    made: list[list[str]] = []
    for node in _computed(source):
        op, before = REGISTRY[node.op], view_root(source, node.inputs[0]) if node.inputs else ""
        if op.family == "activation" and op.pointwise and before in home:
            home[node.name] = home[before]
        else:
            home[node.name] = []
            made.append(home[node.name])
        home[node.name].append(node.name)
    return _total(source, [work(source, nodes) for nodes in made], machine, batch)


def elementwise_fused_step(joint: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a training step as primitives where every chain of element-wise ops (bias, activation, their
    gradients, an update) is in the kernel before it; concats and slices are kernels."""
    return _total(joint, [work(joint, kernel.nodes) for kernel in group(joint)], machine, batch)


def floor(source: Graph, batch: int) -> int:
    """Bytes that no fusion avoids: inputs and weights are read once, results are written once, and a value that several
    layers read is written once and read once. In a training step the last is left out: what the backward pass reads of
    the forward pass could be computed again."""
    total: Dim = 0
    results = set(source.results())
    for node in source.nodes():
        if is_leaf(node) and not _is_number(node) or node.name in results:
            total = total + node.type.bytes
        elif not source.updates and not is_view(node) and node.op != "dropout" and len(set(_readers(source, node.name))) > 1:
            total = total + 2 * node.type.bytes
    return number(total, batch)


def _computed(source: Graph) -> list[Node]:
    """The layers that are work. Dropout is none where it still stands: in a net that is not being trained."""
    return [node for node in source.sorted() if not is_leaf(node) and not is_view(node) and node.op != "dropout"]


def _parts(source: Graph, node: Node) -> list[Work]:
    """A layer as the kernels of a library that fuses nothing."""
    whole = work(source, [node.name])
    reads, parts, size = dict(whole.reads), [], node.type.bytes
    if node.op in PADDED and any(map(any, node.attrs["pad"])):
        x = source[node.inputs[0]].type
        extents = [extent + sum(pad) for extent, pad in zip(x.shape[2:], node.attrs["pad"])]
        padded = {f"{node.name}/padded": x.with_shape(*x.shape[:2], *extents).bytes}
        root = view_root(source, node.inputs[0])
        parts.append(Work({root: reads.pop(root)}, padded, 0))
        reads |= padded
    if node.op not in BIASED or len(node.inputs) < 3:
        return [*parts, Work(reads, {node.name: size}, whole.flops)]
    bias, plain = view_root(source, node.inputs[2]), f"{node.name}/without_bias"
    added = Work({plain: size, bias: reads.pop(bias)}, {node.name: size}, 0)
    return [*parts, Work(reads, {plain: size}, whole.flops), added]


# --- sums --------------------------------------------------------------------------------------------------------------

def _total(graph: Graph, works: Sequence[Work], machine: Machine, batch: int,
           places: Mapping[str, Place] | None = None) -> dict[str, float]:
    flops, bytes = (sum(column) for column in zip((0, 0), *(made.at(batch) for made in works)))
    return {"nodes": sum(not is_leaf(node) for node in graph.nodes()), "kernels": len(works), "flops": flops,
            "bytes": bytes, "arena_bytes": _arena(graph, works, places or {}, batch),
            "predicted_ms": 1e3 * sum(made.seconds(machine, batch) for made in works)}


def _arena(graph: Graph, works: Sequence[Work], places: Mapping[str, Place], batch: int) -> int:
    """The size of an arena for what kernels hand to each other. Inputs and results are the caller's memory."""
    apart = {view_root(graph, name) for name in graph.results()}
    lives: dict[str, Lifetime] = {}
    for step, made in enumerate(works):
        for name, size in [*made.reads.items(), *made.writes.items()]:
            root = view_root(graph, name) if name in graph else name
            if root in places:
                root = view_root(graph, places[root].root)
            if root in apart or root in graph and is_leaf(graph[root]):
                continue
            size = graph[root].type.bytes if root in graph else size
            lives[root] = Lifetime(root, size, lives[root].first if root in lives else step, step)
    return number(plan(list(lives.values())).size, batch)
