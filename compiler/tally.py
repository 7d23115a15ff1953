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
from compiler.kernels import choose_kernels
from compiler.lifetimes import ARENA, lifetimes, storages
from compiler.memory import Lifetime, plan
from compiler.ops import REGISTRY, namespace
from compiler.views import Place

COUNTS = ("nodes", "kernels", "flops", "bytes", "arena_bytes", "predicted_ms")
PADDED = ("conv", "max_pool", "avg_pool")  # a library without padding of its own copies their input into zeros
BIASED = ("conv", "dense", "matmul")       # operand 2 is a bias


@dataclass(frozen=True)
class Work:
    """What one kernel touches, bytes by tensor (a storage as `lifetimes.storages` names it, and the part of it), and
    its FLOPs. A tensor that is read and written in place is one."""

    tensors: Mapping[tuple[str, Place | None], Dim]
    flops: Dim

    def at(self, batch: int) -> tuple[int, int]:
        """(FLOPs, bytes) at a batch."""
        return number(self.flops, batch), sum(number(bytes, batch) for bytes in self.tensors.values())

    def seconds(self, machine: Machine, batch: int) -> float:
        """Predicted time: the roofline of the machine, and what it takes to start a kernel."""
        flops, bytes = self.at(batch)
        return machine.time(flops, bytes)


def apart(graph: Graph) -> Graph:
    """A graph of primitives that says which of them share a kernel; where none are chosen yet, each op is one."""
    return graph if graph.kernels is not None else choose_kernels(graph.copy(), fuse=False)


def kernels(graph: Graph) -> list[list[str]]:
    """The kernels of a graph of primitives, in the order in which they run: the nodes that each computes.

    Concats and slices that are places in memory belong to none, and neither do views and leaves.
    """
    return [launch.nodes for launch in apart(graph).kernels]


def tally(graph: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a graph of primitives as it would be lowered. Symbols count as the batch.

    nodes: operations, leaves apart. bytes: for each kernel the unique bytes of its tensors, weights included.
    arena_bytes: what the tensors between kernels share, without what kernels need for themselves.
    """
    graph = apart(graph)
    storage = storages(graph)
    works = [work(graph, launch.nodes, storage) for launch in graph.kernels]
    return _total(graph, works, lifetimes(graph), machine, batch)


def work(graph: Graph, nodes: Iterable[str], storage: Mapping[str, str] | None = None) -> Work:
    """What a kernel that computes `nodes` touches and takes. storage: of `lifetimes.storages`, if it is known."""
    inside = dict.fromkeys(nodes)
    storage = _storages(graph) if storage is None else storage
    read = [i for name in inside for i in graph[name].inputs
            if view_root(graph, i) not in inside and not _is_number(graph[i])]
    results = set(graph.results())
    written = [name for name in inside if name in results or any(u not in inside for u in _readers(graph, name))]
    total: Dim = 0
    for name in inside:
        total = total + _flops(graph, graph[name])
    return Work({(storage[name], graph.places.get(name)): graph[name].type.bytes for name in [*read, *written]}, total)


def _storages(graph: Graph) -> Mapping[str, str]:
    if graph.kernels is None:
        graph = graph.copy()
        graph.kernels = []
    return storages(graph)


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
    return node.op == "constant" and node.type.size == 1


# --- what others would make of the source ----------------------------------------------------------------------------

def unfused(source: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a graph of layers with a kernel for each op: bias, activation, concat and padding apart."""
    storage = _storages(source)
    works = [part for node in _computed(source) for part in _parts(source, node, storage)]
    return _baseline(source, works, machine, batch)


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
    storage = _storages(source)
    return _baseline(source, [work(source, nodes, storage) for nodes in made], machine, batch)


def elementwise_fused_step(joint: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """The COUNTS of a training step as primitives where every chain of element-wise ops (bias, activation, their
    gradients, an update) is in the kernel before it; concats and slices are kernels."""
    storage = _storages(joint)
    return _baseline(joint, [work(joint, kernel.nodes, storage) for kernel in group(joint)], machine, batch)


def floor(source: Graph, batch: int) -> int:
    """Bytes that no fusion avoids: inputs and weights are read once, results are written once, and a value that several
    layers read is written once and read once. In a training step the last is left out: what the backward pass reads of
    the forward pass could be computed again."""
    total: Dim = 0
    results = set(source.results()) - set(source.updates.values())  # which are written over what they update
    for node in source.nodes():
        if is_leaf(node) and not _is_number(node) or node.name in results:
            total = total + node.type.bytes
        elif source.updates or is_view(node) or node.op == "dropout":
            continue
        elif len(set(_readers(source, node.name))) > 1:
            total = total + 2 * node.type.bytes
    return number(total, batch)


def _computed(source: Graph) -> list[Node]:
    """The layers that are work. Dropout is none where it still stands: in a net that is not being trained."""
    return [node for node in source.sorted() if not is_leaf(node) and not is_view(node) and node.op != "dropout"]


def _parts(source: Graph, node: Node, storage: Mapping[str, str]) -> list[Work]:
    """A layer as the kernels of a library that fuses nothing."""
    whole = work(source, [node.name], storage)
    touched, parts = dict(whole.tensors), []
    if node.op in PADDED and any(map(any, node.attrs["pad"])):
        x = source[node.inputs[0]].type
        extents = [extent + sum(pad) for extent, pad in zip(x.shape[2:], node.attrs["pad"])]
        padded = {(f"{ARENA}{node.name}/padded", None): x.with_shape(*x.shape[:2], *extents).bytes}
        plain = storage[node.inputs[0]], None
        parts.append(Work({plain: touched.pop(plain), **padded}, 0))
        touched |= padded
    if node.op not in BIASED or len(node.inputs) < 3:
        return [*parts, Work(touched, whole.flops)]
    result, bias = (storage[node.name], None), (storage[node.inputs[2]], None)
    unbiased = {(f"{ARENA}{node.name}/without_bias", None): touched.pop(result)}
    added = Work({**unbiased, bias: touched.pop(bias), result: node.type.bytes}, 0)
    return [*parts, Work({**touched, **unbiased}, whole.flops), added]


# --- sums ------------------------------------------------------------------------------------------------------------

def _baseline(graph: Graph, works: Sequence[Work], machine: Machine, batch: int) -> dict[str, float]:
    steps: dict[str, list[int]] = {}
    size: dict[str, Dim] = {}
    for step, made in enumerate(works):
        for (storage, _), bytes in made.tensors.items():
            if storage.startswith(ARENA):
                steps.setdefault(storage, []).append(step)
                size[storage] = bytes
    lives = [Lifetime(name, size[name], found[0], found[-1]) for name, found in steps.items()]
    return _total(graph, works, lives, machine, batch)


def _total(graph: Graph, works: Sequence[Work], lives: list[Lifetime], machine: Machine,
           batch: int) -> dict[str, float]:
    flops, bytes = (sum(column) for column in zip((0, 0), *(made.at(batch) for made in works)))
    return {"nodes": sum(not is_leaf(node) for node in graph.nodes()), "kernels": len(works), "flops": flops,
            "bytes": bytes, "arena_bytes": number(plan(lives).size, batch),
            "predicted_ms": 1e3 * sum(made.seconds(machine, batch) for made in works)}
