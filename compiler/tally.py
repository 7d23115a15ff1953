"""What a program comes to: operations, kernels, FLOPs, bytes and predicted time, as `netc opt` shows them."""

from __future__ import annotations

from compiler import dims
from compiler.cost import Machine
from compiler.group import Group, group, is_leaf, view_root
from compiler.ir import Graph
from compiler.ops import REGISTRY, namespace
from compiler.views import place


def tally(graph: Graph, machine: Machine, batch: int) -> dict[str, float]:
    """{nodes, kernels, flops, bytes, predicted_ms} of a graph of primitives. Symbols count as the batch.

    nodes: operations, leaves apart. kernels: each an anchor with its element-wise tail; concats and slices that are
    places in memory are none. bytes: for each kernel the unique bytes of its tensors, read or written once.
    """
    total = {"nodes": sum(not is_leaf(node) for node in graph.nodes()), "kernels": 0, "flops": 0, "bytes": 0,
             "predicted_ms": 0.0}
    for kernel in place(graph, group(graph))[1]:
        flops, bytes = _flops(graph, kernel, batch), _bytes(graph, kernel, batch)
        total["kernels"] += 1
        total["flops"] += flops
        total["bytes"] += bytes
        total["predicted_ms"] += 1e3 * (max(flops / machine.flops, bytes / machine.bandwidth) + machine.launch)
    return total


def _flops(graph: Graph, kernel: Group, batch: int) -> int:
    nodes = [graph[name] for name in kernel.nodes]
    return sum(_number(REGISTRY[n.op].flops(namespace(n.attrs), [graph[i].type for i in n.inputs], n.type), batch)
               for n in nodes)


def _bytes(graph: Graph, kernel: Group, batch: int) -> int:
    inside = set(kernel.nodes)
    touched = {view_root(graph, i) for name in kernel.nodes for i in graph[name].inputs if i not in inside}
    touched = {name for name in touched if graph[name].op != "constant" or graph[name].type.shape}
    return sum(_number(graph[name].type.bytes, batch) for name in touched | set(kernel.results))


def _number(value: dims.Dim, batch: int) -> int:
    return dims.evaluate(value, {symbol: batch for symbol in dims.symbols(value)})
