"""One kernel updates all parameters that are updated alike: they lie side by side, and so do their gradients and state.

Parameters keep their names and shapes; only their order in the flat buffer changes (`compiler/flat.py`). What differs in a
number (a learning rate of its own, no weight decay) is a kernel of its own. Merged weights, which are concats of
parameters, need no kernel where their parts have become neighbours.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import networkx as nx

from compiler import flat
from compiler.group import LONG, Group, Launch, is_leaf, view_root
from compiler.ir import Graph, Node, TensorType, unite
from compiler.layout import PLAIN
from compiler.ops import REGISTRY, namespace
from compiler.passes.base import Context, Rewrite, graph_pass, layers


@dataclass
class Family:
    """The updates of one parameter and its state: what is computed for them alone, in order, and what that reads."""

    updates: dict[str, str] = field(default_factory=dict)  # parameter → its new value
    inner: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)         # tensors of the parameter's shape
    key: Hashable = None


@graph_pass("flatten_updates")
def flatten_updates(graph: Graph, context: Context) -> list[Rewrite]:
    """Element-wise updates that differ only in the parameter become one kernel over parameters that lie side by side."""
    if not context.training:
        return []
    merged = [node.inputs for node in graph.nodes() if _is_merged_weight(graph, node)]
    alike: dict[Hashable, list[Family]] = {}
    for family in _families(graph):
        alike.setdefault(family.key, []).append(family)
    done = []
    for number, families in enumerate(alike.values()):
        families = _ordered(families, merged)
        nodes = [graph[name] for family in families for name in family.inner]
        done.append(Rewrite(f"{len(families)} parameters are updated by one kernel", layers(*nodes)))
        _flatten(graph, families, f"update/flat{number or ''}")
    return done + [_join(graph, node) for node in list(graph.nodes()) if _is_merged_weight(graph, node)]


# --- which updates are alike ------------------------------------------------------------------------------------------

def _families(graph: Graph) -> list[Family]:
    """The updates that can be flattened, each with the state that is updated along with it."""
    results = {*graph.outputs.values(), *graph.losses.values(), *graph.metrics.values(), *graph.gradients.values()}
    before = results.union(*(nx.ancestors(graph.nx, name) for name in results))
    owners: dict[str, Family] = {}  # of inner nodes and updated parameters
    families: list[Family] = []
    for path, value in graph.updates.items():
        inside = _inside(graph, value, graph[path].type, before)
        old = list({id(f): f for name in inside if (f := owners.get(name))}.values())
        family = old[0] if old else Family()
        for other in old[1:]:
            family.updates |= other.updates
            families.remove(other)
        if not old:
            families.append(family)
        family.updates[path] = value
        family.inner = [*dict.fromkeys([*(n for f in old for n in f.inner), *inside])]
        owners |= dict.fromkeys(family.inner, family)
    kernels = [set(launch.nodes) for launch in graph.kernels]
    return [family for family in families if _complete(graph, family, kernels)]


def _inside(graph: Graph, value: str, type: TensorType, before: set[str]) -> list[str]:
    """The element-wise nodes of `type` that are computed for the update `value`, itself included; empty if it is none."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name not in before and name not in found and REGISTRY[graph[name].op].pointwise and graph[name].type == type:
            found.append(name)
            waiting += graph[name].inputs
    return found


def _sorted(graph: Graph, family: Family) -> list[str]:
    """The inner nodes, operands first, in an order that is the same for the same structure."""
    inner, out = set(family.inner), {}

    def visit(name: str) -> None:
        if name in inner and name not in out:
            for source in graph[name].inputs:
                visit(source)
            out[name] = None

    for value in family.updates.values():
        visit(value)
    return list(out)


def _complete(graph: Graph, family: Family, kernels: list[set[str]]) -> bool:
    """Fills in what a family reads and its key; False where it has to stay as it is."""
    family.inner = _sorted(graph, family)
    inner = set(family.inner)
    values = set(family.updates.values())
    if not values <= inner or len(values) < len(family.updates) or sum(graph[n].op in LONG for n in inner) > 1:
        return False
    if any(touched & inner and not touched <= inner for touched in kernels):
        return False
    if any(user.name not in inner for name in inner for user in graph.users(name)):
        return False
    type = graph[family.inner[0]].type
    if not type.is_float or not type.rank or not isinstance(type.size, int):
        return False
    numbers = {name: i for i, name in enumerate(family.inner)}
    key: list[Hashable] = [type.dtype, tuple(numbers[value] for value in family.updates.values())]
    for name in family.inner:
        node = graph[name]
        operands = []
        for source in node.inputs:
            if source in numbers:
                operands.append(numbers[source])
            elif graph[source].type == type and graph[source].op != "constant":
                if graph[source].op == "parameter" and source not in family.updates:
                    return False
                if source not in family.reads:
                    family.reads.append(source)
                owner = list(family.updates).index(source) if source in family.updates else -1
                operands.append(("tensor", family.reads.index(source), owner))
            elif graph[source].type.size == 1:
                operands.append(_number(graph[source]))
            else:
                return False
        key.append((node.op, repr(sorted(node.attrs.items())), *operands))
    family.key = tuple(key)
    return True


def _number(node: Node) -> Hashable:
    return ("constant", node.type, node.attrs["value"].tobytes()) if node.op == "constant" else ("number", node.name)


# --- the order of parameters ------------------------------------------------------------------------------------------

def _is_merged_weight(graph: Graph, node: Node) -> bool:
    """Whether a concat of parameters can be the parameters themselves, if these are neighbours."""
    return (node.op == "concat" and node.attrs["axis"] == 0 and flat.of_parameters(graph, node)
            and len(set(node.inputs)) == len(node.inputs) and node.name not in graph.results()
            and node.name not in graph.places and node.name not in graph.layouts
            and flat.side_by_side([graph[i].type for i in node.inputs])
            and any(launch.nodes == [node.name] for launch in graph.kernels))


def _ordered(families: list[Family], merged: Iterable[tuple[str, ...]]) -> list[Family]:
    """Families whose parameters one weight is merged from follow on each other."""
    home = {path: family for family in families for path in family.updates}
    out: list[Family] = []
    runs = {path: run for run in merged if all(path in home for path in run) for path in run}
    for family in families:
        run = next((runs[path] for path in family.updates if path in runs), ())
        out += [f for f in ([home[path] for path in run] or [family]) if not any(f is other for other in out)]
    return out


def _join(graph: Graph, node: Node) -> Rewrite:
    """Drops the kernel of a merged weight whose parts lie side by side already, or still can."""
    what = f"{node.name} is the parameters themselves"
    orders = flat.neighbours(graph)
    taken = {path for order in orders for path in order}
    run = node.inputs
    if not taken.isdisjoint(run) and not any(order[i:i + len(run)] == run for order in orders for i in range(len(order))):
        return Rewrite(what, layers(node), False, why="its parts are not updated alike")
    graph.kernels = [launch for launch in graph.kernels if launch.nodes != [node.name]]
    return Rewrite(what, layers(node))


# --- the flat kernel --------------------------------------------------------------------------------------------------

def _flatten(graph: Graph, families: list[Family], name: str) -> None:
    """Replaces the updates of `families` by those of one long tensor."""
    first = families[0]
    old = {n: graph[n] for family in families for n in family.inner}
    graph.kernels = [launch for launch in graph.kernels if old.keys().isdisjoint(launch.nodes)]
    for family in families:
        for path in family.updates:
            del graph.updates[path]
    for node in reversed(old):
        graph.remove(node)
    starts, size = flat.starts(old[f.inner[0]].type for f in families)
    made: dict[str, str] = {}
    for at, read in enumerate(first.reads):
        operands = [family.reads[at] for family in families]
        if graph[read].op == "parameter":
            made[read] = _add(graph, f"{name}/{_word(first, read)}", "flat", operands, starts=starts, size=size)
        else:
            made[read] = _gather(graph, f"{name}/gradient", operands, starts, size)
    for at, node in enumerate(old[n] for n in first.inner):
        same = [old[family.inner[at]] for family in families]
        made[node.name] = _add(graph, f"{name}/{node.op}", node.op, [made.get(i, i) for i in node.inputs],
                               unite(n.origins for n in same), **node.attrs)
    values = [made[value] for value in first.updates.values()]
    for family, start in zip(families, starts):
        for (path, value), new in zip(family.updates.items(), values):
            graph.updates[path] = _add(graph, f"update/{path}", "flat_part", [new], old[value].origins, start=start,
                                       shape=graph[path].type.shape)
    members = [made[n] for n in first.inner]
    graph.kernels.append(Launch([Group(members[0], members, results=[m for m in members if m in values], update=True)]))


def _word(family: Family, path: str) -> str:
    """What a parameter is to the one it is the state of."""
    return path.rpartition("/")[2] if any(path.startswith(f"{other}/") for other in family.updates) else "parameter"


def _gather(graph: Graph, name: str, operands: list[str], starts: tuple[int, ...], size: int) -> str:
    """A flat tensor of gradients, each written to its place by the kernel that makes it, or copied there."""
    operands, starts = _whole(graph, operands, starts)
    made = {result for launch in graph.kernels for result in launch.results}
    taken = {view_root(graph, i) for node in graph.nodes() if node.op == "flat" for i in node.inputs}
    parts = []
    for operand in operands:
        root = view_root(graph, operand)
        if (root in made and root not in taken and root not in graph.places and root not in graph.results()
                and not is_leaf(graph[root]) and graph.layouts.get(root, PLAIN) == PLAIN):
            taken.add(root)
            parts.append(operand)
        else:
            node = graph[operand]
            copy = _add(graph, f"{name}/copy", "copy", [operand], node.origins)
            graph.kernels.append(Launch([Group(copy, [copy], results=[copy], update=True)]))
            parts.append(copy)
    return _add(graph, name, "flat", parts, starts=starts, size=size)


def _whole(graph: Graph, operands: list[str], starts: tuple[int, ...]) -> tuple[list[str], tuple[int, ...]]:
    """Slices that follow on each other and are all of a merged weight's gradient: that gradient itself."""
    out: list[tuple[str, int]] = []
    at = 0
    while at < len(operands):
        run = _slices_from(graph, operands, starts, at)
        if run:
            out.append((graph[operands[at]].inputs[0], starts[at]))
            gone = set(operands[at:at + run])
            graph.kernels = [launch for launch in graph.kernels if not gone.issuperset(launch.nodes)]
        else:
            out.append((operands[at], starts[at]))
        at += run or 1
    return [name for name, _ in out], tuple(start for _, start in out)


def _slices_from(graph: Graph, operands: list[str], starts: tuple[int, ...], at: int) -> int:
    """How many operands from `at` on are, one behind the other, the whole of one tensor cut along axis 0."""
    node = graph[operands[at]]
    whole = node.inputs[0] if node.op == "slice" else None
    if whole is None or graph[whole].type.rank == 0:
        return 0
    row = graph[whole].type.size // graph[whole].type.shape[0]
    stop = 0
    for count, name in enumerate(operands[at:], 1):
        part = graph[name]
        if (part.op != "slice" or part.inputs[0] != whole or part.attrs["axis"] != 0 or part.attrs["start"] != stop
                or starts[at + count - 1] - starts[at] != stop * row or graph.users(name)):
            return 0
        stop = part.attrs["stop"]
        if stop == graph[whole].type.shape[0]:
            return count
    return 0


def _add(graph: Graph, name: str, op: str, inputs: Iterable[str], origins: frozenset | None = None, **attrs: object) -> str:
    """A node of `op`, with the origins of what it reads unless others are given."""
    inputs = tuple(inputs)
    type = REGISTRY[op].infer(namespace(attrs), *(graph[i].type for i in inputs))
    origins = unite(graph[i].origins for i in inputs) if origins is None else origins
    return graph.add(Node(graph.fresh(name), op, inputs, type, dict(attrs), origins))
