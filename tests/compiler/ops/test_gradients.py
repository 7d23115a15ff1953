"""Gradients of every differentiable op: against finite differences in f64 and against JAX."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiler.autodiff import differentiate
from compiler.build import Builder
from compiler.interpret import relative_error, run
from compiler.ir import Graph, Node, TensorType
from compiler.ops import REGISTRY
from compiler.passes.select_mode import select_mode
from tests.compiler.ops.peers import PEERS, batch_norm_training
from tests.compiler.ops.table import CASES, Case, T, call, graph_of

SMOOTH = [case for case in CASES if not REGISTRY[case.op].undifferentiable
          and any(t.dtype == "f32" for t in case.operands) and case.given.get("dtype") != "i32"]
CONSTANTS = 1e-7  # numbers in graphs are f32: relative


def weighed(graph: Graph, result: str) -> np.ndarray:
    """Makes the loss of `graph` the sum of the result, weighed element by element; returns the weights."""
    b = Builder(graph)
    y = b.value(result)
    weights = np.random.default_rng(3).uniform(0.5, 1.5, y.shape).astype("float32")
    total = b.op("sum", y * b.constant(weights, name="weights"), axes=tuple(range(y.type.rank)), keepdims=False,
                 name="loss") \
        if y.shape else y * b.constant(weights, name="weights")
    graph.losses["loss"] = total.name
    graph.outputs.clear()
    return weights


def gradients_of(graph: Graph, values: dict) -> tuple[dict[str, np.ndarray], Graph]:
    joint, names = differentiate(graph)
    everything = run(joint, {}, values, "float64", every=True)
    return {p: everything[g] for p, g in names.items()}, joint


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_finite_differences_agree(case):
    graph, values = graph_of(case)
    weighed(graph, "y")
    got, joint = gradients_of(graph, values)
    stream = np.random.default_rng(1)
    loss = graph.losses["loss"]
    for name in (node.name for node in graph.leaves("parameter") if node.attrs["trainable"]):
        direction = np.zeros(values[name].shape)
        some = stream.permutation(direction.size)[:200]
        direction.flat[some] = stream.choice([-1.0, 1.0], some.size)
        h = 1e-5
        up, down = (run(graph, {}, {**values, name: values[name] + s * h * direction}, "float64")[loss] for s in (1,
                                                                                                                  -1))
        want = (up - down) / (2 * h)
        gradient = got.get(name, np.zeros(direction.shape))
        scale = np.abs(gradient * direction).sum() + np.abs(up) * 1e-3 + 1e-12
        assert abs(want - (gradient * direction).sum()) <= 2e-6 * scale, name


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_jax_agrees(case):
    graph, values = graph_of(case)
    node = graph["y"]
    constants = {n.name: n.attrs["value"] for n in graph.leaves("constant")}
    operands = {name: jnp.asarray(values.get(name, constants.get(name))) for name in node.inputs}
    weights = weighed(graph, "y")
    got, _ = gradients_of(graph, values)
    a = SimpleNamespace(**node.attrs)

    def loss(floats):
        y = PEERS[case.op](a, *({**operands, **floats}[name] for name in node.inputs))
        return (y * weights).sum()

    floats = {name: v for name, v in operands.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    want = jax.grad(loss)(floats)
    for name in floats:
        if graph[name].attrs["trainable"] and (name in got or np.abs(want[name]).max() > 0):
            assert relative_error(np.asarray(want[name]), got[name]) < 5 * CONSTANTS, name


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)], ids=str)
def test_batch_norm_in_training(shape):
    graph = Graph("bn")
    values = {"x": T(shape).draw(np.random.default_rng(0)), "y.weight": np.array([0.5, 1, 2]), "y.bias": np.zeros(3),
              "y.running_mean": np.array([1.0, 2, 3]), "y.running_var": np.array([1.0, 2, 3])}
    graph.add(Node("x", "parameter", (), TensorType("f32", shape), {"trainable": True}))
    b = Builder(graph)
    call(b, "batch_norm", [b.value("x")], momentum=0.25)
    weights = weighed(graph, "y")
    trained = select_mode(graph, "train")
    got, joint = gradients_of(trained, values)
    a = SimpleNamespace(eps=1e-5)
    want = jax.grad(lambda *xs: (batch_norm_training(a, *xs) * weights).sum(), argnums=(0, 1, 2))(
        *(jnp.asarray(values[n]) for n in ("x", "y.weight", "y.bias")))
    for name, gradient in zip(("x", "y.weight", "y.bias"), want):
        np.testing.assert_allclose(got[name], gradient, rtol=1e-6, atol=1e-7)
    updates = run(trained, {}, values, "float64")
    axes = (0, *range(2, len(shape)))
    new_mean, new_var = (updates[trained.updates[f"y.running_{n}"]] for n in ("mean", "var"))
    np.testing.assert_allclose(new_mean, 0.75 * np.array([1, 2, 3]) + 0.25 * values["x"].mean(axes), rtol=1e-6)
    np.testing.assert_allclose(new_var, 0.75 * np.array([1, 2, 3]) + 0.25 * values["x"].var(axes, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.op in ("max_pool", "avg_pool", "conv", "lrn", "relu")], ids=str)
def test_gradients_can_be_differentiated(case):
    """The gradient of |dloss/dx|^2, against finite differences."""
    graph, values = graph_of(case)
    weighed(graph, "y")
    joint, names = differentiate(graph)
    b = Builder(joint)
    g = b.value(names["x0"])
    joint.losses["loss"] = b.op("sum", b.op("square", g), axes=tuple(range(g.type.rank)), keepdims=False,
                                name="second").name
    second, again = differentiate(joint)
    got = run(second, {}, values, "float64", every=True)
    for name in ("x0", "y.weight"):
        if name not in again:
            continue
        direction = np.random.default_rng(5).choice([-1.0, 1.0], values[name].shape)
        up, down = (run(joint, {}, {**values, name: values[name] + s * 1e-5 * direction}, "float64")["second"]
                    for s in (1, -1))
        terms = got[again[name]] * direction
        assert abs((up - down) / 2e-5 - terms.sum()) <= 1e-5 * (np.abs(terms).sum() + abs(up)), name


def test_ties_of_a_maximum_go_to_the_first():
    for op, given in (("max_pool", {"k": (2, 2)}), ("max", {"axes": (2, 3)}), ("global_max_pool", {})):
        graph, values = graph_of(Case(op, (T((1, 1, 2, 2)),), given))
        weights = weighed(graph, "y")
        got, _ = gradients_of(graph, {"x0": np.ones((1, 1, 2, 2))})
        np.testing.assert_array_equal(got["x0"][0, 0], [[weights.item(), 0], [0, 0]])


def test_table_is_complete():
    """Every op of the language is in the table, is documented, has a meaning, and either a checked gradient or a reason
    why it has none."""
    covered, smooth = {case.op for case in CASES}, {case.op for case in SMOOTH}
    for op in REGISTRY.values():
        if op.signature is None:
            continue
        assert op.doc, op.name
        if op.has("expand_results"):
            continue
        assert op.name in covered and op.has("numpy"), op.name
        assert op.undifferentiable or (op.name in smooth and op.name in PEERS), op.name
        assert op.has("expand") or op.has("scalar") or op.has("compute"), op.name
