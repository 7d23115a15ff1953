"""The checks every graph must pass, after elaboration and after each pass."""

from __future__ import annotations

import networkx as nx

from compiler.group import is_leaf, is_view, memory_read
from compiler.ir import Graph, Node, Origin
from compiler.ops import REGISTRY, OpError, namespace


class BrokenGraph(Exception):
    """A graph that a pass has broken: a bug of the compiler, never of the user."""


def verify(graph: Graph, before: Graph | None = None) -> Graph:
    """Raises BrokenGraph unless: the graph is acyclic, edges and `inputs` agree, every op exists, every result type is
    what the op infers, results exist, kernels (once chosen) compute every node once and read only what is made before
    them; and, given the graph `before` a pass, unless outputs kept their types and no origin of a node that still matters
    was lost. Returns the graph."""
    if not nx.is_directed_acyclic_graph(graph.nx):
        raise BrokenGraph(f"{graph.name} has a cycle: {nx.find_cycle(graph.nx)}")
    for node in graph.nodes():
        edges = {key: source for source, _, key in graph.nx.in_edges(node.name, keys=True)}
        if edges != dict(enumerate(node.inputs)):
            raise BrokenGraph(f"edges into {node.name} disagree with its inputs {node.inputs}")
        if node.op not in REGISTRY:
            raise BrokenGraph(f"{node.name} has the unknown op {node.op}")
        if REGISTRY[node.op].has("infer"):
            try:
                type = REGISTRY[node.op].infer(namespace(node.attrs), *[graph[i].type for i in node.inputs])
            except OpError as problem:
                raise BrokenGraph(f"{node.name}: {problem}") from problem
            if type != node.type:
                raise BrokenGraph(f"{node.name} says {node.type}, its op says {type}")
    for name in graph.results():
        if name not in graph:
            raise BrokenGraph(f"the result {name} does not exist")
    for parameter, value in graph.updates.items():
        if parameter not in graph or graph[parameter].type != graph[value].type:
            raise BrokenGraph(f"the update of {parameter} has another type")
    if graph.kernels is not None:
        _verify_kernels(graph)
    if before is not None:
        _compare(graph, before)
    return graph


def _verify_kernels(graph: Graph) -> None:
    names = [name for launch in graph.kernels for name in launch.nodes]
    computed = set(names)
    if len(names) != len(computed):
        raise BrokenGraph(f"{sorted({n for n in computed if names.count(n) > 1})} are computed twice")
    missing = {n.name for n in graph.nodes() if not is_leaf(n) and not is_view(n) and not _is_place(graph, n)} - computed
    if missing:
        raise BrokenGraph(f"no kernel computes {sorted(missing)}")
    made: set[str] = set()
    for launch in graph.kernels:
        for group in launch.groups:
            inside = set(group.nodes)
            early = {s for m in group.nodes for s in memory_read(graph, m, computed) if s not in inside | made and not is_leaf(graph[s])}
            if early:
                raise BrokenGraph(f"the kernel of {group.anchor} reads {sorted(early)}, which no kernel before it makes")
        made.update(launch.nodes)
    for name, place in graph.places.items():
        whole, part = graph[place.root].type.shape, graph[name].type.shape
        for start, size, extent in zip(place.starts, part, whole):
            if isinstance(start + size, int) and isinstance(extent, int) and not 0 <= start <= start + size <= extent:
                raise BrokenGraph(f"{name} does not lie within {place.root}")


def _is_place(graph: Graph, node: Node) -> bool:
    """Whether memory can hold a node although no kernel computes it."""
    if node.op == "concat":
        return set(node.inputs) <= graph.places.keys() or all(graph[i].op == "parameter" for i in node.inputs)
    return node.op in ("flat", "flat_part") or node.op == "slice" and (node.name in graph.places or not graph.users(node.name))


def _compare(graph: Graph, before: Graph) -> None:
    for table in ("outputs", "losses", "metrics"):
        old, new = getattr(before, table), getattr(graph, table)
        if {k: before[n].type for k, n in old.items()} != {k: graph[n].type for k, n in new.items()}:
            raise BrokenGraph(f"{table} changed from {sorted(old)} to {sorted(new)} or changed their types")
    if before.updates.keys() - graph.updates.keys():
        raise BrokenGraph(f"the updates of {sorted(before.updates.keys() - graph.updates.keys())} were lost")
    lost = _origins(before) - _origins(graph)
    if lost:
        raise BrokenGraph(f"the origins {sorted(lost)} were lost")


def _origins(graph: Graph) -> set[Origin]:
    return {o for name in graph.needed(graph.results()) for o in graph[name].origins}
