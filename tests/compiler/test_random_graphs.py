"""Random nets through the whole compiler: every phase keeps the verifier content, kernels compute what the interpreter
says, gradients are those of finite differences, text reads back, and groups are a partition that can be run in order."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from compiler import lower, programs
from compiler.autodiff import differentiate
from compiler.cost import MACHINES
from compiler.group import group, is_leaf, is_view, view_root
from compiler.interpret import relative_error, run as interpret
from compiler.ir import Graph
from compiler.ops import REGISTRY
from compiler.optimizer import OPTIMIZERS
from compiler.passes.expand import expand
from compiler.passes.select_mode import select_mode
from compiler.text import from_text, to_text
from compiler.verify import verify
from tests.compiler.harness import executable
from tests.compiler.nets import Net, nets

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
QUICK = settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=SLOW)
COMPILED = settings(QUICK, max_examples=8, phases=[Phase.generate])  # a failing net is not made smaller: too slow
OPTIMIZER = st.sampled_from(sorted(OPTIMIZERS))
SCALARS = {"lr": np.float32(0.1), "step": np.float32(1), "seed": np.int32(3)}


def config(optimizer: str) -> dict:
    return {"optimizer": {"name": optimizer, "args": {"weight_decay": 0.01}}}


def all_programs(net: Net, optimizer: str) -> dict[str, Graph]:
    return {"run": programs.run(net.graph), "evaluate": programs.evaluate(net.graph),
            "step": programs.step(net.graph, config(optimizer))}


def start(graph: Graph, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values for all parameters of a program: those given, and optimizer state in the midst of a training."""
    stream = np.random.default_rng(5)
    return values | {n.name: stream.uniform(0.1, 0.2, n.type.shape).astype("f4") for n in graph.leaves("parameter")
                     if n.name not in values}


def scalars(graph: Graph) -> dict[str, np.generic]:
    return {n.name: SCALARS[n.name] for n in graph.leaves("input") if n.name in SCALARS}


@given(nets(), OPTIMIZER)
@QUICK
def test_every_phase_keeps_a_right_graph_and_every_origin(net, optimizer):
    verify(net.graph)
    assert len({o for n in net.graph.nodes() for o in n.origins}) == len({c.split()[0] for c in net.calls})
    for mode in ("deploy", "evaluate"):
        before = select_mode(net.graph, mode)
        verify(expand(before), before=verify(before))
    train = verify(select_mode(net.graph, "train"))
    joint, gradients = differentiate(train)
    verify(joint, before=train)
    assert set(gradients) == {n.name for n in train.leaves("parameter") if n.attrs["trainable"]}
    for name, graph in all_programs(net, optimizer).items():
        verify(graph)
        assert not any(REGISTRY[n.op].has("expand") and not MACHINES["cpu"].native(n) for n in graph.nodes())
        assert {n.attrs["role"] for n in graph.leaves("input")} <= {"input"} if name == "run" else True


@given(nets(), OPTIMIZER)
@QUICK
def test_groups_are_a_partition_in_an_order_that_can_be_run(net, optimizer):
    for graph in all_programs(net, optimizer).values():
        groups = group(graph)
        inside = [m for g in groups for m in g.nodes]
        assert sorted(inside) == sorted(n.name for n in graph.nodes() if not is_leaf(n) and not is_view(n))
        made: set[str] = set()
        for g in groups:
            own = set(g.nodes)
            for source in {view_root(graph, i) for m in own for i in graph[m].inputs} - own:
                assert is_leaf(graph[source]) or source in made, f"{g.anchor} reads {source} before it is made"
            made |= set(g.results)
            assert all(graph[m].type.shape == graph[g.anchor].type.shape for m in g.members)
        written: set[str] = set()
        for g in groups:  # nobody reads a parameter after the kernel that overwrites it
            reads = {view_root(graph, i) for m in g.nodes for i in graph[m].inputs}
            assert not reads & written
            written |= {p for p, value in graph.updates.items() if view_root(graph, value) in g.results}


@given(nets(), OPTIMIZER)
@QUICK
def test_text_reads_back_as_the_same_graph(net, optimizer):
    for graph in [net.graph, *all_programs(net, optimizer).values()]:
        text = to_text(graph)
        again = from_text(text)
        assert to_text(again) == text
        verify(again, before=graph)
        assert nx.utils.graphs_equal(bare(again), bare(graph))
        for table in ("outputs", "losses", "metrics", "updates", "gradients"):
            assert getattr(again, table) == getattr(graph, table)
    values, feeds = net.parameters(), net.feeds(2)
    want = interpret(net.graph, feeds, values)
    got = interpret(from_text(to_text(net.graph)), feeds, values)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def bare(graph: Graph) -> nx.MultiDiGraph:
    """The networkx graph with the nodes' types and origins only; arrays in attributes do not compare."""
    copy = nx.MultiDiGraph(graph.nx)
    for name in copy:
        node = graph[name]
        nx.set_node_attributes(copy, {name: {"node": (node.op, node.inputs, node.type, node.origins, sorted(node.attrs))}})
    return copy


@given(nets(smooth=True, steps=6, modules=1))
@settings(QUICK, max_examples=30)
def test_gradients_are_those_of_finite_differences(net):
    train = select_mode(net.graph, "train")
    joint, gradients = differentiate(train)
    values = {k: v.astype("f8") for k, v in net.parameters().items()}
    feeds = net.feeds(3) | scalars(train)
    joint.outputs = {f"grad.{p}": g for p, g in gradients.items()}
    found = interpret(joint, feeds, values, dtype="float64")
    stream = np.random.default_rng(1)
    for path, gradient in gradients.items():
        direction = stream.standard_normal(values[path].shape)
        size = 1e-6

        def loss(t: float) -> float:
            shifted = values | {path: values[path] + t * direction}
            result = interpret(train, feeds, shifted, dtype="float64")
            return float(sum(result[n] for n in train.losses.values()))

        slope = (loss(size) - loss(-size)) / (2 * size)
        along = float((found[gradient] * direction).sum())
        scale = np.abs(found[gradient]).sum() + 1e-3
        assert abs(along - slope) <= 1e-5 * scale, f"{path}: {along} by gradients, {slope} by differences"


@given(nets(), OPTIMIZER)
@COMPILED
def test_compiled_programs_compute_what_the_interpreter_says(net, optimizer):
    graphs = all_programs(net, optimizer)
    del graphs["evaluate"]  # the forward half of `step` but for dropout and batch norm, which `run` has
    values = start(graphs["step"], net.parameters())
    exe = executable(graphs, values)
    for batch in (1, 3):
        feeds = net.feeds(batch, seed=batch)
        for name, graph in graphs.items():
            for path in exe.parameters.paths("weight", "state", "optimizer"):
                exe.parameters[path][...] = values[path]
            given_here = {n.name: (feeds | SCALARS)[n.name] for n in graph.leaves("input")}
            exact = interpret(graph, given_here, values, dtype="float64")
            single = interpret(graph, given_here, values)
            got = exe.call(name, given_here)
            results = {**graph.outputs, **graph.losses, **graph.metrics}
            for key, node in results.items():
                _close(f"{name} at batch {batch}: {key}", exact[node], single[node], got[key])
            for path, node in graph.updates.items():
                _close(f"{name} at batch {batch}: update of {path}", exact[node], single[node], exe.parameters[path])


def _close(what: str, exact: np.ndarray, single: np.ndarray, got: np.ndarray) -> None:
    """Within a relative error of 1e-4 of the value in f64, or as near to it as numpy comes in f32 where that is far."""
    rounding = relative_error(exact, single)
    assert relative_error(exact, got) <= max(1e-4, 10 * rounding), f"{what}: {relative_error(exact, got):.2e}, numpy in " \
        f"f32 {rounding:.2e}\n{exact.ravel()[:8]}\n{got.ravel()[:8]}"


def test_the_same_net_gives_the_same_code():
    """Names, order and layout depend on nothing but the net."""
    found = []

    @given(nets())
    @settings(QUICK, max_examples=3)
    def collect(net):
        found.append((to_text(programs.run(net.graph)), lower.layout([programs.run(net.graph)])))

    collect()
    first, found = list(found), []
    collect()
    assert found == first
