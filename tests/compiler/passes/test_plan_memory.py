"""plan_memory: element-wise results take the memory of operands that die, where nothing can tell."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from compiler import programs
from compiler.build import Builder
from compiler.dims import symbol
from compiler.group import Group, Launch
from compiler.ir import Graph, TensorType
from compiler.lifetimes import lifetimes
from compiler.memory import max_live
from compiler.passes.plan_memory import plan_memory
from compiler.verify import verify
from tests.compiler.harness import executable
from tests.compiler.nets import nets
from tests.compiler.replay import planned, replay

N = symbol("N")
SGD = {"optimizer": {"name": "sgd", "args": {"momentum": 0.9}}}


def apart(*names: str, graph: Graph) -> Graph:
    """The graph with a kernel for each of the named nodes."""
    graph.kernels = [Launch([Group(name, [name], results=[name])]) for name in names]
    return verify(graph)


def chain(*ops: str) -> Graph:
    """Ops one behind the other, of [N, 8], each a kernel."""
    graph = Graph("chain")
    b = Builder(graph)
    value = b.input("x", TensorType("f32", (N, 8)), "input")
    names = [value := b.op(op, value, name=f"{op}{i}") for i, op in enumerate(ops)]
    graph.outputs["y"] = value.name
    return apart(*(v.name for v in names), graph=graph)


def context(training: bool = False):
    return programs.Options(batch=4).context(training)


def test_a_chain_needs_one_tensor():
    graph = chain("tanh", "exp", "neg", "sigmoid", "tanh")
    before = max_live(lifetimes(graph), {"N": 4})
    done = plan_memory(graph, context())
    assert [rewrite.what for rewrite in done] == ["exp1 is written over tanh0", "neg2 is written over tanh0",
                                                  "sigmoid3 is written over tanh0"]
    assert before == 2 * 4 * 8 * 4 and max_live(lifetimes(graph), {"N": 4}) == 4 * 8 * 4
    replay(planned(graph), 1, 4)
    x = np.linspace(-2, 2, 24, dtype="f4").reshape(3, 8)
    exe = executable({"plain": chain("tanh", "exp", "neg", "sigmoid", "tanh"), "run": graph})
    np.testing.assert_array_equal(exe.call("run", {"x": x})["y"], exe.call("plain", {"x": x})["y"])


def test_what_is_read_later_stays():
    graph = chain("tanh", "exp", "neg")
    b = Builder(graph)
    graph.outputs["y"] = b.op("add", b.value("neg2"), b.value("tanh0"), name="sum").name
    apart("tanh0", "exp1", "neg2", "sum", graph=graph)
    assert [rewrite.what for rewrite in plan_memory(graph, context())] == ["neg2 is written over exp1"]


def test_an_operand_that_is_repeated_stays():
    """Broadcasting reads an element again after it would have been overwritten."""
    graph = Graph("repeat")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (8, 8)), "input")
    row = b.op("tanh", b.input("r", TensorType("f32", (1, 8)), "input"), name="row")
    whole = b.op("mul", x, row, name="whole")
    graph.outputs["y"] = b.op("exp", whole, name="end").name
    assert plan_memory(apart("row", "whole", "end", graph=graph), context()) == []


def test_kernels_that_read_neighbours_write_elsewhere():
    graph = Graph("window")
    b = Builder(graph)
    x = b.op("tanh", b.input("x", TensorType("f32", (N, 2, 6, 6)), "input"), name="first")
    pool = b.op("max_pool", x, name="pool", kernel=(3, 3), stride=(1, 1), pad=((1, 1), (1, 1)), dilation=(1, 1),
                ceil=False)
    graph.outputs["y"] = b.op("exp", pool, name="end").name
    graph = apart("first", "pool", "end", graph=graph)
    assert graph["pool"].type == graph["first"].type and plan_memory(graph, context()) == []


@given(nets())
@settings(max_examples=15, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much])
def test_random_nets_overwrite_nothing_that_is_read(net):
    before = programs.kernels(programs.step(net.graph, SGD), programs.Options(off=("plan_memory",)), training=True)
    graph = before.copy()
    plan_memory(graph, context(training=True))
    for n in (1, 4):
        assert max_live(lifetimes(graph), {"N": n}) <= max_live(lifetimes(before), {"N": n})
    replay(planned(verify(graph)), 1, 3)
