"""Applying rules to a graph: wherever one matches and the cost model says that it pays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from compiler import flat
from compiler.autodiff import differentiate
from compiler.build import Builder
from compiler.elaborate.report import Failed, Report
from compiler.ir import Graph, Node, attrs_key
from compiler.kernels import with_kernels
from compiler.passes.base import Context, Rewrite, layers
from compiler.passes.expand import expand
from compiler.rules.match import Match, matches
from compiler.rules.replace import Replacement, put, replacement
from compiler.rules.rule import Rule
from compiler.tally import flops
from runtime.errors import NetcError

APPLICATIONS = 20  # for each node of the graph: more of them is no optimization any more
NOTHING = 1e-12  # seconds; what is nearer to 0 is rounding

Saved = tuple[int, int]  # FLOPs, ops


@dataclass
class Run:
    """One run of rules over a graph. `observe` is called after each application."""

    rules: Sequence[Rule]
    graph: Graph
    context: Context
    observe: Callable[[Rule], None] | None = None
    done: list[Rewrite] = field(default_factory=list)
    refused: dict[tuple[str, frozenset[str]], Rewrite] = field(default_factory=dict)
    fixed: dict[str, bool] = field(default_factory=dict)
    gains: dict[Hashable, tuple[float, Saved]] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        return len(self.done)

    def run(self) -> list[Rewrite]:
        """Raises NetcError E0445 where rules go on without end."""
        limit = APPLICATIONS * (len(self.graph) + 10)
        before = -1
        while before < self.taken:
            before = self.taken
            order, sorted_at = self.graph.sorted(), self.taken
            for rule in self.rules:
                if sorted_at < self.taken:
                    order, sorted_at = self.graph.sorted(), self.taken
                for name in [node.name for node in order if node.op == rule.roots[0].op.name]:
                    while name in self.graph and self.at(rule, name):
                        if self.taken > limit:
                            raise NetcError("E0445", f"`{rule.name}` was applied again and again: {limit} rewrites, "
                                            "and no end", "the graph must become smaller or simpler with each rewrite")
        return [*self.done, *self.refused.values()]

    def at(self, rule: Rule, name: str) -> bool:
        """Whether a rule was applied at a node."""
        for found in matches(rule, self.graph, name, self.fixed):
            rewrite = self.consider(found)
            if not rewrite.taken:
                self.refused[rule.name, frozenset(found.nodes)] = rewrite
                continue
            self.refused = {key: old for key, old in self.refused.items() if not key[1] & set(found.nodes)}
            self.done.append(rewrite)
            if self.observe:
                self.observe(rule)
            return True
        return False

    def consider(self, found: Match) -> Rewrite:
        """Applies a match if that pays."""
        nodes = [self.graph[name] for name in found.nodes]
        report = Report()
        try:
            new = replacement(self.graph, found, report)
        except Failed:
            why = report.errors[0].message if report.errors else "the replacement cannot be made here"
            return Rewrite(f"{found.rule.name}: {_title(nodes)}", layers(*nodes), False, why=why)
        made = [node for node in new.graph.sorted() if node.inputs and not _fixed_part(new, node, found)]
        what = f"{found.rule.name}: {_title(nodes)} -> {_title(made)}"
        gain, saved = self.gain(found, new)
        if gain <= NOTHING and not (gain > -NOTHING and saved > (0, 0)):
            why = "it would cost more than it saves" if gain < -NOTHING else "it would save nothing"
            return Rewrite(what, layers(*nodes), False, gain, why)
        flops, ops = saved
        fewer = f"in as many kernels, {flops:,} FLOPs fewer" if flops else f"operations left out: {ops}"
        why = "" if gain > NOTHING else fewer
        put(self.graph, found, new)
        return Rewrite(what, layers(*nodes), True, max(gain, 0.0), why)

    # --- what it is worth ----------------------------------------------------------------------------------------

    def gain(self, found: Match, new: Replacement) -> tuple[float, Saved]:
        """Predicted seconds saved, and FLOPs and ops, looking at the match with the kernels around it."""
        before = region(self.graph, found, self.context.training)
        key = (found.rule.name, found.nodes.index(found.roots[0]), _shape(before), _shape(new.graph))
        if key not in self.gains:
            after = before.copy()
            put(after, found, new)
            (old_time, *old), (time, *now) = (self.price(graph) for graph in (before, after))
            self.gains[key] = old_time - time, (old[0] - now[0], old[1] - now[1])
        return self.gains[key]

    def price(self, graph: Graph) -> tuple[float, int, int]:
        """Predicted seconds of a region's kernels, their FLOPs, and its ops; in training with the backward pass. What
        depends on parameters alone is free, but for training, where it is computed in each step."""
        graph = graph.copy().prune()
        if self.context.packed and not self.context.training:
            for node in graph.sorted():
                if node.inputs and all(graph[i].op in ("parameter", "constant") for i in node.inputs):
                    graph.update(node.name, op="parameter", inputs=(), attrs={})
            graph.prune()
        ops = sum(bool(node.inputs) for node in graph.nodes())
        graph = with_kernels(expand(differentiated(graph) if self.context.training else graph))
        kernels = [group for launch in graph.kernels for group in launch.groups
                   if not _side_by_side(graph, graph[group.anchor])]
        return self.context.seconds(graph, [graph[kernel.anchor] for kernel in kernels]), \
            sum(flops(graph, node, self.context.batch) for kernel in kernels for node in kernel.nodes), ops


def differentiated(graph: Graph) -> Graph:
    """A region with the gradients that training wants, for the sum of its results as loss."""
    graph = graph.copy()
    b = Builder(graph)
    for key, name in graph.outputs.items():
        value = b.value(name)
        if value.type.is_float:
            graph.losses[key] = b.op("sum", value, axes=tuple(range(value.type.rank)), keepdims=False).name
    joint, gradients = differentiate(graph)
    joint.losses, joint.gradients = {}, dict(gradients)
    return joint


def _side_by_side(graph: Graph, node: Node) -> bool:
    """Whether a node is a weight whose parts lie side by side in memory, so that nobody computes it."""
    parts = [graph[i] for i in node.inputs]
    return node.op == "concat" and flat.of_parameters(graph, node) and not any("stand_in" in p.attrs for p in parts) \
        and flat.side_by_side([part.type for part in parts])


def region(graph: Graph, found: Match, training: bool) -> Graph:
    """The nodes of a match, what makes their operands, and who reads their results, as a graph of their own."""
    tensors = {node for node in found.tensors.values() if isinstance(node, str)}
    weights = {found.tensors[name] for name, p in found.rule.parameters.items() if p.kind == "weight"
               and isinstance(found.tensors[name], str)}
    makers = {name for name in tensors - weights if graph[name].inputs}
    readers = {user for root in found.roots for user in graph.nx.successors(root)}
    inside = {*found.nodes, *makers, *readers}
    part = Graph("region")
    results = set(graph.results())
    for name in nx.topological_sort(graph.nx.subgraph(inside)):
        node = graph[name]
        for source in dict.fromkeys(node.inputs):
            if source not in part:
                part.add(_leaf(graph[source], source in weights, training))
        part.add(node)
        if name in results or name not in found.nodes and (
                name in readers or any(user not in inside for user in graph.nx.successors(name))):
            part.outputs[name] = name
    for name in tensors - set(part.nx):
        part.add(_leaf(graph[name], name in weights, training))
    for root in found.roots:
        if not part.nx.out_degree(root):
            part.outputs[root] = root
    return part


def _leaf(node: Node, weight: bool, training: bool) -> Node:
    if node.op in ("parameter", "constant", "input"):
        return node
    leaf = "parameter" if weight or training and node.type.is_float else "input"
    return replace(node, op=leaf, inputs=(), attrs={"role": "input"} if leaf == "input" else {"stand_in": True})


def _shape(graph: Graph) -> Hashable:
    """Equal for graphs that differ in names only."""
    numbers = {node.name: i for i, node in enumerate(graph.sorted())}
    nodes = tuple((node.op, tuple(numbers[i] for i in node.inputs), node.type, attrs_key(node)
                   if node.op not in ("parameter", "constant", "input") else ()) for node in graph.sorted())
    return nodes, tuple(numbers[name] for name in graph.outputs.values())


def _fixed_part(new: Replacement, node: Node, found: Match) -> bool:
    """Whether a new node computes a weight."""
    moving = {f"${t}" for name, p in found.rule.parameters.items() if p.kind == "tensor"
              and isinstance(t := found.tensors[name], str)}
    return not (nx.ancestors(new.graph.nx, node.name) & moving)


def _title(nodes: Sequence[Node]) -> str:
    names = [node.op for node in nodes]
    return " · ".join(names) if names else "nothing"


def apply_rules(rules: Sequence[Rule], graph: Graph, context: Context,
                observe: Callable[[Rule], None] | None = None) -> list[Rewrite]:
    """Rewrites a graph in place by rules, in their order, until none of them pays any more; what was considered.

    Raises NetcError E0445 where rules go on without end.
    """
    return Run(rules, graph, context, observe).run()
