"""The verifier refuses every way in which a pass can break a graph."""

from dataclasses import replace

import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.ir import Graph, Node, Origin, TensorType
from compiler.verify import BrokenGraph, verify

N = symbol("N")
ORIGIN = frozenset({Origin("layer", "t.net:1:1")})


def small() -> Graph:
    graph = Graph("small")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 4)), "input")
    with b.within("layer", ORIGIN):
        y = b.op("relu", x)
    z = b.op("tanh", y)
    graph.outputs = {"p": z.name}
    return graph


def test_a_right_graph_passes():
    graph = small()
    assert verify(graph, before=small()) is graph


def wrong_type(graph):
    graph.update("tanh", type=TensorType("f32", (N, 5)))


def unknown_op(graph):
    graph.nx.nodes["tanh"]["node"] = replace(graph["tanh"], op="tonh")


def edges_that_disagree(graph):
    graph.nx.nodes["tanh"]["node"] = replace(graph["tanh"], inputs=("x",))


def a_cycle(graph):
    graph.nx.add_edge("tanh", "layer/relu", key=1)


def a_lost_output(graph):
    graph.outputs["q"] = "nowhere"


def an_update_of_another_type(graph):
    graph.add(Node("w", "parameter", (), TensorType("f32", (3,))))
    graph.updates["w"] = "tanh"


@pytest.mark.parametrize("damage", [wrong_type, unknown_op, edges_that_disagree, a_cycle, a_lost_output,
                                    an_update_of_another_type], ids=lambda f: f.__name__)
def test_a_broken_graph_is_refused(damage):
    graph = small()
    damage(graph)
    with pytest.raises(BrokenGraph):
        verify(graph)


def test_a_pass_may_not_lose_origins():
    graph = small()
    graph.update("layer/relu", origins=frozenset())
    with pytest.raises(BrokenGraph, match="origins"):
        verify(graph, before=small())


def test_a_pass_may_not_change_outputs():
    graph = small()
    graph.outputs = {"q": "tanh"}
    with pytest.raises(BrokenGraph, match="outputs"):
        verify(graph, before=small())
