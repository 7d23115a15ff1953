"""A kernel as the manifest lists it: what it computes for whom, what it costs, and where its results are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compiler import dims, flat, lifetimes
from compiler.dims import Dim
from compiler.group import Launch
from compiler.ir import STORED, Graph, unite
from compiler.ops import REGISTRY, namespace
from compiler.tensors import layout_of, origin, touched


def describe(graph: Graph, function: str, launch: Launch, storage: Mapping[str, str], memory: Any) -> dict[str, Any]:
    """The manifest's entry. bytes: the unique bytes of the kernel's tensors, read or written once; a part of a tensor
    counts for itself, scratch does not."""
    nodes = [graph[m] for m in launch.nodes]
    sizes = {(storage[name], graph.places.get(name)): graph[name].type.bytes for name in touched(graph, launch)}
    macs: Dim = 0
    flops: Dim = 0
    for node in nodes:
        types = [graph[i].type for i in node.inputs]
        macs = macs + REGISTRY[node.op].macs(namespace(node.attrs), types, node.type)
        flops = flops + REGISTRY[node.op].flops(namespace(node.attrs), types, node.type)
    total: Dim = 0
    for size in sizes.values():
        total = total + size
    return {"name": launch.groups[-1].members[-1], "function": function, "members": launch.nodes,
            "ops": [n.op for n in nodes], "layers": sorted({o.layer for o in unite(n.origins for n in nodes)}),
            "macs": dims.as_json(macs), "flops": dims.as_json(flops), "bytes": dims.as_json(total),
            "results": [_result(graph, name, storage[name], memory) for name in launch.results]}


def memory_of(graph: Graph, launch: Launch, storage: Mapping[str, str], memory: Any, slots: Mapping[str, Any],
              scratch: Sequence[tuple[str, Dim]]) -> list[dict[str, Any]]:
    """The stretches of memory that a kernel may touch: {in, name, offset, bytes, write, tensor}, in bytes of an argument,
    of the parameters, or of the arena. Of a part of a tensor it is the stretch from its first to its last element."""
    found: dict[tuple, dict[str, Any]] = {}

    def add(where: dict[str, Any], bytes: Dim, write: bool, tensor: str) -> None:
        where = {**where, "offset": dims.as_json(where["offset"]), "bytes": dims.as_json(bytes)}
        entry = found.setdefault(tuple(map(str, where.values())), {**where, "write": False, "tensor": tensor})
        entry["write"] |= write

    for name in touched(graph, launch):
        type, key = graph[name].type, storage[name]
        kind, _, what = key.partition(":")
        base, offset = flat.base_and_offset(key)
        bytes = type.bytes
        if kind == "parameter":
            where, offset = {"in": "parameters", "name": ""}, slots[what].offset
        elif kind in ("input", "output"):
            where, offset = {"in": kind, "name": what}, 0
        else:
            where, offset = {"in": "arena", "name": ""}, memory.offsets[base] + offset
        layout, place = layout_of(graph, name), graph.places.get(name)
        if place and not any(layout.halo):
            strides = layout.strides(graph[place.root].type.shape)
            for start, stride in zip(origin(layout, place.starts), strides):
                offset = offset + start * stride * type.itemsize
            bytes = type.itemsize
            for extent, stride in zip(layout.extents(type.shape), strides):
                bytes = bytes + (extent - 1) * stride * type.itemsize
        elif kind == "node" and key == base:
            bytes = lifetimes.size(graph, base)
        add({**where, "offset": offset}, bytes, name in launch.results, name)
    for key, bytes in scratch:
        add({"in": "arena", "name": "", "offset": memory.offsets[key]}, bytes, True, "its own scratch memory")
    return list(found.values())


def _result(graph: Graph, name: str, storage: str, memory: Any) -> dict[str, Any]:
    """Where a result is: an argument, a parameter or a stretch of the arena, its extents there, and which part it is."""
    kind, _, what = storage.partition(":")
    base, offset = flat.base_and_offset(storage)
    where: dict[str, Any] = {"in": kind, "name": what} if kind != "node" else {
        "in": "arena", "offset": dims.as_json(memory.offsets[base] + offset)}
    layout, place, shape = layout_of(graph, name), graph.places.get(name), graph[name].type.shape
    if place or any(layout.halo):
        starts = origin(layout, place.starts if place else (0,) * len(shape))
        counts = replace(layout, halo=(0, 0, 0, 0)).extents(shape)
        where["part"] = [[dims.as_json(s), dims.as_json(s + n)] for s, n in zip(starts, counts)]
        shape = graph[place.root].type.shape if place else shape
    return {**where, "dtype": STORED[graph[name].type.dtype],
            "shape": [dims.as_json(d) for d in layout.extents(shape)]}
