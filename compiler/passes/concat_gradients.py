"""A sum of gradients that each fill their own part of a tensor with zeros around becomes the concat of the parts.

Such sums are what differentiation makes of slices: every slice hands back its gradient padded to the size of the whole.
"""

from __future__ import annotations

from compiler.build import Builder
from compiler.ir import Graph, Node, unite
from compiler.passes.base import Context, Rewrite, graph_pass, layers


@graph_pass("concat_gradients")
def concat_gradients(graph: Graph, context: Context) -> list[Rewrite]:
    """pad(a) + pad(b) + … -> concat(a, b, …), where the parts tile the sum along one axis."""
    done: list[Rewrite] = []
    for name in [node.name for node in reversed(graph.sorted()) if node.op == "add"]:
        if name in graph:
            sums, parts = _terms(graph, graph[name])
            axis = _axis(parts)
            if axis is not None:
                done.append(Rewrite(f"sum of {len(parts)} padded gradients is a concat", layers(*sums, *parts)))
                _join(graph, sums, parts, axis)
    return done


def _terms(graph: Graph, root: Node) -> tuple[list[Node], list[Node]]:
    """The additions under `root` whose results nothing else reads, and what they add up."""
    results = _results(graph)
    sums, parts = [root], []
    for node in sums:
        for source in node.inputs:
            inner = graph[source].op == "add" and len(graph.users(source)) == 1 and source not in results \
                and node.inputs.count(source) == 1 and graph[source].type == root.type
            (sums if inner else parts).append(graph[source])
    return sums, parts


def _axis(parts: list[Node]) -> int | None:
    """The axis along which pads by zeros fill parts that follow on each other from start to end; sorts `parts` by it."""
    if any(part.op != "pad" or part.attrs["value"] != 0 or part.type != parts[0].type for part in parts):
        return None
    moved = {axis for part in parts for axis, ends in enumerate(zip(part.attrs["before"], part.attrs["after"]))
             if ends != (0, 0)}
    if len(moved) != 1:
        return None
    axis, = moved
    size = parts[0].type.shape[axis]
    if not isinstance(size, int):
        return None
    parts.sort(key=lambda part: part.attrs["before"][axis])
    ends = [0, *(size - part.attrs["after"][axis] for part in parts)]
    return axis if [part.attrs["before"][axis] for part in parts] == ends[:-1] and ends[-1] == size else None


def _join(graph: Graph, sums: list[Node], parts: list[Node], axis: int) -> None:
    b = Builder(graph)
    root = sums[0]
    with b.within(root.name, unite(node.origins for node in [*sums, *parts])):
        whole = b.op("concat", *(b.value(part.inputs[0]) for part in parts), name="concat", axis=axis)
    graph.replace_uses(root.name, whole.name)
    results = _results(graph)
    for node in [*sums, *parts]:
        if not graph.users(node.name) and node.name not in results:
            graph.remove(node.name)


def _results(graph: Graph) -> set[str]:
    return {*graph.results(), *graph.gradients.values()}
