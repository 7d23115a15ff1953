"""The tensors of one kernel as schedules meet them: how to read an operand, how to finish and store a result.

Reads and stores take logical indices; where an element lies (part of another tensor, blocked channels, behind a halo) is
decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler import dims, scalar
from compiler.dims import Dim
from compiler.group import Group, Launch
from compiler.ir import STORED, Graph, Node
from compiler.layout import PLAIN, Layout
from compiler.ops import REGISTRY, Operand, namespace
from compiler.schedule.kernel import Kernel


def is_constant_array(node: Node) -> bool:
    """Whether a constant has to live in memory (single numbers are written into the code)."""
    return node.op == "constant" and node.attrs["value"].size != 1


def int64(value: int) -> Any:
    return tirx.IntImm("int64", value)


def layout_of(graph: Graph, name: str) -> Layout:
    """How the memory that `name` lies in is laid out."""
    place = graph.places.get(name)
    return graph.layouts.get(place.root if place else name, PLAIN)


def touched(graph: Graph, launch: Launch) -> list[str]:
    """Nodes whose memory the kernel reads or writes, in a fixed order."""
    inside = set(launch.nodes)
    reads = [i for m in launch.nodes for i in graph[m].inputs if i not in inside]
    reads = [i for i in reads if not (graph[i].op == "constant" and not is_constant_array(graph[i]))]
    return list(dict.fromkeys([*reads, *launch.results]))


class Tensors:
    """Buffers over the pointers of one kernel. storage: whose pointer each node lies behind; sizes: values of symbols."""

    def __init__(self, graph: Graph, touched: Iterable[str], storage: Mapping[str, str], pointers: Mapping[str, Any],
                 sizes: Mapping[str, Any]):
        self.graph, self.sizes = graph, sizes
        # Declared here, ahead of all loops, so that every store and read is in their scope.
        shared: dict[tuple, Any] = {}
        self.buffers: dict[str, Any] = {}
        for name in touched:
            key = storage[name], graph.places.get(name), graph[name].type, layout_of(graph, name)
            if key not in shared:
                shared[key] = self._declare(name, pointers[storage[name]])
            self.buffers[name] = shared[key]

    def kernel(self, name: str, g: Group, scratch: Callable, counters: Callable | None = None) -> Kernel:
        """A group as its schedule gets it."""
        anchor = self.graph[g.anchor]
        staged = {anchor.inputs.index(stage.members[-1]): self.kernel(f"{name}/{stage.anchor}", stage, scratch)
                  for stage in g.staged}
        tail = _Tail(self, g)
        return Kernel(name, REGISTRY[anchor.op], namespace(anchor.attrs),
                      [self.operand(i, set(g.inlined)) for i in anchor.inputs], anchor.type, self.shape(anchor.type.shape),
                      layout_of(self.graph, tail.results[0] if tail.results else g.anchor), tail.segments, tail.store,
                      tail.finish, scratch, staged, tail.arithmetic, counters)

    def shape(self, shape: Sequence[Dim]) -> tuple:
        return tuple(dims.evaluate(d, self.sizes, int64) for d in shape)

    def operand(self, name: str, inlined: set[str]) -> Operand:
        """How to read a node: from memory, or computed on the way. One that is staged cannot be read here."""
        node, shape = self.graph[name], self.shape(self.graph[name].type.shape)
        if node.op == "constant" and not is_constant_array(node):
            value = REGISTRY["constant"].scalar(scalar, namespace(node.attrs))
            return Operand(node.type, shape, lambda idx: value)
        if name in inlined:
            sources = [self.operand(i, inlined) for i in node.inputs]
            # In which order neighbours of the sources lie, where they are as this.
            layout = next((s.layout for s in sources if s.layout.order and s.type.shape == node.type.shape), PLAIN)
            return Operand(node.type, shape, lambda idx: REGISTRY[node.op].scalar(
                scalar, namespace(node.attrs), *[s.broadcast(idx) for s in sources]), layout=layout)
        buffer, layout = self.buffers.get(name), layout_of(self.graph, name)
        return Operand(node.type, shape, lambda idx: scalar.widened(buffer[layout.physical(idx) or (0,)], node.type.dtype),
                       buffer, layout)

    def store(self, name: str, idx: Sequence[Any], value: Any) -> None:
        layout = layout_of(self.graph, name)
        T.buffer_store(self.buffers[name], scalar.narrowed(value, self.graph[name].type.dtype), list(layout.physical(idx)) or [0])

    def clear_halo(self, name: str) -> None:
        """Writes the zeros around the maps of a result of this kernel."""
        top, left, bottom, right = layout_of(self.graph, name).halo
        if not (top or left or bottom or right):
            return
        buffer = self.buffers[name]
        height, width = self.graph[name].type.shape[2:4]
        lanes = [buffer.shape[4]] if len(buffer.shape) == 5 else []
        bands = [(-top, top, -left, left + width + right), (height, bottom, -left, left + width + right),
                 (0, height, -left, left), (0, height, width, right)]
        with T.serial(0, buffer.shape[0]) as n, T.serial(0, buffer.shape[1]) as c:
            for y0, rows, x0, columns in bands:
                if rows and columns:
                    with T.serial(0, int64(rows)) as y, T.serial(0, int64(columns)) as x:
                        if lanes:
                            with T.vectorized(0, lanes[0]) as lane:
                                T.buffer_store(buffer, tirx.const(0, buffer.dtype), [n, c, y + y0, x + x0, lane])
                        else:
                            T.buffer_store(buffer, tirx.const(0, buffer.dtype), [n, c, y + y0, x + x0])

    def _declare(self, name: str, pointer: Any) -> Any:
        """The buffer of a node: its own extents, over the strides of what is allocated."""
        type, place, layout = self.graph[name].type, self.graph.places.get(name), layout_of(self.graph, name)
        dtype = STORED[type.dtype]
        if place is None and layout == PLAIN:
            return T.decl_buffer(self.shape(type.shape) or (int64(1),), dtype, data=pointer)
        strides = layout.strides(self.graph[place.root].type.shape if place else type.shape)
        shape = replace(layout, halo=(0, 0, 0, 0)).extents(type.shape)
        offset: Dim = 0
        for start, stride in zip(origin(layout, place.starts if place else (0,) * type.rank), strides):
            offset = offset + start * stride
        return T.decl_buffer(self.shape(shape), dtype, data=pointer, strides=list(self.shape(strides)),
                             elem_offset=self.shape([offset])[0])


def origin(layout: Layout, starts: Sequence[Dim]) -> tuple[Dim, ...]:
    """Where, in what is allocated, the element at logical index `starts` lies."""
    at = list(layout.physical(starts))
    if any(layout.halo):
        at[2], at[3] = at[2] + layout.halo[0], at[3] + layout.halo[1]
    return tuple(at)


def _arithmetic(graph: Graph, node: Node) -> bool:
    """Whether an element-wise node makes its result by sums, products and maxima of f32 elements."""
    if {node.type.dtype, *(graph[i].type.dtype for i in node.inputs)} != {"f32"}:
        return False
    operands = [tirx.Var(f"x{i}", "float32") for i in range(len(node.inputs))]
    waiting = [REGISTRY[node.op].scalar(scalar, namespace(node.attrs), *operands)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, tirx.Add | tirx.Sub | tirx.Mul | tirx.Max | tirx.Min):
            waiting += [part.a, part.b]
        elif not isinstance(part, tirx.Var | tirx.FloatImm):
            return False
    return True


class _Tail:
    """The element-wise work behind an anchor, and where its results go.

    segments: the channel ranges [start, stop) that slices in the tail cut the result into; none as a rule.
    """

    def __init__(self, tensors: Tensors, g: Group):
        self.tensors, self.graph, self.group = tensors, tensors.graph, g
        self.results = g.results
        cuts = [m for m in g.members if m != g.anchor and self.graph[m].op == "slice"]
        self.part: dict[str, str] = {}  # the slice a member is, or comes behind
        for m in g.members:
            behind = m if m in cuts else next((self.part[i] for i in self.graph[m].inputs if i in self.part), None)
            if behind is not None:
                self.part[m] = behind
        self.cuts = sorted(cuts, key=lambda m: self.graph[m].attrs["start"])
        self.segments = [(self.graph[m].attrs["start"], self.graph[m].attrs["stop"]) for m in self.cuts]

    @property
    def arithmetic(self) -> bool:
        """Whether all of it is f32 sums, products and maxima."""
        if self.graph[self.group.anchor].type.dtype != "f32":
            return False
        nodes = [self.graph[name] for name in [*self.group.inlined, *self.group.members] if name != self.group.anchor]
        return all(_arithmetic(self.graph, node) for node in nodes if node.name not in self.cuts)

    def finish(self, idx: Sequence[Any], value: Any) -> Any:
        """The value of the last member at `idx`, from that of the anchor."""
        return self._values(idx, {self.group.anchor: value}, None, bind=False)[self.group.members[-1]]

    def store(self, idx: Sequence[Any], value: Any, segment: int | None = None) -> None:
        """Emits the tail of the anchor's `value` at `idx` and the stores of all results; of one segment where it is known
        which channels `idx` is among."""
        # What is read from memory exists before the first store, which may overwrite it. What is computed from that is not
        # bound: TVM's analyzer fails on comparisons of bound vectors that read no memory.
        if self.segments and segment is None:
            for number, (start, stop) in enumerate(self.segments):
                with T.If(tirx.all(idx[1] >= int64(start), idx[1] < int64(stop))), T.Then():
                    self.store(idx, value, number)
            return
        several = len(self.results) > 1 and segment is None
        values = {self.group.anchor: T.bind(value) if several else value}
        cut = None if segment is None else self.cuts[segment]
        values = self._values(idx, values, cut, several)
        for name in self.results:
            if self.part.get(name) == cut:
                self.tensors.store(name, self._shifted(idx, cut), values[name])

    def _values(self, idx: Sequence[Any], values: dict[str, Any], cut: str | None, bind: bool) -> dict[str, Any]:
        inlined = set(self.group.inlined)
        for name in self.group.members:
            node = self.graph[name]
            if name in values or self.part.get(name, cut) != cut:
                continue
            if name == cut:
                values[name] = values[node.inputs[0]]
                continue
            at = self._shifted(idx, self.part.get(name))
            for source in node.inputs:
                if source not in values:
                    read = self.tensors.operand(source, inlined).broadcast(at)
                    values[source] = T.bind(read) if bind and self.graph[source].op != "constant" else read
            values[name] = REGISTRY[node.op].scalar(scalar, namespace(node.attrs), *(values[i] for i in node.inputs))
        return values

    def _shifted(self, idx: Sequence[Any], cut: str | None) -> Sequence[Any]:
        """The index within a slice."""
        if cut is None or not self.graph[cut].attrs["start"]:
            return idx
        return [idx[0], idx[1] - int64(self.graph[cut].attrs["start"]), *idx[2:]]
