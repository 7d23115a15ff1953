"""What does nothing is gone, what is computed twice is computed once, and numbers and origins stay."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from compiler import programs
from compiler.build import Builder
from compiler.interpret import relative_error, run
from compiler.ir import Graph, Node, Origin, TensorType
from compiler.passes import clean as module
from compiler.passes.base import PASSES
from compiler.text import to_text
from compiler.verify import verify
from tests.compiler.nets import N, nets
from tests.compiler.passes.nets import TOLERANCE, context

QUICK = settings(max_examples=25, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
                 suppress_health_check=list(HealthCheck))
X = TensorType("f32", (N, 4))


def build(make) -> Graph:
    """The graph whose output `y` is make(builder, x); each node comes from a layer of its own name."""
    graph = Graph("net")
    b = Builder(graph)
    graph.outputs["y"] = make(b, b.input("x", X, "input")).name
    for node in graph.nodes():
        if node.inputs:
            graph.update(node.name, origins=frozenset({Origin(node.name, "a.net:1:1")}))
    return verify(graph)


def cleaned(graph: Graph) -> tuple[Graph, list[str]]:
    """What the pass makes, and what it said; verified, and with the same outputs in f64."""
    result = graph.copy()
    rewrites = PASSES["clean"].run(result, context())
    verify(result, before=graph)
    assert all(r.taken for r in rewrites)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4))}
    values = {n.name: np.random.default_rng(1).standard_normal(n.type.shape) for n in graph.leaves("parameter")}
    before, after = (run(g, feeds, values, "float64")[g.outputs["y"]] for g in (graph, result))
    assert relative_error(before, after) <= TOLERANCE
    return result, [r.what for r in rewrites]


def ops(graph: Graph) -> list[str]:
    return sorted(n.op for n in graph.nodes() if n.op != "input")


# op of IDENTITIES → what it does nothing in
NOTHING = {
    "add": lambda b, x: b.op("add", 0, x) + 0.0,
    "sub": lambda b, x: x - 0,
    "mul": lambda b, x: b.op("mul", 1, x) * 1.0,
    "div": lambda b, x: x / 1,
    "neg": lambda b, x: -(-x),
    "copy": lambda b, x: b.op("copy", x),
    "cast": lambda b, x: b.op("cast", x, dtype="f32"),
    "reshape": lambda b, x: b.op("reshape", x, shape=(N, 4)),
    "flatten": lambda b, x: b.op("flatten", x, shape=(N, 4)),
    "broadcast_to": lambda b, x: b.op("broadcast_to", x, shape=(N, 4)),
    "transpose": lambda b, x: b.op("transpose", x, order=(0, 1)),
    "concat": lambda b, x: b.op("concat", x, axis=1),
    "slice": lambda b, x: b.op("slice", x, axis=1, start=0, stop=4, step=1),
    "pad": lambda b, x: b.op("pad", x, before=(0, 0), after=(0, 0), value=0.0),
}


def test_every_identity_has_a_case():
    assert {*NOTHING, "relu"} == set(module.IDENTITIES)


@pytest.mark.parametrize("op", NOTHING)
def test_what_does_nothing_is_gone(op):
    graph = build(lambda b, x: b.op("tanh", NOTHING[op](b, b.op("exp", x))))
    assert op in ops(graph)
    result, said = cleaned(graph)
    assert ops(result) == ["exp", "tanh"] and said
    assert {o.layer for n in result.nodes() for o in n.origins} == {o.layer for n in graph.nodes() for o in n.origins}


def test_relu_of_relu():
    result, said = cleaned(build(lambda b, x: b.op("relu", b.op("relu", x))))
    assert ops(result) == ["relu"] and said == ["relu(relu(x)) -> relu(x)"]


@pytest.mark.parametrize("make", [
    lambda b, x: x + b.constant(np.zeros((5, 1, 4))),               # makes x larger by broadcasting
    lambda b, x: x + 1e-30,
    lambda b, x: x * b.constant(np.array([1, 1, 1, 2.0])),
    lambda b, x: b.op("sub", 0, x),
    lambda b, x: b.op("div", 1, x),
    lambda b, x: b.op("cast", b.op("cast", x, dtype="f64"), dtype="f32"),
    lambda b, x: b.op("slice", x, axis=1, start=0, stop=3, step=1),
    lambda b, x: b.op("transpose", x, order=(1, 0)),
])
def test_what_does_something_stays(make):
    graph = build(make)
    assert ops(cleaned(graph)[0]) == ops(graph)


def test_constants_become_one_and_then_nothing():
    result, _ = cleaned(build(lambda b, x: b.op("exp", x * (b.constant(4.0) * b.constant(0.25)))))
    assert ops(result) == ["exp"]
    result, said = cleaned(build(lambda b, x: x * (b.constant(4.0) * b.constant(0.5))))
    assert ops(result) == ["constant", "mul"] and any("constant" in what for what in said)


def test_an_output_that_is_an_input_keeps_its_layer():
    graph = build(lambda b, x: x * 1)
    assert "mul" in ops(cleaned(graph)[0])


def test_large_constants_are_left_to_be_computed():
    size = module.FOLDED_SIZE // 4 + 1
    result, _ = cleaned(build(lambda b, x: x + b.op(
        "sum", b.op("broadcast_to", b.constant(np.ones(4)), shape=(size, 4)), axes=(0,), keepdims=False)))
    assert "broadcast_to" in ops(result)


def test_what_is_computed_twice_is_computed_once():
    graph = build(lambda b, x: b.op("exp", b.op("square", x)) + b.op("exp", b.op("square", x)))
    result, said = cleaned(graph)
    assert ops(result) == ["add", "exp", "square"]
    assert said.count("exp is computed once instead of twice") == 1
    assert len({o.layer for n in result.nodes() for o in n.origins}) == 5


def test_only_equal_attributes_make_equal_nodes():
    graph = build(lambda b, x: b.op("leaky_relu", x, slope=0.1) + b.op("leaky_relu", x, slope=0.2))
    assert ops(cleaned(graph)[0]) == ["add", "leaky_relu", "leaky_relu"]


def test_random_numbers_are_never_joined():
    graph = build(lambda b, x: x)
    b = Builder(graph)
    seed, step = (b.input(name, TensorType(dtype, ())) for name, dtype in (("seed", "u32"), ("step", "f32")))
    twice = [b.op("random_uniform", seed, step, b.value("x"), stream=3) for _ in range(2)]
    graph.outputs["y"] = (twice[0] + twice[1]).name
    PASSES["clean"].run(graph, context())
    assert ops(graph) == ["add", "random_uniform", "random_uniform"]


def test_dead_code_is_gone_but_for_inputs():
    graph = build(lambda b, x: b.op("exp", x))
    b = Builder(graph)
    graph.add(Node("w", "parameter", (), X, {}))
    b.op("tanh", b.input("unused", X, "input"))
    result = graph.copy()
    rewrites = PASSES["clean"].run(result, context())
    assert {n.name for n in result.nodes()} == {"x", "unused", "exp"}
    assert rewrites[-1].what == "2 nodes that no result needs are gone"


def test_the_text_before_and_after():
    graph = build(lambda b, x: b.op("exp", x * 1))
    assert "%exp = exp(%mul)" in to_text(graph)
    text = to_text(cleaned(graph)[0])
    assert "%exp = exp(%x)" in text and "mul(" not in text and '["mul", "a.net:1:1"]' in text


@given(nets())
@QUICK
def test_numbers_stay_on_random_nets(net):
    """Outputs, losses, metrics, and what a step of training makes of the parameters."""
    config = {"optimizer": {"name": "sgd", "args": {"momentum": 0.5}}}
    values = {k: v.astype("f8") for k, v in net.parameters().items()}
    feeds = net.feeds(2) | {"lr": 0.1, "step": 1, "seed": 3}
    kept = programs.Options(only=["clean"], check=True)
    raw = programs.Options(off=["clean", *programs.LAYERS])
    for name, make in (("run", programs.run), ("evaluate", programs.evaluate),
                       ("step", lambda graph, options: programs.step(graph, config, options))):
        plain, made = make(net.graph, raw), make(net.graph, kept)
        assert len(made) <= len(plain)
        start = {n.name: np.full(n.type.shape, 0.125) for n in plain.leaves("parameter")} | values
        before, after = (run(g, feeds, start, "float64") for g in (plain, made))
        for table in ("outputs", "losses", "metrics", "updates"):
            for key, node in getattr(plain, table).items():
                error = relative_error(before[node], after[getattr(made, table)[key]])
                assert error <= TOLERANCE, f"{name}: {key}: {error:.1e}\n{net}"
        again = made.copy()
        assert not PASSES["clean"].run(again, context())
