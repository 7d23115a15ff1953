"""What lives when: the tensors of a program's arena, by the kernels that read and write them, in the order they run."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dims, flat
from compiler.dims import Dim
from compiler.group import Launch, view_root
from compiler.ir import Graph
from compiler.layout import PLAIN
from compiler.memory import Lifetime, Part

ARENA = "node:"


def storages(graph: Graph) -> dict[str, str]:
    """Whose memory each node is in: `input:x`, `output:p`, `parameter:w`, or `node:n` in the arena, perhaps some bytes
    behind its beginning: `node:n+64`."""
    storage = {}
    results = {view_root(graph, n): f"output:{key}" for table in (graph.outputs, graph.losses, graph.metrics)
               for key, n in table.items()}
    updates = {view_root(graph, n): f"parameter:{key}" for key, n in graph.updates.items()}
    for node in graph.nodes():
        root = view_root(graph, node.name)
        if root in graph.places:
            root = view_root(graph, graph.places[root].root)
        op = graph[root].op
        if op == "input":
            storage[node.name] = f"input:{root}"
        elif op in ("parameter", "constant"):
            storage[node.name] = f"parameter:{root}"
        else:
            storage[node.name] = results.get(root) or updates.get(root) or ARENA + root
    return storage | flat.storages(graph)


def tensors(graph: Graph) -> dict[str, str]:
    """The tensor of the arena that each node lies in, `node:n`; nodes that lie elsewhere are left out."""
    return {name: flat.base_and_offset(key)[0] for name, key in storages(graph).items() if key.startswith(ARENA)}


def reads(graph: Graph, launch: Launch) -> list[str]:
    """The nodes of others that a kernel reads."""
    inside = set(launch.nodes)
    return list(dict.fromkeys(i for m in launch.nodes for i in graph[m].inputs if i not in inside))


def size(graph: Graph, tensor: str) -> Dim:
    """Bytes of a tensor of the arena, as its layout allocates it."""
    node = graph[tensor.removeprefix(ARENA)]
    return dims.product(graph.layouts.get(node.name, PLAIN).extents(node.type.shape)) * node.type.itemsize


def lifetimes(graph: Graph, scratch: Sequence[Sequence[tuple[str, Dim]]] = ()) -> list[Lifetime]:
    """The tensors of the arena. scratch: for each kernel names and bytes of what it needs for itself."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    storage = storages(graph)
    bytes = {}
    for step, launch in enumerate(graph.kernels):
        for name in (*reads(graph, launch), *launch.results):
            key = storage[name]
            if key.startswith(ARENA):
                first.setdefault(key, step)
                last[key] = step
                bytes[key] = graph[name].type.bytes
    found = []
    pieces: dict[str, list[str]] = {}
    for key in first:
        pieces.setdefault(flat.base_and_offset(key)[0], []).append(key)
    for key, inside in pieces.items():
        parts = tuple(Part(flat.base_and_offset(k)[1], bytes[k], first[k], max(last[k], last.get(key, 0)))
                      for k in inside if k != key)
        begin, end = min(first[k] for k in inside), max(last[k] for k in inside)
        found.append(Lifetime(key, size(graph, key), begin, end, parts))
    return found + [Lifetime(key, bytes, step, step) for step, needed in enumerate(scratch) for key, bytes in needed]
