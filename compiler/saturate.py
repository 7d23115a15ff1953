"""Equality saturation on the graph IR: values that are equal stand side by side, and the cheapest of each are taken.

Rewrites add instead of replace, so none is ever in the way of another, and their order does not matter (Tate et al.,
Equality Saturation, POPL 2009; for tensor graphs Yang et al., Tensat, MLSys 2021). A rule that equates several values at
once (parts of a merged convolution) is one offer: its choices only pay together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from compiler.build import Builder, Value
from compiler.group import is_leaf
from compiler.ir import Graph, Node, Origin, node_key


class Cycle(Exception):
    """A choice in which a value needs itself."""


Rule = Callable[["Equal", Node], Iterator[Mapping[str, Value]]]


@dataclass(frozen=True)
class Offer:
    """Nodes that may be taken for those they equal, all at once. rule: what says so."""

    rule: str
    choices: tuple[tuple[str, str], ...]  # node → its equal


class Equal:
    """A growing graph and which of its nodes are equal: the e-graph. The class of a node is named by one of its members."""

    def __init__(self, graph: Graph):
        self.graph = graph.copy()
        self.parent: dict[str, str] = {name: name for name in self.graph.nx}
        self.members: dict[str, list[str]] = {name: [name] for name in self.graph.nx}
        self.known: dict[object, str] = {}
        self.fixed: set[str] = set()
        self.offers: list[Offer] = []
        for node in self.graph.sorted():
            self.known.setdefault(self._key(node), node.name)
            self._note(node)

    def find(self, name: str) -> str:
        """The class of a node."""
        while self.parent[name] != name:
            self.parent[name] = name = self.parent[self.parent[name]]
        return name

    def equals(self, name: str, *ops: str) -> list[Node]:
        """The nodes equal to `name`, itself included, of the given ops."""
        return [node for n in self.members[self.find(name)] if (node := self.graph[n]).op in ops]

    def readers(self, name: str, op: str) -> list[Node]:
        """The nodes of an op whose first operand equals `name`."""
        found = {u.name: u for member in self.members[self.find(name)] for u in self.graph.users(member)
                 if u.op == op and u.inputs[0] == member}
        return list(found.values())

    def op(self, origins: frozenset[Origin], op: str, *operands: Value | str, **attrs: object) -> Value:
        """A node, which may be there already: the same op of equal operands."""
        builder = Builder(self.graph)
        with builder.within(f"search/{op}", origins):
            made = builder.op(op, *(builder.value(o) if isinstance(o, str) else o for o in operands), **attrs)
        node = self.graph[made.name]
        old = self.known.setdefault(self._key(node), node.name)
        if old != node.name:
            self.graph.remove(node.name)
            return builder.value(old)
        self.parent[node.name], self.members[node.name] = node.name, [node.name]
        self._note(node)
        return made

    def offer(self, rule: str, choices: Mapping[str, Value]) -> None:
        """Says that nodes equal values; nothing where that is known."""
        found = Offer(rule, tuple((old, new.name) for old, new in choices.items()))
        if found in self.offers or all(old == new for old, new in found.choices):
            return
        self.offers.append(found)
        for old, new in found.choices:
            one, other = self.find(old), self.find(new)
            if one != other:
                self.parent[other] = one
                self.members[one] += self.members.pop(other)

    def _key(self, node: Node) -> object:
        if node.op in ("input", "parameter"):
            return node.name
        return node_key(replace(node, inputs=tuple(self.find(i) for i in node.inputs)))

    def _note(self, node: Node) -> None:
        if node.op in ("parameter", "constant") or node.inputs and self.fixed.issuperset(node.inputs):
            self.fixed.add(node.name)


def saturate(equal: Equal, rules: Iterable[tuple[str, Rule]], until: float, limit: int) -> bool:
    """Applies all rules to all nodes until nothing new comes; False where the clock or `limit` nodes stopped it."""
    rules = list(rules)
    while True:
        before = len(equal.offers), len(equal.graph)
        for name in list(equal.graph.nx):
            if time.perf_counter() > until or len(equal.graph) > limit:
                return False
            for title, rule in rules:
                for choices in list(rule(equal, equal.graph[name])):
                    equal.offer(title, choices)
        if before == (len(equal.offers), len(equal.graph)):
            return True


class Extraction:
    """Which member of each class is taken. cost(node): predicted seconds of a node that is taken; what only parameters
    determine costs nothing."""

    def __init__(self, equal: Equal, cost: Callable[[Node], float]):
        self.equal, self.cost = equal, cost
        self.prices: dict[str, float] = {}
        self.taken: dict[str, str] = {}
        for name in equal.graph.nx:  # the source's own nodes came first
            self.taken.setdefault(equal.find(name), name)
        self.seconds = self.total(self.taken)

    def improve(self, until: float) -> None:
        """Takes offers, alone or two at a time, as long as that is cheaper or until the clock says so."""
        while time.perf_counter() < until:
            if not (self._once(until) or self._twice(until)):
                return

    def _once(self, until: float) -> bool:
        better = False
        for offer in self.equal.offers:
            if time.perf_counter() > until:
                break
            better |= self._try(self._with(self.taken, offer))
        return better

    def _twice(self, until: float) -> bool:
        """Offers that pay only with a second one, which reads or is read by the first's nodes."""
        for first in self.equal.offers:
            if time.perf_counter() > until:
                return False
            one = self._with(self.taken, first)
            for second in self._near(first):
                if self._try(self._with(one, second)):
                    return True
        return False

    def _near(self, offer: Offer) -> list[Offer]:
        graph, find = self.equal.graph, self.equal.find
        around = {find(n) for pair in offer.choices for name in pair
                  for n in (name, *graph[name].inputs, *(u.name for u in graph.users(name)))}
        around |= {find(i) for name in list(around) for n in self.equal.members[name] for i in graph[n].inputs}
        return [o for o in self.equal.offers if o is not offer and any(find(old) in around for old, _ in o.choices)]

    def _with(self, taken: Mapping[str, str], offer: Offer) -> dict[str, str]:
        return {**taken, **{self.equal.find(old): new for old, new in offer.choices}}

    def _try(self, taken: dict[str, str]) -> bool:
        seconds = self.total(taken)
        if seconds < self.seconds * (1 - 1e-9):
            self.taken, self.seconds = taken, seconds
            return True
        return False

    def total(self, taken: Mapping[str, str]) -> float:
        """Seconds of all nodes that results need; infinite where they would need themselves."""
        try:
            order = self._order(taken)
        except Cycle:
            return float("inf")
        return sum(self._price(name) for name in order)

    def _price(self, name: str) -> float:
        if name not in self.prices:
            free = name in self.equal.fixed or is_leaf(self.equal.graph[name])
            self.prices[name] = 0.0 if free else self.cost(self.equal.graph[name])
        return self.prices[name]

    def _order(self, taken: Mapping[str, str]) -> list[str]:
        """The nodes that results need, operands first. Raises Cycle."""
        find, graph = self.equal.find, self.equal.graph
        state: dict[str, bool] = {}
        order: list[str] = []
        for result in graph.results():
            stack = [(taken[find(result)], False)]
            while stack:
                name, done = stack.pop()
                if done:
                    state[name] = True
                    order.append(name)
                elif name in state:
                    if not state[name]:
                        raise Cycle(name)
                else:
                    state[name] = False
                    stack.append((name, True))
                    stack += [(taken[find(i)], False) for i in graph[name].inputs if not state.get(taken[find(i)])]
        return order

    def graph(self) -> Graph:
        """What is taken, as a graph. Nodes that stand for others take over their origins."""
        find, source = self.equal.find, self.equal.graph
        out = Graph(source.name)
        for node in source.leaves("input"):
            out.add(node)
        for name in self._order(self.taken):
            node = source[name]
            if name not in out:
                origins = node.origins.union(*(source[m].origins for m in self.equal.members[find(name)]))
                out.add(replace(node, inputs=tuple(self.taken[find(i)] for i in node.inputs), origins=origins))
        for table in ("outputs", "losses", "metrics", "updates", "gradients"):
            for key, value in getattr(source, table).items():
                getattr(out, table)[key] = self.taken[find(value)]
        return out

    def rules(self) -> list[str]:
        """The rules whose offers were taken, with repetitions."""
        return [o.rule for o in self.equal.offers
                if any(old != new for old, new in o.choices)
                and all(self.taken[self.equal.find(old)] == new for old, new in o.choices)]
