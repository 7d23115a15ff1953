"""The cost model: predicted time of operations on a target, by roofline. Passes decide by it; nothing is measured.

time = max(FLOPs / peak, bytes / bandwidth) + launch, for each kernel (Williams et al., Roofline, CACM 2009). The bytes of a
kernel that touches few lie in a cache still, from the kernel before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from compiler import dims
from compiler.gpus import GPUS
from compiler.group import is_leaf, is_view
from compiler.ir import LOW, Graph, Node
from compiler.layout import PLAIN
from compiler.ops import REGISTRY, namespace

PRODUCTS = ("conv", "matmul")  # of their first two operands


@dataclass(frozen=True)
class Machine:
    """What a target can do: f32 FLOP/s, bytes/s from memory, seconds it takes to start a kernel; what its schedules can do:
    pairs (producer, reader) that run band by band in one kernel, whether the kernel of an anchor can share a call; bytes of
    the cache that a band should stay in; which composite nodes are one kernel as they are; pairs of ops that read one tensor
    once for both results."""

    flops: float
    bandwidth: float
    launch: float
    staged: frozenset[tuple[str, str]] = frozenset()
    together: Callable[[Graph, str], bool] = lambda graph, anchor: False
    native: Callable[[Node], bool] = lambda node: False
    cache: int = 512 << 10
    pairs: frozenset[tuple[str, str]] = frozenset()
    channels_last: bool = False  # whether schedules like the channels of a position together in memory
    low: float = 1.0  # how many times as many FLOP/s products of 16 bits reach
    near: float = 0.0  # bytes/s from caches, for kernels that touch `few` bytes at most
    few: int = -1

    def time(self, flops: float, bytes: float) -> float:
        """Predicted seconds of one kernel. The runtime has the same formula (`runtime.measure.predicted`)."""
        return max(flops / self.flops, bytes / (self.near if bytes <= self.few else self.bandwidth)) + self.launch

    def numbers(self) -> dict[str, float]:
        """What the formula needs, for manifests."""
        return {"flops": self.flops, "bandwidth": self.bandwidth, "near": self.near, "few": self.few, "launch": self.launch}


def _blocked(graph: Graph, anchor: str) -> bool:
    """Schedules of blocked channels hand their work to a region that others may share."""
    node = graph[anchor]
    if node.op in ("max_pool", "avg_pool"):
        return graph.layouts.get(anchor, PLAIN).block > 1
    return node.op == "winograd_conv" or node.op == "conv" and graph.layouts.get(node.inputs[1], PLAIN).block > 1


def _threads(graph: Graph, anchor: str) -> bool:
    """What has a thread for each element can share a launch."""
    return graph[anchor].op in ("conv", "max_pool", "avg_pool", "max_pool_index") or REGISTRY[graph[anchor].op].pointwise


def _row(node: Node) -> bool:
    """Softmax of rows is one kernel."""
    return (node.op in ("softmax", "log_softmax") and node.attrs["axis"] == node.type.rank - 1
            and isinstance(node.type.shape[-1], int) and node.type.dtype == "f32")


_STAGED = frozenset({("max_pool", "conv"), ("avg_pool", "conv"), ("conv", "max_pool"), ("conv", "avg_pool"), ("conv", "conv")})

# One core of an x86 server with AVX2 (Zen 3, 3 GHz) at the rates our kernels reach, docs/performance.md; GPUs as their table
# has them.
MACHINES = {
    "cpu": Machine(9e10, 2.2e10, 1e-7, near=3.5e10, few=8 << 20, staged=_STAGED, together=_blocked, native=_row,
                   pairs=frozenset({("max_pool", "max_pool_index"), ("conv_weight_grad", "sum")})),
    **{arch: Machine(gpu.flops, gpu.bandwidth, gpu.launch, together=_threads, channels_last=True) for arch, gpu in GPUS.items()},
}


def seconds(graph: Graph, nodes: Iterable[Node], machine: Machine, batch: int) -> float:
    """Predicted time of `nodes`, each a kernel of its own that reads from memory, as weights in a network are read; leaves and
    views cost nothing. Symbols other than the batch count as the batch does."""
    total = 0.0
    for node in nodes:
        if is_leaf(node) or is_view(node):
            continue
        types = [graph[i].type for i in node.inputs]
        flops = REGISTRY[node.op].flops(namespace(node.attrs), types, node.type)
        moved = node.type.bytes
        for type in {i: graph[i].type for i in node.inputs}.values():
            moved = moved + type.bytes
        env = {s: batch for s in dims.symbols(flops) | dims.symbols(moved)}
        fast = machine.low if node.op in PRODUCTS and all(t.dtype in LOW for t in types[:2]) else 1.0
        total += max(dims.evaluate(flops, env) / (machine.flops * fast), dims.evaluate(moved, env) / machine.bandwidth)
        total += machine.launch
    return total
