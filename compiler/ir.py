"""The graph IR: typed nodes in a `networkx.MultiDiGraph`, each with the layers of the source it came from.

A node is one operation with one result; nodes are named, and a node's name is how others refer to it. Leaves are `input`,
`parameter` and `constant`. What the graph is for stands in `outputs`, `losses`, `metrics` (name → node) and `updates`
(parameter node → node whose value it takes when the program ends). A training graph also says in `gradients` which node is
the gradient of which parameter: what comes after those is the optimizer's.

What is decided about memory and kernels stands beside the nodes: `layouts` (node → how it lies in memory, where not as its
shape says), and, once kernels are chosen, `kernels` (what shares a call) and `places` (node → the part of another's memory
it lies in).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401  (numpy knows bfloat16 from here on)
import networkx as nx
import numpy as np

from compiler import dims
from compiler.dims import Dim
from compiler.layout import Layout

if TYPE_CHECKING:
    from compiler.group import Launch
    from compiler.views import Place

DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32",
          "i8": "int8", "u8": "uint8", "u32": "uint32", "bool": "bool"}
FLOATS = ("f64", "f32", "f16", "bf16")
LOW = ("f16", "bf16")  # what memory holds only: kernels compute in f32, and round where they store
DECLARED = tuple(word for word in DTYPES if word != "bf16")  # what a text may name: precision is not structure
STORED = {**DTYPES, "bf16": "uint16"}  # the element type of memory


@dataclass(frozen=True)
class TensorType:
    """Element type (a word of DTYPES) and shape, outermost dim first."""

    dtype: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return dims.product(self.shape)

    @property
    def bytes(self) -> Dim:
        return self.size * self.itemsize

    @property
    def itemsize(self) -> int:
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def with_shape(self, *shape: Dim) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, order=True)
class Origin:
    """A layer of the source: the user's path to it (`i3a/b3/reduce`) and the place of its text (`file:line:column`)."""

    layer: str
    place: str


@dataclass(frozen=True)
class Node:
    """One operation. `inputs` are names of nodes, in order; `attrs` hold plain data (numbers, strings, tuples, arrays)."""

    name: str
    op: str
    inputs: tuple[str, ...]
    type: TensorType
    attrs: dict[str, Any] = field(default_factory=dict, hash=False)
    origins: frozenset[Origin] = frozenset()


def node_key(node: Node) -> Hashable:
    """Equal for nodes that compute the same of the same operands."""
    return node.op, node.inputs, node.type, attrs_key(node)


def attrs_key(node: Node) -> Hashable:
    """Equal for equal attributes, arrays among them."""
    return tuple(sorted((key, _frozen(value)) for key, value in node.attrs.items()))


def _frozen(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return tuple(map(_frozen, value)) if isinstance(value, (tuple, list)) else value


class Graph:
    """Nodes in a MultiDiGraph (`nx`): edge u → v with key i says that u is input i of v."""

    def __init__(self, name: str = "net"):
        self.name = name
        self.nx = nx.MultiDiGraph()
        self.outputs: dict[str, str] = {}
        self.losses: dict[str, str] = {}
        self.metrics: dict[str, str] = {}
        self.updates: dict[str, str] = {}
        self.gradients: dict[str, str] = {}
        self.layouts: dict[str, Layout] = {}
        self.kernels: list[Launch] | None = None
        self.places: dict[str, Place] = {}

    # --- reading -------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        return self.nx.nodes[name]["node"]

    def __contains__(self, name: str) -> bool:
        return name in self.nx

    def __len__(self) -> int:
        return len(self.nx)

    def nodes(self) -> Iterator[Node]:
        """All nodes, in the order they were added."""
        return (data["node"] for _, data in self.nx.nodes(data=True))

    def sorted(self) -> list[Node]:
        """All nodes, inputs before users; among the ready ones the one that was added first comes first."""
        nodes = list(self.nodes())  # passes ask for this order all the time: networkx takes three times as long
        users: dict[str, list[int]] = {node.name: [] for node in nodes}
        waiting = [0] * len(nodes)
        for at, node in enumerate(nodes):
            for source in users.keys() & set(node.inputs):
                users[source].append(at)
                waiting[at] += 1
        ready = [at for at, count in enumerate(waiting) if not count]
        found = []
        while ready:
            found.append(nodes[heappop(ready)])
            for at in users[found[-1].name]:
                waiting[at] -= 1
                if not waiting[at]:
                    heappush(ready, at)
        if len(found) < len(nodes):
            raise nx.NetworkXUnfeasible("the graph has a cycle")
        return found

    def users(self, name: str) -> list[Node]:
        """The nodes that read `name`, each once."""
        return [self[user] for user in self.nx.successors(name)]

    def leaves(self, op: str) -> list[Node]:
        """The nodes of a leaf op: "input", "parameter" or "constant"."""
        return [node for node in self.nodes() if node.op == op]

    def needed(self, names: Iterable[str]) -> set[str]:
        """`names` and every node they depend on."""
        found = set(names)
        waiting = list(found)
        while waiting:
            fresh = self.nx.pred[waiting.pop()].keys() - found
            found |= fresh
            waiting += fresh
        return found

    def results(self) -> list[str]:
        """The nodes this graph exists for."""
        return [*self.outputs.values(), *self.losses.values(), *self.metrics.values(), *self.updates.values()]

    # --- writing -------------------------------------------------------------------------------------------------

    def add(self, node: Node) -> str:
        """Adds a node whose inputs are there already; returns its name."""
        if node.name in self.nx:
            raise ValueError(f"there is a node {node.name!r} already")
        missing = [i for i in node.inputs if i not in self.nx]
        if missing:
            raise ValueError(f"node {node.name!r} reads {missing}, which do not exist")
        self.nx.add_node(node.name, node=node)
        for position, source in enumerate(node.inputs):
            self.nx.add_edge(source, node.name, key=position)
        return node.name

    def update(self, name: str, **changes: Any) -> Node:
        """Replaces fields of a node (not its name); edges follow a change of `inputs`."""
        node = replace(self[name], **changes)
        if "inputs" in changes:
            self.nx.remove_edges_from([(u, v, k) for u, v, k in self.nx.in_edges(name, keys=True)])
            for position, source in enumerate(node.inputs):
                self.nx.add_edge(source, name, key=position)
        self.nx.nodes[name]["node"] = node
        return node

    def replace_uses(self, old: str, new: str) -> None:
        """Every reader of `old`, results included, reads `new` instead."""
        for user in self.users(old):
            if user.name != new:
                self.update(user.name, inputs=tuple(new if i == old else i for i in user.inputs))
        for table in (self.outputs, self.losses, self.metrics, self.updates, self.gradients):
            for key, value in table.items():
                if value == old:
                    table[key] = new

    def remove(self, name: str) -> None:
        """Removes a node that nothing reads."""
        if self.nx.out_degree(name):
            raise ValueError(f"node {name!r} is still read")
        self.nx.remove_node(name)

    def fresh(self, name: str) -> str:
        """`name`, or `name` with the first number that makes it unique (where some were removed, a later one)."""
        if name not in self.nx:
            return name
        taken, free = 1, 2
        while f"{name}.{free}" in self.nx:
            taken, free = free, 2 * free
        while free - taken > 1:
            middle = (taken + free) // 2
            taken, free = (middle, free) if f"{name}.{middle}" in self.nx else (taken, middle)
        return f"{name}.{free}"

    def take(self, other: Graph) -> None:
        """Becomes, in place, what `other` is."""
        name = self.name
        self.__dict__.update(other.copy().__dict__)
        self.name = name

    def copy(self) -> Graph:
        """A graph that can be changed without changing this one (nodes are immutable and shared)."""
        other = Graph(self.name)
        other.nx = self.nx.copy()
        for table in ("outputs", "losses", "metrics", "updates", "gradients"):
            setattr(other, table, dict(getattr(self, table)))
        other.layouts, other.places = dict(self.layouts), dict(self.places)
        other.kernels = None if self.kernels is None else [launch.copy() for launch in self.kernels]
        return other

    def prune(self, keep: Callable[[Node], bool] = lambda node: False) -> Graph:
        """Drops, in place, nodes no result depends on, except those that `keep` names; returns self."""
        wanted = self.needed([*self.results(), *(node.name for node in self.nodes() if keep(node))])
        self.nx.remove_nodes_from([name for name in self.nx if name not in wanted])
        return self


def unite(origins: Iterable[frozenset[Origin]]) -> frozenset[Origin]:
    """All origins together."""
    return frozenset().union(*origins)
