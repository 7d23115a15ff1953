"""Two results of one reading: kernels that go through the same tensor become one call, where the target's schedule makes both
results in one go.

The maximum of a window and its place; the gradient of a convolution's weight and that of its bias.
"""

from __future__ import annotations

from compiler import dims
from compiler.group import Group, Launch, is_leaf, memory_read
from compiler.ir import Graph, Node
from compiler.passes.base import Context, Rewrite, graph_pass, layers


@graph_pass("share_reads")
def share_reads(graph: Graph, context: Context) -> list[Rewrite]:
    """Joins kernels that read one tensor for two results."""
    done: list[Rewrite] = []
    for first, second in sorted(context.machine.pairs):
        readers: dict[str, list[Group]] = {}
        for launch in graph.kernels:
            group = launch.groups[0]
            if len(launch.groups) == 1 and graph[group.anchor].op in (first, second) and not group.inlined and not group.staged:
                readers.setdefault(graph[group.anchor].inputs[0], []).append(group)
        for groups in readers.values():
            for one in [g for g in groups if graph[g.anchor].op == first]:
                other = next((g for g in groups if _alike(graph, graph[one.anchor], g, second)), None)
                if other is not None and _join(graph, one, other):
                    groups.remove(other)
                    nodes = graph[one.anchor], graph[other.anchor]
                    done.append(Rewrite(f"{nodes[0].name} and {nodes[1].name} in one reading", layers(*nodes), True,
                                        _saved(graph, nodes[1], context)))
    return done


def _alike(graph: Graph, one: Node, group: Group, op: str) -> bool:
    """Whether the anchor of `group` is the second result that `op` makes of what `one` reads."""
    other = graph[group.anchor]
    if other.op != op or group.members != [group.anchor]:
        return False
    if op == "sum":
        axes = (0, *range(2, graph[one.inputs[0]].type.rank))
        return tuple(other.attrs["axes"]) == axes and not other.attrs["keepdims"]
    return other.attrs == one.attrs


def _join(graph: Graph, one: Group, other: Group) -> bool:
    """Makes one call of two, at the place of the earlier; False where the later one has to wait for something else."""
    place = {id(launch.groups[0]): i for i, launch in enumerate(graph.kernels)}
    early, late = sorted((place[id(one)], place[id(other)]))
    computed = {name for launch in graph.kernels for name in launch.nodes}
    made = {name for launch in graph.kernels[:early] for name in launch.nodes}
    moved = graph.kernels[late]
    needed = {s for name in moved.nodes for s in memory_read(graph, name, computed)} - set(moved.nodes)
    if any(name not in made and not is_leaf(graph[name]) for name in needed):
        return False
    graph.kernels[early] = Launch([one, other])
    del graph.kernels[late]
    return True


def _saved(graph: Graph, node: Node, context: Context) -> float:
    """Predicted seconds of reading what `node` reads, and of a call."""
    size = graph[node.inputs[0]].type.bytes
    bytes = dims.evaluate(size, dict.fromkeys(dims.symbols(size), context.batch))
    return bytes / context.machine.bandwidth + context.machine.launch
