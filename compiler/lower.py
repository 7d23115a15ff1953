"""Graphs of primitives → one TVM module: a private function per kernel, one driver function per program.

A driver takes DLTensors (inputs, results, the flat parameter buffer, the arena) and a range [begin, end) of kernels to run,
and passes kernels raw pointers into them. Offsets are expressions of the batch, so one binary runs any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from compiler import dims, scalar
from compiler.dims import Dim
from compiler.group import Group, group, is_leaf, view_root
from compiler.ir import DTYPES, Graph, Node, TensorType, unite
from compiler.memory import ALIGNMENT, Lifetime, plan
from compiler.ops import REGISTRY, Operand, namespace
from compiler.schedule.kernel import Kernel
from compiler.views import Place, place


@dataclass(frozen=True)
class Slot:
    """A parameter's place in the flat buffer, in bytes."""

    offset: int
    bytes: int


def layout(graphs: Sequence[Graph]) -> dict[str, Slot]:
    """Places of all parameters and constant arrays of several graphs, each aligned; the same name is the same tensor."""
    slots: dict[str, Slot] = {}
    top = 0
    for graph in graphs:
        for node in graph.nodes():
            if node.name not in slots and (node.op == "parameter" or is_constant_array(node)):
                slots[node.name] = Slot(top, node.type.bytes)
                top += -(-node.type.bytes // ALIGNMENT) * ALIGNMENT
    return slots


def is_constant_array(node: Node) -> bool:
    """Whether a constant has to live in memory (single numbers are written into the code)."""
    return node.op == "constant" and node.attrs["value"].size != 1


@dataclass
class Call:
    """One kernel call of a driver: which function, and where its pointers come from (storage keys, in order)."""

    kernel: str
    storages: list[str]
    scratch: list[tuple[str, Dim]]
    group: Group


@dataclass
class Lowering:
    """The module under construction. `emit(kernel, batch)` is the target's schedule: it adds the kernel's statements to the
    current frame, and counts on `batch` examples where it has to choose."""

    emit: Any
    slots: Mapping[str, Slot]
    module: tvm.IRModule = field(default_factory=lambda: tvm.IRModule({}))
    functions: dict[Any, str] = field(default_factory=dict)

    def program(self, name: str, graph: Graph, batch: int = 1) -> dict[str, Any]:
        """Adds the program `name` to the module; returns its entry of the manifest. `graph` holds primitives only; `batch`
        is the design batch."""
        graph = _with_copies(graph)
        places, groups = place(graph, group(graph))
        symbols = sorted({s for n in graph.leaves("input") for d in n.type.shape for s in dims.symbols(d)})
        storage = _storages(graph, places)
        calls = [self._kernel(graph, g, symbols, storage, places, f"{name}.{i}", batch) for i, g in enumerate(groups)]
        memory = plan(_lifetimes(graph, calls))
        self._driver(name, graph, calls, symbols, memory)
        updates = [i for i, c in enumerate(calls) if c.group.update]
        return {
            "symbol": name, "symbols": symbols,
            "arguments": [{**a, "shape": [dims.as_json(d) for d in a["shape"]]} for a in _arguments(graph)],
            "arena": dims.as_json(memory.size),
            "kernels": [_describe(graph, c, storage, places, memory) for c in calls],
            "update_from": updates[0] if updates else len(calls),
        }

    # --- kernels -------------------------------------------------------------------------------------------------

    def _kernel(self, graph: Graph, g: Group, symbols: list[str], storage: Mapping[str, str],
                places: Mapping[str, Place], name: str, batch: int) -> Call:
        anchor = graph[g.anchor]
        pointers: dict[str, Any] = {}
        scratch: list[tuple[str, Dim]] = []
        scratch_pointers: list[Any] = []
        with IRBuilder() as ib, T.prim_func(is_private=True, s_tir=True):
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            for node in _touched(graph, g):
                key = storage[node]
                if key not in pointers:
                    pointers[key] = T.arg(f"p{len(pointers)}", T.handle(DTYPES[graph[node].type.dtype]))
            sizes = {s: T.arg(s, T.int64()) for s in symbols}
            T.func_ret(PrimType("int32"))
            view = _Views(graph, g, pointers, storage, places, sizes, _touched(graph, g))

            def new_scratch(shape: tuple, dtype: str) -> Any:
                key = f"scratch:{name}.{len(scratch)}"
                scratch.append((key, _bytes(shape, dtype, sizes)))
                data = tirx.Var(f"s{len(scratch) - 1}", PointerType(PrimType(dtype), "global"))
                scratch_pointers.append(data)
                return T.decl_buffer(shape, dtype, data=data)

            self.emit(Kernel(name, REGISTRY[anchor.op], namespace(anchor.attrs),
                             [view.operand(i) for i in anchor.inputs], anchor.type,
                             view.shape(anchor.type), view.store, new_scratch), batch)
            T.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
        built = ib.get()
        built = tirx.PrimFunc([*built.params, *scratch_pointers], built.body, built.ret_type, attrs=built.attrs)
        return Call(self._function(built), list(pointers), scratch, g)

    def _function(self, function: Any) -> str:
        """The name of `function` in the module; equal kernels are compiled once."""
        key = tvm_ffi.structural_hash(function, map_free_vars=True)
        for other in self.functions.get(key, []):
            if tvm_ffi.structural_equal(self.module[other], function, map_free_vars=True):
                return other
        name = f"kernel{sum(map(len, self.functions.values()))}"
        self.functions.setdefault(key, []).append(name)
        self.module[name] = function
        return name

    # --- driver --------------------------------------------------------------------------------------------------

    def _driver(self, name: str, graph: Graph, calls: list[Call], symbols: list[str], memory: Any) -> None:
        sizes = {s: tirx.Var(s, "int64") for s in symbols}
        with IRBuilder() as ib, T.prim_func(s_tir=True):
            T.func_name(name)
            buffers = {}
            for argument in _arguments(graph):
                shape = [dims.evaluate(d, sizes, _int64) for d in argument["shape"]] or [_int64(1)]
                buffers[f"{argument['kind']}:{argument['name']}"] = T.arg(
                    argument["name"].replace("/", "_").replace(".", "_"), T.buffer(shape, argument["dtype"]))
            top = max((s.offset + s.bytes for s in self.slots.values()), default=0)
            parameters = T.arg("parameters", T.buffer((_int64(max(top, 1)),), "uint8"))
            arena = T.arg("arena", T.buffer((tirx.max(dims.evaluate(memory.size, sizes, _int64, tirx.max), _int64(1)),), "uint8"))
            begin, end = T.arg("begin", T.int64()), T.arg("end", T.int64())

            def pointer(key: str) -> Any:
                kind, _, what = key.partition(":")
                if kind == "parameter":
                    return T.address_of(parameters[_int64(self.slots[what].offset)])
                if kind in ("input", "output"):
                    return buffers[key].data
                return T.address_of(arena[dims.evaluate(memory.offsets[key], sizes, _int64, tirx.max)])

            for index, call in enumerate(calls):
                with T.If(tirx.all(begin <= _int64(index), _int64(index) < end)), T.Then():
                    arguments = [pointer(k) for k in call.storages] + list(sizes.values()) \
                        + [pointer(k) for k, _ in call.scratch]
                    T.evaluate(tvm.ir.Call(self.module.get_global_var(call.kernel), arguments, ret_ty="int32"))
        self.module[name] = ib.get().with_attr("global_symbol", name)


class _Views:
    """Reads and stores of one kernel's tensors."""

    def __init__(self, graph: Graph, g: Group, pointers: Mapping[str, Any], storage: Mapping[str, str],
                 places: Mapping[str, Place], sizes: Mapping[str, Any], touched: Sequence[str]):
        self.graph, self.group, self.sizes = graph, g, sizes
        self.inlined = set(g.inlined)
        # Declared here, ahead of all loops, so that every store and read is in their scope.
        shared: dict[tuple, Any] = {}
        for name in touched:
            key = storage[name], places.get(name), graph[name].type
            if key not in shared:
                shared[key] = self._declare(graph[name].type, pointers[storage[name]], places.get(name))
        self.buffers = {name: shared[storage[name], places.get(name), graph[name].type] for name in touched}

    def _declare(self, type: TensorType, pointer: Any, place: Place | None) -> Any:
        shape, dtype = self.shape(type) or (_int64(1),), DTYPES[type.dtype]
        if place is None:
            return T.decl_buffer(shape, dtype, data=pointer)
        whole = self.graph[place.root].type.shape
        strides = [dims.product(whole[axis + 1:]) for axis in range(len(whole))]
        offset: Dim = 0
        for start, stride in zip(place.starts, strides):
            offset = offset + start * stride
        return T.decl_buffer(shape, dtype, data=pointer, strides=[dims.evaluate(s, self.sizes, _int64) for s in strides],
                             elem_offset=dims.evaluate(offset, self.sizes, _int64))

    def shape(self, type: TensorType) -> tuple:
        return tuple(dims.evaluate(d, self.sizes, _int64) for d in type.shape)

    def operand(self, name: str) -> Operand:
        """How to read a node that is not computed by the group's tail: from memory, or computed on the way."""
        node = self.graph[name]
        if node.op == "constant" and not is_constant_array(node):
            value = REGISTRY["constant"].scalar(scalar, namespace(node.attrs))
            return Operand(node.type, self.shape(node.type), lambda idx: value)
        if name in self.inlined:
            sources = [self.operand(i) for i in node.inputs]
            return Operand(node.type, self.shape(node.type), lambda idx: REGISTRY[node.op].scalar(
                scalar, namespace(node.attrs), *[s.broadcast(idx) for s in sources]))
        buffer = self.buffers[name]
        return Operand(node.type, self.shape(node.type), lambda idx: buffer[tuple(idx) or (0,)], buffer=buffer)

    def store(self, idx: tuple, value: Any) -> None:
        # What is read from memory exists before the first store, which may overwrite it. What is computed from that is not
        # bound: TVM's analyzer fails on comparisons of bound vectors that read no memory.
        several = len(self.group.results) > 1
        values = {self.group.anchor: T.bind(value) if several else value}
        for name in self.group.members:
            node = self.graph[name]
            if name not in values:
                for source in node.inputs:
                    if source not in values:
                        read = self.operand(source).broadcast(idx)
                        values[source] = T.bind(read) if several and self.graph[source].op != "constant" else read
                values[name] = REGISTRY[node.op].scalar(scalar, namespace(node.attrs), *(values[i] for i in node.inputs))
        for name in self.group.results:
            T.buffer_store(self.buffers[name], values[name], list(idx) or [0])


def _with_copies(graph: Graph) -> Graph:
    """Every result in memory of its own: an output that is an input, a parameter, or another result too is copied."""
    graph = graph.copy()
    taken: set[str] = set()
    for table in (graph.outputs, graph.losses, graph.metrics, graph.updates):
        for key, name in table.items():
            root = view_root(graph, name)
            if is_leaf(graph[root]) or root in taken:
                node = graph[name]
                name = table[key] = graph.add(Node(graph.fresh(f"{name}/copy"), "copy", (name,), node.type, {},
                                                   node.origins))
                root = name
            taken.add(root)
    return graph


def _storages(graph: Graph, places: Mapping[str, Place]) -> dict[str, str]:
    """Whose memory each node is in: `input:x`, `output:p`, `parameter:w`, or `node:n` in the arena."""
    storage = {}
    results = {view_root(graph, n): f"output:{key}" for table in (graph.outputs, graph.losses, graph.metrics)
               for key, n in table.items()}
    updates = {view_root(graph, n): f"parameter:{key}" for key, n in graph.updates.items()}
    for node in graph.sorted():
        root = view_root(graph, node.name)
        if root in places:
            root = view_root(graph, places[root].root)
        leaf = graph[root]
        if leaf.op == "input":
            storage[node.name] = f"input:{root}"
        elif leaf.op in ("parameter", "constant"):
            storage[node.name] = f"parameter:{root}"
        else:
            storage[node.name] = results.get(root) or updates.get(root) or f"node:{root}"
    return storage


def _touched(graph: Graph, g: Group) -> list[str]:
    """Nodes whose memory the kernel reads or writes, in a fixed order."""
    inside = set(g.nodes)
    reads = [i for m in g.nodes for i in graph[m].inputs if i not in inside]
    reads = [i for i in reads if not (graph[i].op == "constant" and not is_constant_array(graph[i]))]
    return list(dict.fromkeys([*reads, *g.results]))


def _lifetimes(graph: Graph, calls: list[Call]) -> list[Lifetime]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    size: dict[str, Dim] = {}
    for step, call in enumerate(calls):
        for key in call.storages:
            if key.startswith("node:"):
                first.setdefault(key, step)
                last[key] = step
                size[key] = graph[key.partition(":")[2]].type.bytes
        for key, bytes in call.scratch:
            first[key] = last[key] = step
            size[key] = bytes
    return [Lifetime(key, size[key], first[key], last[key]) for key in first]


def _arguments(graph: Graph) -> list[dict[str, Any]]:
    """The tensors a driver takes before the parameters and the arena, in order."""
    out = []
    for node in graph.leaves("input"):
        out.append(_argument("input", node.name, node.type, node.attrs["role"]))
    for role, table in (("output", graph.outputs), ("loss", graph.losses), ("metric", graph.metrics)):
        out += [_argument("output", key, graph[name].type, role) for key, name in table.items()]
    return out


def _argument(kind: str, name: str, type: TensorType, role: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "role": role, "dtype": DTYPES[type.dtype], "shape": list(type.shape)}


def _describe(graph: Graph, call: Call, storage: Mapping[str, str], places: Mapping[str, Place], memory: Any) -> dict[str, Any]:
    """A kernel as the manifest lists it: what it computes for whom, what it costs, and where its result is."""
    g = call.group
    nodes = [graph[m] for m in g.nodes]
    sizes = {}
    for name in _touched(graph, g):
        sizes[storage[name], places.get(name)] = graph[name].type.bytes
    macs: Dim = 0
    flops: Dim = 0
    for node in nodes:
        types = [graph[i].type for i in node.inputs]
        macs = macs + REGISTRY[node.op].macs(namespace(node.attrs), types, node.type)
        flops = flops + REGISTRY[node.op].flops(namespace(node.attrs), types, node.type)
    total: Dim = 0
    for size in sizes.values():
        total = total + size
    results = []
    for name in g.results:
        kind, _, what = storage[name].partition(":")
        where = {"in": kind, "name": what} if kind != "node" else {
            "in": "arena", "offset": dims.as_json(memory.offsets[storage[name]])}
        shape = graph[name].type.shape
        if name in places:
            ends = [start + size for start, size in zip(places[name].starts, shape)]
            where["part"] = [[dims.as_json(s), dims.as_json(e)] for s, e in zip(places[name].starts, ends)]
            shape = graph[places[name].root].type.shape
        results.append({**where, "dtype": DTYPES[graph[name].type.dtype], "shape": [dims.as_json(d) for d in shape]})
    layers = sorted({o.layer for o in unite(n.origins for n in nodes)})
    return {"name": g.members[-1], "function": call.kernel, "members": g.nodes, "ops": [n.op for n in nodes],
            "layers": layers,
            "macs": dims.as_json(macs), "flops": dims.as_json(flops), "bytes": dims.as_json(total), "results": results}


def _bytes(shape: Sequence[Any], dtype: str, sizes: Mapping[str, Any]) -> Dim:
    """Bytes of a scratch buffer, its TVM shape read back as a dim."""
    total: Dim = tvm.DataType(dtype).itemsize
    for extent in shape:
        total = total * _as_dim(extent, {v: k for k, v in sizes.items()})
    return total


def _as_dim(expression: Any, names: Mapping[Any, str]) -> Dim:
    if isinstance(expression, int):
        return expression
    if isinstance(expression, tirx.IntImm):
        return int(expression.value)
    if isinstance(expression, tirx.Var):
        return dims.symbol(names[expression])
    operations = {tirx.Add: lambda x, y: x + y, tirx.Sub: lambda x, y: x - y, tirx.Mul: lambda x, y: x * y,
                  tirx.FloorDiv: lambda x, y: x // y}
    return operations[type(expression)](_as_dim(expression.a, names), _as_dim(expression.b, names))


def _int64(value: int) -> Any:
    return tirx.IntImm("int64", value)
