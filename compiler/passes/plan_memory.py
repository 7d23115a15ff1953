"""Element-wise results are written over an operand that nobody reads any longer, and one arena holds what is left.

The arena itself is packed when a program is lowered (`compiler/memory.py`); what this pass decides is which tensors
share their memory from the start.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler import dims
from compiler.group import Launch
from compiler.ir import Graph
from compiler.layout import PLAIN
from compiler.lifetimes import ARENA, lifetimes, reads, tensors
from compiler.memory import plan
from compiler.ops import REGISTRY
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.views import Place


@graph_pass("plan_memory")
def plan_memory(graph: Graph, context: Context) -> list[Rewrite]:
    """A result of an element-wise kernel takes the memory of an operand of the same type that dies there, unless the
    arena would grow by it."""
    home = tensors(graph)
    inside: dict[str, list[str]] = {}  # the nodes that lie in a tensor
    for name, key in home.items():
        inside.setdefault(key, []).append(name)
    last = {home[name]: step for step, launch in enumerate(graph.kernels)
            for name in (*reads(graph, launch), *launch.results) if name in home}
    wholes = {place.root for place in graph.places.values()}
    places = dict(graph.places)
    done = []
    for step, launch in enumerate(graph.kernels):
        read = dict.fromkeys(home[name] for name in reads(graph, launch) if name in home)
        free = [key for key in read if last[key] == step]
        for result in launch.results:
            key = next((key for key in free if _fits(graph, launch, result, key, home)), None) \
                if result not in wholes and result not in graph.places and home.get(result) == ARENA + result else None
            if key is None:
                continue
            free.remove(key)
            root = key.removeprefix(ARENA)
            graph.places[result] = Place(root, (0,) * graph[result].type.rank)
            last[key] = max(last[key], last[ARENA + result])
            moved = inside.pop(ARENA + result)
            inside[key] += moved
            home |= dict.fromkeys(moved, key)
            done.append(Rewrite(f"{result} is written over {root}", layers(graph[result], graph[root])))
    if not done:
        return []
    after, made = _arena(graph, context.batch), graph.places
    graph.places = places
    if after > _arena(graph, context.batch):
        return [Rewrite(rewrite.what, rewrite.layers, taken=False, why="the arena would grow") for rewrite in done]
    graph.places = made
    return done


def _fits(graph: Graph, launch: Launch, result: str, key: str, home: Mapping[str, str]) -> bool:
    """Whether a kernel can write `result` into the tensor `key`, which it reads for the last time: element by element,
    each read before it is written and never again."""
    root = graph[key.removeprefix(ARENA)]
    group, *others = launch.groups
    return (not others and not group.update and not group.inlined and not group.staged
            and all(REGISTRY[graph[member].op].pointwise for member in group.members)
            and graph[result].type == root.type
            and graph.layouts.get(result, PLAIN) == graph.layouts.get(root.name, PLAIN)
            and all(graph[i].type == root.type for i in reads(graph, launch) if home.get(i) == key))


def _arena(graph: Graph, batch: int) -> int:
    found = plan(lifetimes(graph)).size
    return dims.evaluate(found, dict.fromkeys(dims.symbols(found), batch))
