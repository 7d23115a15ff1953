"""deploy, evaluate and train are three programs of one net."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.interpret import run
from compiler.ir import Graph, Origin, TensorType
from compiler.ops import REGISTRY
from compiler.passes.expand import expand
from compiler.passes.select_mode import select_mode
from tests.compiler.ops.table import call


def net() -> tuple[Graph, dict[str, np.ndarray]]:
    graph = Graph("net")
    b = Builder(graph)
    n = symbol("N")
    x = b.input("x", TensorType("f32", (n, 4)), "input")
    y = b.input("y", TensorType("i32", (n,)), "label")
    b.origins = frozenset({Origin("layer", "a.net:1:1")})
    h = call(b, "dropout", [call(b, "batch_norm", [x], name="bn")], name="drop", rate=0.25)
    logits = call(b, "dense", [h], name="fc", units=3)
    graph.outputs["p"] = call(b, "softmax", [logits], name="p").name
    graph.losses["loss"] = call(b, "cross_entropy", [logits, y], name="loss").name
    graph.metrics["accuracy"] = call(b, "accuracy", [logits, y], name="accuracy").name
    stream = np.random.default_rng(0)
    return graph, {node.name: stream.uniform(0.1, 1, node.type.shape) for node in graph.leaves("parameter")}


FEEDS = {"x": np.random.default_rng(1).standard_normal((6, 4)), "y": np.array([0, 1, 2, 0, 1, 2])}


def test_deploy_keeps_what_outputs_need():
    graph, values = net()
    deployed = select_mode(graph, "deploy")
    assert "y" not in deployed and "loss" not in deployed and deployed.results() == ["p"]
    assert set(run(deployed, {"x": FEEDS["x"]}, values)) == {"p"}


def test_evaluate_measures_what_is_deployed():
    graph, values = net()
    deployed, evaluated = (run(select_mode(graph, m), FEEDS, values) for m in ("deploy", "evaluate"))
    np.testing.assert_array_equal(deployed["p"], evaluated["p"])
    p = deployed["p"][np.arange(6), FEEDS["y"]]
    np.testing.assert_allclose(evaluated["loss"], -np.log(p).mean(), rtol=1e-5)
    assert evaluated["accuracy"] == np.float32((deployed["p"].argmax(1) == FEEDS["y"]).mean())


def test_train_updates_state_and_drops_outputs():
    graph, values = net()
    trained = select_mode(graph, "train")
    assert not trained.outputs and set(trained.updates) == {"bn.running_mean", "bn.running_var"}
    assert not any(REGISTRY[node.op].modal for node in trained.nodes())
    assert {n.name for n in trained.leaves("input") if n.attrs["role"] == "scalar"} == {"seed", "step"}
    run(trained, {**FEEDS, "seed": 1, "step": 1}, values)


@pytest.mark.parametrize("mode", ["deploy", "evaluate", "train"])
def test_names_and_origins_survive(mode):
    graph, values = net()
    selected = select_mode(graph, mode)
    primitive = expand(selected)
    for g in (selected, primitive):
        assert all(node.origins == frozenset({Origin("layer", "a.net:1:1")}) for node in g.nodes()
                   if node.op not in ("input", "constant", "parameter"))
        assert {"bn", "fc"} <= set(g.nx)
    feeds = {**FEEDS, "seed": 1, "step": 1}
    left, right = (run(g, feeds, values, "float64") for g in (selected, primitive))
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-6, atol=1e-7)


def test_the_given_graph_is_not_changed():
    graph, _ = net()
    def state():
        tables = (graph.outputs, graph.losses, graph.updates)
        return [(n.name, n.op, n.inputs) for n in graph.nodes()], [dict(table) for table in tables]

    before = state()
    for mode in ("deploy", "evaluate", "train"):
        expand(select_mode(graph, mode))
    assert state() == before


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="deploy, evaluate, train"):
        select_mode(Graph(), "predict")
