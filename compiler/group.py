"""Which nodes share a kernel: an anchor with the element-wise work behind it, and cheap element-wise work before it.

A group has one anchor (its first node that is not element-wise, or its first node) and a tail of element-wise nodes of the
anchor's shape. Slices that cut a convolution's result into its channels belong to the tail: each goes to memory of its
own, with element-wise work of its own behind it. Every member that somebody outside reads is a result of the group.
Reshapes are views of memory and belong to no group. A launch is one call: groups that do not need each other.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace

import networkx as nx

from compiler.ir import Graph, Node
from compiler.ops import REGISTRY

VIEWS = ("reshape", "flatten")
READS_ONCE = ("conv", "conv_weight_grad", "conv_input_grad", "sum", "mean", "max", "transpose", "pad", "slice")
# Cheaper to compute again in each of a few reads than to keep in memory.
READS_FEW = {"channel_sum": ("square",)}
SPLIT = ("conv", "fft_conv", "winograd_conv")  # whose schedules know which channels go to which slice
# Long polynomials that use their operand many times over: TVM's passes take the product of the uses along a chain, so one
# such op never reads another (nor what another became) within a kernel.
LONG = ("exp", "tanh", "sigmoid", "silu", "gelu", "erf", "elu", "selu", "softplus")


@dataclass
class Group:
    """Nodes around one anchor. `inlined` are element-wise producers that the anchor computes while it reads its operands;
    `staged` are groups whose result the anchor reads from a band in cache that is made just before, never from memory."""

    anchor: str
    members: list[str]
    inlined: list[str] = field(default_factory=list)
    staged: list[Group] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    update: bool = False  # computes new values of parameters, after all gradients

    @property
    def nodes(self) -> list[str]:
        return [*(node for stage in self.staged for node in stage.nodes), *self.inlined, *self.members]

    def copy(self) -> Group:
        return replace(self, members=list(self.members), inlined=list(self.inlined), results=list(self.results),
                       staged=[stage.copy() for stage in self.staged])


@dataclass
class Launch:
    """One kernel call: groups none of which reads what another writes."""

    groups: list[Group]

    @property
    def nodes(self) -> list[str]:
        return [node for group in self.groups for node in group.nodes]

    @property
    def results(self) -> list[str]:
        return [node for group in self.groups for node in group.results]

    @property
    def update(self) -> bool:
        return any(group.update for group in self.groups)

    def copy(self) -> Launch:
        return Launch([group.copy() for group in self.groups])


def is_view(node: Node) -> bool:
    return node.op in VIEWS


def is_leaf(node: Node) -> bool:
    return node.op in ("input", "parameter", "constant")


def view_root(graph: Graph, name: str) -> str:
    """The node whose memory a chain of views shows."""
    while is_view(graph[name]):
        name = graph[name].inputs[0]
    return name


def memory_read(graph: Graph, name: str, computed: Container[str]) -> set[str]:
    """The leaves and computed nodes whose memory a node reads: through views, and through what no kernel computes because
    it is only a place (concats, slices, flat tensors)."""
    found: set[str] = set()
    waiting = list(graph[name].inputs)
    while waiting:
        root = view_root(graph, waiting.pop())
        if root in computed or is_leaf(graph[root]):
            found.add(root)
        else:
            waiting += graph[root].inputs
    return found


def group(graph: Graph, fuse: bool = True) -> list[Group]:
    """The kernels of a graph of primitives, in an order in which they can run; updates of parameters come last. Without
    `fuse`, one for each node."""
    order = [n for n in graph.sorted() if not is_leaf(n) and not is_view(n)]
    before = _before_updates(graph)
    home: dict[str, Group] = {}
    groups: list[Group] = []
    rank: dict[int, int] = {}
    long: set[str] = set()  # nodes with a long op behind them in their kernel
    part: dict[str, str] = {}  # the slice that a node of a tail is, or comes behind
    for node in order:
        host = (_splits(graph, node, home, part) or _host(graph, node, home, rank, before, part)) if fuse else None
        if host is not None and node.op in LONG and any(i in long and home[i] is host for i in node.inputs):
            host = None
        if node.op in LONG or host is not None and any(i in long and home[i] is host for i in node.inputs):
            long.add(node.name)
        if host is None:
            host = Group(node.name, [], update=node.name not in before)
            rank[id(host)] = len(groups)
            groups.append(host)
        elif node.op == "slice":
            part[node.name] = node.name
        elif behind := next((part[i] for i in node.inputs if i in part and home[i] is host), None):
            part[node.name] = behind
        host.members.append(node.name)
        home[node.name] = host
    for g in groups:
        g.results = _results(graph, g)
    if fuse:
        groups = _inline_producers(graph, groups, home)
    return _ordered(graph, groups, home)


def _before_updates(graph: Graph) -> set[str]:
    """Everything that runs before parameters change: what results other than updates need, and the gradients."""
    seeds = [*graph.outputs.values(), *graph.losses.values(), *graph.metrics.values(), *graph.gradients.values()]
    return set(seeds).union(*(nx.ancestors(graph.nx, seed) for seed in set(seeds)))


def segments(graph: Graph, whole: str) -> list[Node]:
    """The slices that cut the channels of `whole` into parts, in order; empty unless they are all that reads it."""
    readers = graph.users(whole)
    if whole in graph.results() or not isinstance(graph[whole].type.shape[1], int) or not all(u.op == "slice" and u.attrs["axis"] == 1 for u in readers):
        return []
    readers.sort(key=lambda u: u.attrs["start"])
    cuts = [0, *(u.attrs["stop"] for u in readers)]
    complete = cuts[-1] == graph[whole].type.shape[1] and [u.attrs["start"] for u in readers] == cuts[:-1]
    return readers if complete and len(readers) > 1 else []


def _splits(graph: Graph, node: Node, home: dict[str, Group], part: dict[str, str]) -> Group | None:
    """The group of a convolution whose result `node` is a part of, if all its readers are such parts."""
    if node.op != "slice" or node.inputs[0] not in home or node.inputs[0] in part:
        return None
    host = home[node.inputs[0]]
    return host if graph[host.anchor].op in SPLIT and segments(graph, node.inputs[0]) else None


def _host(graph: Graph, node: Node, home: dict[str, Group], rank: dict[int, int], before: set[str],
          part: dict[str, str]) -> Group | None:
    """The group whose tail `node` can join: one that makes an operand of the same shape, unless another operand comes from
    a later group, or from another part of the same one. So no group ever reads a later one, and kernels cannot wait for
    each other."""
    if not REGISTRY[node.op].pointwise or _inline_again(graph, node):
        return None
    hosts = [home[i] for i in node.inputs if i in home and graph[i].type.shape == node.type.shape
             and (i in before) == (node.name in before)]
    roots = [view_root(graph, i) for i in node.inputs]
    latest = max((rank[id(home[r])] for r in roots if r in home), default=-1)
    host = next((host for host in hosts if rank[id(host)] == latest), None)
    return host if len({part.get(r) for r in roots if home.get(r) is host}) < 2 else None


def _inline_again(graph: Graph, node: Node) -> bool:
    """Whether the one reader of a node computes it again rather than read it from memory."""
    users = graph.users(node.name)
    return len(users) == 1 and node.op in READS_FEW.get(users[0].op, ()) and node.name not in graph.results()


def _results(graph: Graph, g: Group) -> list[str]:
    wanted = set(graph.results())
    inside = set(g.members)
    return [m for m in g.members if m in wanted or any(u not in inside for u in graph.nx.successors(m))]


def _inline_producers(graph: Graph, groups: list[Group], home: dict) -> list[Group]:
    """Puts an element-wise group that has a single reader into that reader, where the reader reads each element once."""
    wanted = set(graph.results())
    gone: set[int] = set()
    for g in groups:
        anchor = graph[g.anchor]
        for source in dict.fromkeys(anchor.inputs):
            producer = home.get(source)
            if anchor.op not in READS_ONCE and not _inline_again(graph, graph[source]):
                continue
            if (producer is None or producer is g or id(producer) in gone or source in wanted
                    or not all(REGISTRY[graph[m].op].pointwise for m in producer.members) or producer.inlined
                    or producer.results != [source] or {u.name for u in graph.users(source)} != {g.anchor}
                    or producer.update != g.update):
                continue
            g.inlined += producer.members
            gone.add(id(producer))
            for member in producer.members:
                home[member] = g
    return [g for g in groups if id(g) not in gone]


def _ordered(graph: Graph, groups: list[Group], home: dict) -> list[Group]:
    """Producers before readers; whoever reads a parameter before the kernel that overwrites it; updates last."""
    index = {id(g): i for i, g in enumerate(groups)}
    edges = nx.DiGraph()
    edges.add_nodes_from(range(len(groups)))
    readers: dict[str, set[int]] = {}
    for i, g in enumerate(groups):
        for member in g.nodes:
            for source in graph[member].inputs:
                root = view_root(graph, source)
                if root in home and home[root] is not g:
                    edges.add_edge(index[id(home[root])], i)
                readers.setdefault(root, set()).add(i)
    for parameter, value in graph.updates.items():
        writer = home.get(view_root(graph, value))
        if writer is not None:
            edges.add_edges_from((r, index[id(writer)]) for r in readers.get(parameter, ()) if r != index[id(writer)])
    rank = {i: (groups[i].update, i) for i in range(len(groups))}
    return [groups[i] for i in nx.lexicographical_topological_sort(edges, key=rank.__getitem__)]
