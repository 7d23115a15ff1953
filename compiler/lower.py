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

from compiler import dims, flat
from compiler.describe import describe, memory_of
from compiler.dims import Dim
from compiler.group import Launch, view_root
from compiler.ir import DTYPES, STORED, Graph, TensorType
from compiler.lifetimes import lifetimes, storages
from compiler.memory import ALIGNMENT, plan
from compiler.schedule.kernel import COUNTERS
from compiler.tensors import Tensors, int64, is_constant_array, touched
from runtime.format import CHOICES


@dataclass(frozen=True)
class Slot:
    """A parameter's place in the flat buffer, in bytes."""

    offset: int
    bytes: int


def layout(graphs: Sequence[Graph]) -> dict[str, Slot]:
    """Places of all parameters and constant arrays of several graphs, each aligned; the same name is the same tensor. Those
    that a graph wants side by side come first: only one of the graphs may have such wishes."""
    slots: dict[str, Slot] = {}
    top = 0
    first = [graph[path] for graph in graphs for paths in flat.neighbours(graph) for path in paths]
    for node in [*first, *(node for graph in graphs for node in graph.nodes())]:
        if node.name not in slots and (node.op == "parameter" or is_constant_array(node)):
            slots[node.name] = Slot(top, node.type.bytes)
            top += -(-node.type.bytes // ALIGNMENT) * ALIGNMENT
    return slots


@dataclass
class Call:
    """One kernel call of a driver: which function, or which functions do the same in other ways, and where their pointers
    come from (storage keys, in order; each takes the first so many of `scratch`)."""

    variants: dict[str, int]  # function: how many scratch buffers it takes
    storages: list[str]
    scratch: list[tuple[str, Dim]]
    launch: Launch


@dataclass
class Lowering:
    """The module under construction. `emit(kernels, batch)` is the target's schedule: it adds the statements of one call to
    the current frame, and counts on `batch` examples where it has to choose. With `variants` above 1 it is called again,
    with 1, 2, … as a third argument, for its next best choices."""

    emit: Any
    slots: Mapping[str, Slot]
    variants: int = 1
    counters: bool = False  # whether kernels may count with words that lie behind the parameters, zero between launches
    memory: bool = True  # whether entries of kernels say what memory they may touch, which is for the emulator
    module: tvm.IRModule = field(default_factory=lambda: tvm.IRModule({}))
    functions: dict[Any, str] = field(default_factory=dict)
    counting: set[str] = field(default_factory=set)  # functions that take the counters
    scratch: dict[str, dict[str, Dim]] = field(default_factory=dict)  # of each program: what its kernels need for themselves

    @property
    def top(self) -> int:
        """Bytes of all parameters and constant arrays, up to where counters lie."""
        return -(-max((s.offset + s.bytes for s in self.slots.values()), default=0) // ALIGNMENT) * ALIGNMENT

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the buffer that drivers are given."""
        if self.counters:
            return self.top + 4 * COUNTERS
        return max((s.offset + s.bytes for s in self.slots.values()), default=0)

    def program(self, name: str, graph: Graph, batch: int = 1) -> dict[str, Any]:
        """Adds the program `name` to the module; returns its entry of the manifest. `graph` holds primitives only, and says
        what shares a kernel (`passes/fuse_elementwise.py`); `batch` is the design batch."""
        symbols = sorted({s for n in graph.leaves("input") for d in n.type.shape for s in dims.symbols(d)})
        storage = storages(graph)
        calls = [self._kernel(graph, launch, symbols, storage, f"{name}.{i}", batch)
                 for i, launch in enumerate(graph.kernels)]
        memory = plan(lifetimes(graph, [call.scratch for call in calls]))
        self.scratch[name] = {call.launch.nodes[-1]: sum((bytes for _, bytes in call.scratch), 0) for call in calls}
        self._driver(name, graph, calls, symbols, memory)
        updates = [i for i, c in enumerate(calls) if c.launch.update]
        touchings = [{"memory": memory_of(graph, call.launch, storage, memory, self.slots, call.scratch) + self._counters(call)}
                     if self.memory else {} for call in calls]
        return {
            "symbol": name, "symbols": symbols,
            "arguments": [{**a, "shape": [dims.as_json(d) for d in a["shape"]]} for a in _arguments(graph)],
            "arena": dims.as_json(memory.size),
            "kernels": [{**describe(graph, next(iter(c.variants)), c.launch, storage, memory),
                         **({"variants": list(c.variants)} if len(c.variants) > 1 else {}),
                         **({"reads": _parameters(graph, c.launch)} if name == "prepare" else {}), **touching}
                        for c, touching in zip(calls, touchings)],
            "update_from": updates[0] if updates else len(calls),
            "choices": _words(calls),
        }

    # --- kernels -------------------------------------------------------------------------------------------------

    def _kernel(self, graph: Graph, launch: Launch, symbols: list[str], storage: Mapping[str, str], name: str,
                batch: int) -> Call:
        variants: dict[str, int] = {}
        scratch: list[tuple[str, Dim]] = []
        for rank in range(self.variants):
            call = self._variant(graph, launch, symbols, storage, name, batch, rank)
            needed = [bytes for _, bytes in call.scratch]
            known = [bytes for _, bytes in scratch] + [0] * (len(needed) - len(scratch))
            scratch = [(f"scratch:{name}.{i}", dims.maximum(a, b)) for i, (a, b) in enumerate(
                zip(known, needed + [0] * (len(known) - len(needed))))]
            variants |= {function: count for function, count in call.variants.items() if function not in variants}
        return Call(variants, call.storages, scratch, launch)

    def _variant(self, graph: Graph, launch: Launch, symbols: list[str], storage: Mapping[str, str], name: str,
                 batch: int, rank: int) -> Call:
        pointers: dict[str, Any] = {}
        scratch: list[tuple[str, Dim]] = []
        scratch_pointers: list[Any] = []
        with IRBuilder() as ib, T.prim_func(is_private=True, s_tir=True):
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            used = touched(graph, launch)
            for node in used:
                key = storage[node]
                if key not in pointers:
                    pointers[key] = T.arg(f"p{len(pointers)}", T.handle(STORED[graph[node].type.dtype]))
            sizes = {s: T.arg(s, T.int64()) for s in symbols}
            T.func_ret(PrimType("int32"))
            tensors = Tensors(graph, used, storage, pointers, sizes)

            def new_scratch(shape: tuple, dtype: str) -> Any:
                key = f"scratch:{name}.{len(scratch)}"
                scratch.append((key, _bytes(shape, dtype, sizes)))
                data = tirx.Var(f"s{len(scratch) - 1}", PointerType(PrimType(dtype), "global"))
                scratch_pointers.append(data)
                return T.decl_buffer(shape, dtype, data=data)

            counters: list[Any] = []

            def new_counters() -> Any:
                if not counters:
                    counters.append(tirx.Var("counters", PointerType(PrimType("uint32"), "global")))
                return T.decl_buffer((COUNTERS,), "uint32", data=counters[0])

            for result in launch.results:
                tensors.clear_halo(result)
            self.emit([tensors.kernel(name, g, new_scratch, new_counters if self.counters else None) for g in launch.groups], batch, *([rank] if rank else []))
            T.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
        built = ib.get()
        built = tirx.PrimFunc([*built.params, *counters, *scratch_pointers], built.body, built.ret_type, attrs=built.attrs)
        function = self._function(built)
        self.counting.update([function] if counters else [])
        return Call({function: len(scratch)}, list(pointers), scratch, launch)

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

    def _counters(self, call: Call) -> list[dict[str, Any]]:
        """The counters as a stretch of memory that a kernel may touch, if it does."""
        if self.counting.isdisjoint(call.variants):
            return []
        return [{"in": "parameters", "name": "", "offset": self.top, "bytes": 4 * COUNTERS, "write": True, "tensor": "counters"}]

    # --- driver --------------------------------------------------------------------------------------------------

    def _driver(self, name: str, graph: Graph, calls: list[Call], symbols: list[str], memory: Any) -> None:
        sizes = {s: tirx.Var(s, "int64") for s in symbols}
        with IRBuilder() as ib, T.prim_func(s_tir=True):
            T.func_name(name)
            buffers = {}
            for argument in _arguments(graph):
                shape = [dims.evaluate(d, sizes, int64) for d in argument["shape"]] or [int64(1)]
                buffers[f"{argument['kind']}:{argument['name']}"] = T.arg(
                    argument["name"].replace("/", "_").replace(".", "_"), T.buffer(shape, argument["dtype"]))
            parameters = T.arg("parameters", T.buffer((int64(max(self.parameter_bytes, 1)),), "uint8"))
            arena = T.arg("arena", T.buffer((tirx.max(dims.evaluate(memory.size, sizes, int64, tirx.max), int64(1)),), "uint8"))
            begin, end = T.arg("begin", T.int64()), T.arg("end", T.int64())
            choices = [T.arg(f"choices{i}", T.int64()) for i in range(_words(calls))]

            def pointer(key: str) -> Any:
                kind, _, what = key.partition(":")
                if kind == "parameter":
                    return T.address_of(parameters[int64(self.slots[what].offset)])
                if kind in ("input", "output"):
                    return buffers[key].data
                base, offset = flat.base_and_offset(key)
                return T.address_of(arena[dims.evaluate(memory.offsets[base] + offset, sizes, int64, tirx.max)])

            for index, call in enumerate(calls):
                arguments = [*map(pointer, call.storages), *sizes.values()]
                for variant, (kernel, scratch) in enumerate(call.variants.items()):
                    chosen = [] if len(call.variants) == 1 else [_chosen(choices, index) == int64(variant)]
                    with T.If(tirx.all(begin <= int64(index), int64(index) < end, *chosen)), T.Then():
                        counters = [T.address_of(parameters[int64(self.top)])] if kernel in self.counting else []
                        own = [pointer(key) for key, _ in call.scratch[:scratch]]
                        T.evaluate(tvm.ir.Call(self.module.get_global_var(kernel), [*arguments, *counters, *own], ret_ty="int32"))
        self.module[name] = ib.get().with_attr("global_symbol", name)


def _words(calls: Sequence[Call]) -> int:
    """How many numbers behind the range of kernels tell a driver which variants to call: none where there is no choice."""
    return -(-len(calls) // CHOICES) if any(len(call.variants) > 1 for call in calls) else 0


def _chosen(choices: Sequence[Any], index: int) -> Any:
    """The number of the variant of a kernel."""
    return (choices[index // CHOICES] >> int64(2 * (index % CHOICES))) & int64(3)


def _parameters(graph: Graph, launch: Launch) -> list[str]:
    """The parameters and constant arrays that a kernel reads."""
    roots = (view_root(graph, i) for member in launch.nodes for i in graph[member].inputs)
    return sorted({root for root in roots if graph[root].op == "parameter" or is_constant_array(graph[root])})


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
