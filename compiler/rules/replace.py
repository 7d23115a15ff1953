"""A match's replacement: elaborated as a graph of its own, freed of weights that are not there, put into the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compiler.elaborate.report import Report
from compiler.ir import DTYPES, Graph, Node, unite
from compiler.rules.match import Match, bind_tensors, scope

# Whose result is 0 where one of the operands is, where the first is, and where all are.
ANY = ("mul", "matmul")
FIRST = ("neg", "div", "reshape", "transpose", "flatten", "broadcast_to", "slice", "sum", "mean", "square", "abs")
ALL = ("add", "sub", "concat", "maximum", "minimum")


@dataclass(frozen=True)
class Replacement:
    """graph: new nodes above `leaves` (leaf → node that is there already); results: a node for each root."""

    graph: Graph
    leaves: dict[str, str]
    results: tuple[str, ...]


def replacement(graph: Graph, found: Match, report: Report | None = None) -> Replacement:
    """What takes the place of a match. Raises Failed where it cannot be made; `report` says why."""
    made = scope(found.rule, found, report)
    leaves = bind_tensors(graph, found, made)
    results = [tensor.node for tensor in made.made(found.rule.replacement)]
    part = found.rule.tree
    if len(results) != len(found.roots):
        made.fail("E0443", f"the pattern of `{part.name}` makes {len(found.roots)} values, the replacement "
                  f"{len(results)}", part.replacement.span)
    for root, result in zip(found.roots, results):
        if made.graph[result].type != graph[root].type:
            made.fail("E0443", f"the pattern of `{part.name}` makes {graph[root].type}, the replacement "
                      f"{made.graph[result].type}", part.replacement.span, "both sides must have the same type")
    made.graph.outputs = {str(i): result for i, result in enumerate(results)}
    drop_zeros(made.graph)
    made.graph.prune(keep=lambda node: node.name in leaves)
    return Replacement(made.graph, leaves, tuple(made.graph.outputs.values()))


def drop_zeros(graph: Graph) -> None:
    """Computes away the weights that layers of the pattern do not have, so that layers of the replacement have none."""
    zeros = {node.name for node in graph.leaves("constant") if node.attrs.get("none")}
    for node in graph.sorted() if zeros else ():
        at = [i in zeros for i in node.inputs]
        if not any(at):
            continue
        if node.op in ALL and all(at) or node.op in ANY and any(at) or node.op in FIRST and at[0]:
            zeros.add(node.name)
        elif node.op in ("add", "sub") and at[-1] and graph[node.inputs[0]].type == node.type:
            graph.replace_uses(node.name, node.inputs[0])
        elif node.op == "add" and at[0] and graph[node.inputs[1]].type == node.type:
            graph.replace_uses(node.name, node.inputs[1])
        elif node.op in ("conv", "dense") and at[-1] and len(node.inputs) == 3:
            graph.update(node.name, inputs=node.inputs[:2])
    for name in zeros:  # what is still read
        type = graph[name].type
        graph.update(name, op="constant", inputs=(), attrs={"value": np.zeros(type.shape, DTYPES[type.dtype])})


def put(graph: Graph, found: Match, new: Replacement) -> None:
    """Puts a replacement into the place of its match. Roots keep their names, origins are united."""
    origins = unite(graph[name].origins for name in (*found.nodes, *_own_leaves(graph, found)))
    root_of = {}
    for root, result in zip(found.roots, new.results):
        if result not in new.leaves and new.graph[result].op != "constant":
            root_of.setdefault(result, root)
    names = {**new.leaves, **root_of}
    taken = []
    for node in new.graph.sorted():
        if node.name in new.leaves:
            continue
        inputs = tuple(names[i] for i in node.inputs)
        if node.name in root_of:
            taken.append((names[node.name], replace(node, inputs=inputs)))
        else:
            names[node.name] = graph.fresh(f"{found.roots[0]}/{node.name.removeprefix('new/')}")
            if node.op == "concat":
                inputs = tuple(part for i in inputs for part in _parts(graph, node, i))
            graph.add(replace(node, name=names[node.name], inputs=inputs, origins=origins))
    for root, node in taken:
        graph.update(root, op=node.op, inputs=node.inputs, attrs=node.attrs, origins=origins)
    for root, result in zip(found.roots, new.results):
        if names[result] != root:
            kept = graph[names[result]]
            graph.update(kept.name, origins=kept.origins | origins)
            graph.replace_uses(root, kept.name)
    idle = {*found.nodes, *new.leaves.values()} - set(root_of.values()) | _join_slices(graph, found.roots)
    while idle:
        name = idle.pop()
        if name in graph and not graph.nx.out_degree(name) and graph[name].inputs and name not in graph.results():
            idle |= set(graph[name].inputs)
            graph.remove(name)


def _parts(graph: Graph, concat: Node, operand: str) -> tuple[str, ...]:
    """The operands of an operand that is such a concat itself."""
    inner = graph[operand]
    return inner.inputs if inner.op == "concat" and inner.attrs == concat.attrs else (operand,)


def _join_slices(graph: Graph, roots: Sequence[str]) -> set[str]:
    """Makes one slice of slices of new slices, so that layers which join one after another are still split once. The
    new slices that nothing needs any more."""
    idle = set()
    for root in roots:
        if root not in graph or graph[root].op != "slice":
            continue
        outer = graph[root]
        for user in graph.users(root):
            if user.op == "slice" and user.attrs["axis"] == outer.attrs["axis"]:
                start, stop = (user.attrs[key] + outer.attrs["start"] for key in ("start", "stop"))
                graph.update(user.name, inputs=outer.inputs, attrs={**user.attrs, "start": start, "stop": stop},
                             origins=user.origins | outer.origins)
        if not graph.nx.out_degree(root) and root not in graph.results():
            idle.add(root)
    return idle


def _own_leaves(graph: Graph, found: Match) -> list[str]:
    """The parameters and constants that only the match reads."""
    sources = {i for name in found.nodes for i in graph[name].inputs if not graph[i].inputs and graph[i].op != "input"}
    return [i for i in sources if all(user in found.nodes for user in graph.nx.successors(i))]


