"""Small nets written as calls, and how tests of passes look at what a pass made of them."""

from __future__ import annotations

import numpy as np

from compiler.build import Value
from compiler.cost import MACHINES, seconds
from compiler.interpret import relative_error, run
from compiler.ir import Graph, TensorType
from compiler.passes.base import PASSES, Context, Rewrite
from compiler.passes.expand import expand
from compiler.verify import verify
from tests.compiler.nets import N, Net

TOLERANCE = 1e-12


def context(machine: str = "cpu", batch: int = 1, training: bool = False) -> Context:
    return Context(lambda graph, nodes: seconds(graph, nodes, MACHINES[machine], batch), batch, training)


def net(shape: tuple[int, ...]) -> tuple[Net, Value]:
    """An empty net with an f32 input `image` of [N, *shape]."""
    made = Net()
    return made, made.builder.input("image", TensorType("f32", (N, *shape)), "input")


def ops(graph: Graph, end: str | None = None) -> list[str]:
    """The chain of ops from an input to an output, by first operands."""
    node = graph[end or next(iter(graph.outputs.values()))]
    chain = []
    while node.inputs:
        chain.append(node.op)
        node = graph[node.inputs[0]]
    return chain[::-1]


def apply(name: str, net: Net, **settings) -> tuple[Graph, list[Rewrite]]:
    """The graph that a pass makes; it is verified, and in f64 all its results are those of the net."""
    graph = net.graph.copy()
    rewrites = PASSES[name].run(graph, context(**settings))
    verify(graph, before=net.graph)
    same(net, graph)
    return graph, rewrites


def same(net: Net, graph: Graph) -> None:
    values = {k: v.astype("f8") for k, v in net.parameters().items()}
    feeds = {k: v.astype("f8") if v.dtype == "f4" else v for k, v in net.feeds(2).items()}
    before, after = (run(g, feeds, values, "float64") for g in (net.graph, graph))
    for table in ("outputs", "losses", "metrics"):
        for key, node in getattr(net.graph, table).items():
            error = relative_error(before[node], after[getattr(graph, table)[key]])
            assert error <= TOLERANCE, f"{key}: {error:.1e}\n{net}"
    verify(expand(graph))


def outputs(net: Net, value: Value) -> Net:
    net.graph.outputs["y"] = value.name
    return net


def chain(shape: tuple[int, ...], *calls: tuple[str, dict]) -> Net:
    """A net of calls (op, arguments), each reading the one before."""
    made, y = net(shape)
    for op, given in calls:
        y = made.call(op, y, **given)
        assert y is not None, (op, given)
    return outputs(made, y)


def constant(net: Net, array) -> Value:
    return net.builder.constant(np.asarray(array))
