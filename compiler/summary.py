"""A net as a table: what each layer of the source puts out, holds and costs."""

from __future__ import annotations

from typing import Any

from compiler import dims
from compiler.group import is_leaf
from compiler.ir import Graph
from compiler.ops import REGISTRY, namespace


def summarize(graph: Graph, batch: int = 1) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows {layer, op, output, params, macs, bytes} in order, and the totals of the last three.

    bytes: unique bytes of the layer's operands, weights and result, each read or written once, at this batch. A weight
    that several layers share is counted where it is first used. Symbols other than the batch count as 1.
    """
    symbols = {s for n in graph.nodes() for d in n.type.shape for s in dims.symbols(d)}
    first = next((s for n in graph.leaves("input") for s in dims.symbols(n.type.shape[0])), None)
    env = {s: batch if s == first else 1 for s in symbols}
    seen: set[str] = set()
    rows = []
    for node in graph.sorted():
        if is_leaf(node):
            continue
        types = [graph[i].type for i in node.inputs]
        own = {i for i in node.inputs if graph[i].op == "parameter"} - seen
        seen |= own
        operands = {i: graph[i].type for i in node.inputs}
        macs = REGISTRY[node.op].macs(namespace(node.attrs), types, node.type)
        total = node.type.bytes
        for type in operands.values():
            total = total + type.bytes
        rows.append({"layer": node.name, "op": node.op, "output": str(node.type),
                     "params": sum(graph[p].type.size for p in own if not graph[p].attrs.get("state")),
                     "macs": dims.evaluate(macs, env), "bytes": dims.evaluate(total, env)})
    return rows, {key: sum(row[key] for row in rows) for key in ("params", "macs", "bytes")}
