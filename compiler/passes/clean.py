"""Dead code, common subexpressions, constants, and arithmetic that does nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compiler.group import is_leaf
from compiler.ir import DTYPES, Graph, Node, node_key, unite
from compiler.ops import REGISTRY, namespace
from compiler.passes.base import Context, Rewrite, graph_pass, layers

FOLDED_SIZE = 1 << 16  # constants of more elements are left to be computed: they would bloat the artifact


@graph_pass("clean")
def clean(graph: Graph, context: Context) -> list[Rewrite]:
    """Removes what no result needs, computes constants, drops operations that change nothing, and joins equal ones."""
    done: list[Rewrite] = []
    changed = True
    while changed:
        changed = False
        for name in [node.name for node in graph.sorted() if not is_leaf(node)]:
            if name not in graph:
                continue
            node = graph[name]  # as it is by now: an earlier rewrite may have changed what it reads
            for rule in (_identity, _fold, _common):
                found = rule(graph, node)
                if found is not None:
                    target, what = found
                    if not _bears_origins(graph[target]) and name in graph.results():
                        continue  # a result that is an input still is a layer of the user's
                    done.append(Rewrite(what, layers(node)))
                    _replace(graph, node, target)
                    changed = True
                    break
    before = len(graph)
    graph.prune(keep=lambda node: node.op == "input")
    if len(graph) < before:
        done.append(Rewrite(f"{before - len(graph)} nodes that no result needs are gone", ()))
    return done


def _replace(graph: Graph, node: Node, target: str) -> None:
    """`target` takes the place of `node`, origins included: its own, and of what is computed for it alone."""
    gone = [node.name]
    results = graph.results()
    for name in gone:
        gone += [i for i in dict.fromkeys(graph[name].inputs)
                 if i not in gone and i != target and i not in results and set(graph.nx.successors(i)) <= set(gone)]
    origins = unite(graph[name].origins for name in gone)
    for heir in [target] if _bears_origins(graph[target]) else [user.name for user in graph.users(node.name)]:
        graph.update(heir, origins=unite([graph[heir].origins, origins]))
    graph.replace_uses(node.name, target)
    graph.remove(node.name)


def _bears_origins(node: Node) -> bool:
    """Inputs and parameters stand for themselves; the origins of what became one of them go to its readers."""
    return node.op not in ("input", "parameter")


# --- rules: node → the node that can stand in its place, and what to say ---------------------------------------------

def _scalar(graph: Graph, name: str) -> float | None:
    """The number a node is, if it is a constant all of whose elements are equal."""
    node = graph[name]
    if node.op != "constant" or not node.attrs["value"].size:
        return None
    first = node.attrs["value"].reshape(-1)[0]
    return float(first) if (node.attrs["value"] == first).all() else None


def _neutral(position: int, number: float) -> Callable[[Graph, Node], str | None]:
    """op(x, number) -> x, the number at operand `position`."""
    def rule(graph: Graph, node: Node) -> str | None:
        return node.inputs[1 - position] if _scalar(graph, node.inputs[position]) == number else None
    return rule


def _double_negation(graph: Graph, node: Node) -> str | None:
    inner = graph[node.inputs[0]]
    return inner.inputs[0] if inner.op == node.op else None


def _view_of_view(graph: Graph, node: Node) -> str | None:
    return node.inputs[0] if graph[node.inputs[0]].type == node.type else None


IDENTITIES: dict[str, list[tuple[str, Callable[[Graph, Node], str | None]]]] = {
    "add": [("x + 0 -> x", _neutral(1, 0.0)), ("0 + x -> x", _neutral(0, 0.0))],
    "sub": [("x - 0 -> x", _neutral(1, 0.0))],
    "mul": [("x * 1 -> x", _neutral(1, 1.0)), ("1 * x -> x", _neutral(0, 1.0))],
    "div": [("x / 1 -> x", _neutral(1, 1.0))],
    "neg": [("-(-x) -> x", _double_negation)],
    "relu": [("relu(relu(x)) -> relu(x)",
              lambda graph, node: node.inputs[0] if graph[node.inputs[0]].op == "relu" else None)],
    "copy": [("copy(x) -> x", lambda graph, node: node.inputs[0])],
    "cast": [("cast to the type it has -> x", _view_of_view)],
    "reshape": [("reshape to the shape it has -> x", _view_of_view)],
    "flatten": [("flatten of what is flat -> x", _view_of_view)],
    "broadcast_to": [("broadcast to the shape it has -> x", _view_of_view)],
    "transpose": [("transpose that moves nothing -> x", lambda graph, node: node.inputs[0]
                   if tuple(node.attrs["order"]) == tuple(range(node.type.rank)) else None)],
    "concat": [("concat of one -> x", lambda graph, node: node.inputs[0] if len(node.inputs) == 1 else None)],
    "slice": [("slice of everything -> x", _view_of_view)],
    "pad": [("pad by nothing -> x", _view_of_view)],
}


def _identity(graph: Graph, node: Node) -> tuple[str, str] | None:
    for what, rule in IDENTITIES.get(node.op, ()):
        target = rule(graph, node)
        if target is not None and graph[target].type == node.type:
            return target, what
    return None


def _fold(graph: Graph, node: Node) -> tuple[str, str] | None:
    sources = [graph[i] for i in node.inputs]
    if not sources or any(s.op != "constant" for s in sources) or not isinstance(node.type.size, int) \
            or node.type.size > FOLDED_SIZE or not REGISTRY[node.op].has("numpy"):
        return None
    value = REGISTRY[node.op].numpy(namespace(node.attrs), *[s.attrs["value"] for s in sources])
    value = np.asarray(value, DTYPES[node.type.dtype])
    folded = Node(graph.fresh(f"{node.name}/folded"), "constant", (), node.type, {"value": value}, node.origins)
    return graph.add(folded), f"{node.op} of constants is a constant"


def _common(graph: Graph, node: Node) -> tuple[str, str] | None:
    """An equal node that stands earlier: same op, attributes and operands."""
    if node.op == "random_uniform":
        return None
    key = node_key(node)
    for twin in (graph.users(node.inputs[0]) if node.inputs else ()):
        if twin.name != node.name and twin.op == node.op and twin.inputs == node.inputs and node_key(twin) == key:
            return twin.name, f"{node.op} is computed once instead of twice"
    return None

