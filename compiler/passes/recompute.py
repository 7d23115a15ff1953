"""Under a memory budget, what the backward pass needs of the forward pass is computed again instead of kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; which tensors, and when, is decided in
`compiler/remat.py`: what frees most memory for the time it takes goes first, so cheap kernels go before convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler import dims
from compiler.dims import Dim
from compiler.group import Group, Launch
from compiler.ir import Graph
from compiler.lifetimes import ARENA, lifetimes, reads, size, tensors
from compiler.memory import plan
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.remat import Problem, Run, Version, recipe, shrink
from compiler.views import Place
from runtime.errors import NetcError

ROUNDS = 4  # of fitting what lives together so that the arena, a little larger, fits the budget


@graph_pass("recompute")
def recompute(graph: Graph, context: Context) -> list[Rewrite]:
    """Tensors kept for the backward pass are dropped and computed again before they are read, cheapest first, until the
    program's arena fits the memory budget. Without a budget nothing is done.

    Raises NetcError E0414 for a budget that cannot be met, with the smallest that can.
    """
    if context.memory is None:
        return []
    scratch = [context.scratch.get(launch.nodes[-1], 0) for launch in graph.kernels]
    before = _arena(graph, scratch, context.batch)
    what = "the training step" if context.training else "the program"
    if before <= context.memory:
        return [Rewrite(f"{what} takes {text(before)}", (), taken=False, why=f"that fits {text(context.memory)}")]
    runs = fit(graph, context, context.memory)
    if runs is None:
        smallest, runs = _smallest(graph, context, before)
        if runs is None or smallest > context.memory:
            raise NetcError("E0414", f"{what} needs more than {text(context.memory)}, whatever is computed again",
                            f"the smallest budget that can be met is {text(smallest)}; without one it takes "
                            f"{text(before)} (at batch {context.batch})")
    done = apply(graph, runs, context.batch)
    after = _arena(graph, [scratch[run.kernel] for run in runs], context.batch)
    cost = sum(rewrite.gain for rewrite in done)
    return [Rewrite(f"{what} takes {text(after)} instead of {text(before)}", (), gain=cost), *done]


def text(bytes: int) -> str:
    """Bytes as people write a budget, rounded up."""
    unit, factor = next(((unit, factor) for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
                         if bytes >= 100 * factor), ("B", 1))
    return f"{-(-bytes // factor)}{unit}"


def _arena(graph: Graph, scratch: Sequence[Dim], batch: int) -> int:
    """Bytes of the arena of a graph with kernels, of which each needs `scratch` for itself."""
    own = [[(f"scratch:{step}", bytes)] if bytes != 0 else [] for step, bytes in enumerate(scratch)]
    found = plan(lifetimes(graph, own)).size
    return dims.evaluate(found, dict.fromkeys(dims.symbols(found), batch))


def fit(graph: Graph, context: Context, budget: int) -> list[Run] | None:
    """What to run so that the arena takes at most `budget` bytes; None if nothing does it."""
    runs, problem = formulate(graph, context)
    scratch = [context.scratch.get(launch.nodes[-1], 0) for launch in graph.kernels]
    target = budget
    for _ in range(ROUNDS):
        found = shrink(runs, problem, target)
        if found is None:
            return None
        trial = graph.copy()
        apply(trial, found, context.batch)
        over = _arena(trial, [scratch[run.kernel] for run in found], context.batch) - budget
        if over <= 0:
            return found
        target -= over
    return None


def _smallest(graph: Graph, context: Context, most: int) -> tuple[int, list[Run] | None]:
    """The smallest budget that can be met, within two hundredths, and how; None if nothing needs to be done."""
    low, high, runs = 0, most, None
    while high - low > high // 50:
        middle = (low + high) // 2
        found = fit(graph, context, middle)
        if found is None:
            low = middle
        else:
            high, runs = middle, found
    return high, runs


# --- from the graph ------------------------------------------------------------------------------------------------

def formulate(graph: Graph, context: Context) -> tuple[list[Run], Problem]:
    """The kernels of a graph as runs, and how to make each of their tensors again."""
    home = tensors(graph)
    gradients = {home.get(name) for name in graph.gradients.values()}
    writers: dict[str, list[int]] = {}
    runs, bytes = [], {}
    for number, launch in enumerate(graph.kernels):
        run = _run(graph, context, number, launch.groups, home)
        run = replace(run, pinned=launch.update or any(r not in home or _cut(graph, g, home[r], home)
                                                       for g in launch.groups for r in g.results))
        runs.append(run)
        for key, _ in (*run.reads, *run.writes):
            found = size(graph, key)
            bytes[key] = dims.evaluate(found, dict.fromkeys(dims.symbols(found), context.batch))
        for key, _ in run.writes:
            writers.setdefault(key, []).append(number)
    recipes = {}
    for key, numbers in writers.items():
        parts = [(number, _parts(graph, graph.kernels[number], key, home)) for number in numbers]
        if (key not in gradients and all(groups for _, groups in parts)
                and not any(graph.kernels[number].update for number in numbers)):
            recipes[key] = recipe(key, [replace(_run(graph, context, number, groups, home), writes=((key, 0),))
                                        for number, groups in parts])
    until = next((i for i, launch in enumerate(graph.kernels) if launch.update), len(graph.kernels))
    return runs, Problem(bytes, recipes, until)


def _run(graph: Graph, context: Context, number: int, groups: Sequence[Group], home: Mapping[str, str]) -> Run:
    launch = Launch(list(groups))
    scratch = context.scratch.get(graph.kernels[number].nodes[-1], 0)
    return Run(number, _versions(reads(graph, launch), home), _versions(launch.results, home),
               dims.evaluate(scratch, dict.fromkeys(dims.symbols(scratch), context.batch)),
               context.seconds(graph, [graph[anchor] for g in groups for anchor in _anchors(g)]))


def _versions(names: Sequence[str], home: Mapping[str, str]) -> tuple[Version, ...]:
    """The originals of the tensors that nodes lie in."""
    return tuple(dict.fromkeys((home[name], 0) for name in names if name in home))


def _anchors(g: Group) -> list[str]:
    return [g.anchor, *(anchor for stage in g.staged for anchor in _anchors(stage))]


def _cut(graph: Graph, g: Group, key: str, home: Mapping[str, str]) -> bool:
    """Whether a group makes `key` and others as parts of one result, which it can only make together."""
    mine = [r for r in g.results if home.get(r) == key]
    return bool(mine) and mine != g.results and any(graph[m].op == "slice" for m in g.members[1:])


def _parts(graph: Graph, launch: Launch, key: str, home: Mapping[str, str]) -> list[Group]:
    """What of a kernel's groups makes the tensor `key`; nothing where it cannot be made apart from others."""
    found = []
    for g in launch.groups:
        results = [r for r in g.results if home.get(r) == key]
        if _cut(graph, g, key, home):
            return []
        if results:
            found.append(_part(graph, g, results))
    return found


def _part(graph: Graph, g: Group, results: list[str]) -> Group:
    """A group without what only its other results need."""
    if results == g.results:
        return g.copy()
    inside, needed, waiting = set(g.nodes), set(), [g.anchor, *results]
    while waiting:
        name = waiting.pop()
        if name in inside and name not in needed:
            needed.add(name)
            waiting += graph[name].inputs
    return replace(g.copy(), members=[m for m in g.members if m in needed],
                   inlined=[m for m in g.inlined if m in needed], results=results)


# --- back to the graph ---------------------------------------------------------------------------------------------

def apply(graph: Graph, runs: Sequence[Run], batch: int) -> list[Rewrite]:
    """Makes the kernels of the graph those of `runs`, in place; returns what is computed again."""
    writer = _Writer(graph)
    ends = {run.writes: at for at, run in enumerate(runs) if run.recipe is not None}
    kernels = [writer.original(run) if run.recipe is None else writer.copy(run, complete=ends[run.writes] == at)
               for at, run in enumerate(runs)]
    graph.kernels = kernels
    writer.clean()
    seconds: dict[Version, float] = {}
    for run in runs:
        if run.recipe is not None:
            seconds[run.writes[0]] = seconds.get(run.writes[0], 0.0) + run.seconds
    done = []
    for (key, _), cost in seconds.items():
        node, found = graph[writer.shown[key]], writer.sizes[key]
        bytes = dims.evaluate(found, dict.fromkeys(dims.symbols(found), batch))
        done.append(Rewrite(f"{key.removeprefix(ARENA)}, {text(bytes)}, is computed again", layers(node), gain=-cost))
    return done


class _Writer:
    """Turns runs into kernels of a graph, in the order in which they come."""

    def __init__(self, graph: Graph):
        self.graph, self.kernels = graph, graph.kernels
        self.home = tensors(graph)
        self.nodes = {node.name: node for node in graph.sorted()}
        self.rank = {name: at for at, name in enumerate(self.nodes)}
        computed = {name for launch in graph.kernels for name in launch.nodes}
        self.placed: dict[str, list[str]] = {}  # tensor → the nodes in its memory that no kernel computes
        for name in self.nodes:
            if name not in computed and name in self.home:
                self.placed.setdefault(self.home[name], []).append(name)
        self.names: dict[Version, dict[str, str]] = {}  # node → node of a copy
        self.sizes = {key: size(graph, key) for key in set(self.home.values())}
        self.shown: dict[str, str] = {}  # tensor → a node that makes it again

    def original(self, run: Run) -> Launch:
        """A kernel that was there, without what nobody reads any longer, reading the copies it should."""
        kept = {key for key, _ in run.writes}
        groups = [_part(self.graph, g, [r for r in g.results if r not in self.home or self.home[r] in kept])
                  for g in self.kernels[run.kernel].groups]
        launch = Launch([g for g in groups if g.results])
        inside = set(launch.nodes)
        for name in launch.nodes:
            inputs = tuple(i if i in inside else self._source(i, run) for i in self.nodes[name].inputs)
            if inputs != self.nodes[name].inputs:
                self.graph.update(name, inputs=inputs)
        return launch

    def copy(self, run: Run, complete: bool) -> Launch:
        """A kernel that makes (a part of) a tensor again; complete: it is the last one that does."""
        version, = run.writes
        mine = self.names.setdefault(version, {})
        groups = _parts(self.graph, self.kernels[run.kernel], version[0], self.home)
        new = [*(name for g in groups for name in g.nodes), *(self.placed.get(version[0], ()) if complete else ())]
        for name in sorted(new, key=self.rank.__getitem__):
            node = self.nodes[name]
            inputs = tuple(mine[i] if i in mine else self._source(i, run) for i in node.inputs)
            mine[name] = self.graph.add(replace(node, name=self.graph.fresh(f"again/{name}"), inputs=inputs))
            if name in self.graph.layouts:
                self.graph.layouts[mine[name]] = self.graph.layouts[name]
        if complete:
            for name in [name for name in mine if name in self.graph.places]:
                place = self.graph.places[name]
                self.graph.places[mine[name]] = Place(mine[place.root], place.starts)
        self.shown[version[0]] = mine[groups[0].results[0]]
        return Launch([_renamed(g, mine) for g in groups])

    def _source(self, name: str, run: Run) -> str:
        """What a node that read `name` reads in this run."""
        tensor = self.home.get(name, "")
        number = dict(run.reads).get(tensor, 0)
        return self.names[tensor, number][name] if number else name

    def clean(self) -> None:
        """Drops nodes that no kernel computes any longer."""
        computed = {name for launch in self.graph.kernels for name in launch.nodes}
        wanted = {*self.graph.results(), *self.graph.gradients.values()}
        before = {name for launch in self.kernels for name in launch.nodes}
        for name in reversed(self.nodes):
            dead = name in before - computed or name not in before and name in self.home
            if dead and name not in wanted and not self.graph.users(name):
                self.graph.remove(name)
                self.graph.places.pop(name, None)
                self.graph.layouts.pop(name, None)


def _renamed(g: Group, names: Mapping[str, str]) -> Group:
    return replace(g, anchor=names[g.anchor], members=[names[m] for m in g.members],
                   inlined=[names[m] for m in g.inlined], staged=[_renamed(stage, names) for stage in g.staged],
                   results=[names[r] for r in g.results])
