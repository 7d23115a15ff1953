"""The text form of the IR: what is printed reads back, and what is no IR is refused with its line."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.ir import Graph, Node, Origin, TensorType
from compiler.text import from_text, to_text
from runtime.errors import NetcError


def small() -> Graph:
    graph = Graph("small")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (symbol("N"), (symbol("H") + 1) // 2)), "input")
    graph.add(Node("w", "parameter", (), TensorType("f32", (3,)), {"init": np.arange(3, dtype="f4")},
                   frozenset({Origin("a/b", "t.net:1:2"), Origin("c", "t.net:3:4")})))
    y = b.op("sum", x * 2.0, axes=(1,), keepdims=False)
    graph.outputs, graph.losses = {"p": y.name}, {"loss": y.name}
    graph.updates, graph.gradients = {"w": "w"}, {"w": "w"}
    return graph


def test_reads_back():
    graph = small()
    again = from_text(to_text(graph))
    assert to_text(again) == to_text(graph)
    assert again["w"].origins == graph["w"].origins and again["x"].type == graph["x"].type
    np.testing.assert_array_equal(again["w"].attrs["init"], graph["w"].attrs["init"])
    for table in ("outputs", "losses", "updates", "gradients"):
        assert getattr(again, table) == getattr(graph, table)


@pytest.mark.parametrize("old, new, line", [
    ("= sum(", "= summ(", 5), ("f32[3]", "f33[3]", 2), ("f32[3]", "f32[3 +]", 2), ("%x, ", "%z, ", 4),
    ("output p = %sum", "output p = %sam", 6), ('{"init"', '{"init', 2),
])
def test_a_damaged_line_is_named(old, new, line):
    text = to_text(small())
    assert old in text
    with pytest.raises(NetcError) as caught:
        from_text(text.replace(old, new, 1), "x.txt")
    assert caught.value.code == "E0620" and caught.value.where.startswith("x.txt:")


@pytest.mark.parametrize("text", ["", "hello", "graph {", "}"])
def test_what_is_no_graph_is_refused(text):
    with pytest.raises(NetcError) as caught:
        from_text(text)
    assert caught.value.code == "E0620"
