"""Differentiation of graphs. (The gradient of each op is checked in ops/test_gradients.py.)"""

import numpy as np

from compiler.autodiff import differentiate
from compiler.build import Builder
from compiler.ir import Origin
from tests.compiler.ops.table import Case, T, graph_of
from tests.compiler.ops.test_gradients import gradients_of, weighed


def test_frozen_parameters_and_what_no_loss_needs_have_no_gradient():
    graph, values = graph_of(Case("conv", (T((1, 2, 4, 4)),), {"ch": 2, "k": 3, "frozen": True}))
    b = Builder(graph)
    unused = b.op("relu", b.value("x0"))
    weighed(graph, "y")
    joint, names = differentiate(graph)
    assert set(names) == {"x0"}
    assert unused.name not in joint


def test_gradients_carry_the_origins_of_their_layer():
    graph, _ = graph_of(Case("conv", (T((1, 2, 4, 4)),), {"ch": 2, "k": 3}))
    graph.update("y", origins=frozenset({Origin("c1", "a.net:3:5")}))
    weighed(graph, "y")
    joint, names = differentiate(graph)
    assert joint[names["y.weight"]].origins == frozenset({Origin("c1", "a.net:3:5")})
    assert names["y.weight"].startswith("grad/y/")


def test_several_losses_add_up():
    graph, values = graph_of(Case("square", (T((3, 4)),)))
    b = Builder(graph)
    graph.outputs.clear()
    for name in ("one", "two"):
        graph.losses[name] = (b.op("sum", b.value("y"), axes=(0, 1), keepdims=False) * 2).name
    got, _ = gradients_of(graph, values)
    np.testing.assert_allclose(got["x0"], 8 * values["x0"], rtol=1e-6)


def test_a_value_read_twice_gets_both_gradients():
    graph, values = graph_of(Case("mul", (T((3,)), T((3,)))))
    b = Builder(graph)
    y = b.value("y") + b.op("exp", b.value("x0"))
    weights = weighed(graph, y.name)
    got, _ = gradients_of(graph, values)
    np.testing.assert_allclose(got["x0"], weights * (values["x1"] + np.exp(values["x0"])), rtol=1e-6)


def test_the_given_graph_is_not_changed():
    graph, _ = graph_of(Case("tanh", (T((3,)),)))
    weighed(graph, "y")
    before = [node.name for node in graph.nodes()]
    differentiate(graph)
    assert [node.name for node in graph.nodes()] == before
