"""Sums of padded gradients become concats where the parts tile the whole, and stay what they were where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.autodiff import differentiate
from compiler.build import Builder
from compiler.interpret import run
from compiler.ir import Graph, Node, Origin, TensorType
from compiler.passes.base import Context
from compiler.passes.concat_gradients import concat_gradients
from compiler.verify import verify

NOTHING = Context(lambda graph, nodes: 0.0)
SHAPE = (2, 9, 3)


def of_slices(bounds: list[tuple[int, int]], axis: int = 1) -> Graph:
    """The gradient of a parameter that branches read in slices."""
    graph = Graph("slices")
    b = Builder(graph)
    graph.add(Node("w", "parameter", (), TensorType("f32", SHAPE), {"trainable": True}))
    total = None
    for i, (start, stop) in enumerate(bounds):
        b.origins = frozenset({Origin(f"part{i}", f"a.net:{i + 1}:1")})
        part = b.op("slice", b.value("w"), name=f"s{i}", axis=axis, start=start, stop=stop)
        part = b.op("sum", b.op("tanh", part) * (i + 1.0), axes=(0, 1, 2), keepdims=False)
        total = part if total is None else total + part
    graph.losses["l"] = total.name
    joint, gradients = differentiate(graph)
    joint.gradients = dict(gradients)
    return joint


def join(graph: Graph) -> tuple[Graph, int]:
    after = graph.copy()
    done = concat_gradients(after, NOTHING)
    verify(after, before=graph)
    values = {"w": np.random.default_rng(0).standard_normal(SHAPE)}
    old, new = (run(g, {}, values, "float64", every=True) for g in (graph, after))
    np.testing.assert_array_equal(old[graph.gradients["w"]], new[after.gradients["w"]])
    return after, len(done)


@pytest.mark.parametrize("bounds", [[(0, 4), (4, 9)], [(3, 7), (0, 3), (7, 9)], [(i, i + 1) for i in range(9)]])
def test_parts_that_tile_the_whole_become_a_concat(bounds):
    before = of_slices(bounds)
    after, done = join(before)
    assert done == 1 and sum(n.op == "pad" for n in before.nodes()) == len(bounds)
    assert not any(n.op == "pad" for n in after.nodes())
    concat, = (n for n in after.nodes() if n.op == "concat")
    assert after.gradients == {"w": concat.name} and len(concat.inputs) == len(bounds)
    assert {o.layer for o in concat.origins} == {f"part{i}" for i in range(len(bounds))}


@pytest.mark.parametrize("bounds", [[(0, 4), (5, 9)], [(0, 5), (4, 9)], [(1, 4), (4, 9)], [(0, 4), (4, 8)],
                                    [(0, 9), (0, 9)]])
def test_gaps_and_overlaps_stay_sums(bounds):
    before = of_slices(bounds)
    after, done = join(before)
    assert done == 0 and len(after) == len(before)


def test_parts_of_a_longer_sum():
    """(c + b) + a, where b and c tile the whole: only they are joined."""
    after, done = join(of_slices([(0, 4), (0, 4), (4, 9)]))
    assert done == 1 and [sum(n.op == op for n in after.nodes()) for op in ("concat", "pad")] == [1, 1]


def test_other_axes():
    assert join(of_slices([(0, 1), (1, 3)], axis=2))[1] == 1


def test_pads_along_two_axes_and_by_other_values_stay_sums():
    for before, value in (((0, 4, 1), 0.0), ((0, 4, 0), 1.0)):
        graph = Graph()
        b = Builder(graph)
        left = b.input("left", TensorType("f32", (2, 4, 3 - before[2])), "input")
        right = b.input("right", TensorType("f32", (2, 5, 3 - before[2])), "input")
        pads = [b.op("pad", left, before=(0, 0, before[2]), after=(0, 5, 0), value=value),
                b.op("pad", right, before=before, after=(0, 0, 0), value=value)]
        graph.outputs["y"] = (pads[0] + pads[1]).name
        assert concat_gradients(graph, NOTHING) == []


def test_a_sum_inside_that_is_read_elsewhere_stays():
    before = of_slices([(0, 3), (3, 6), (6, 9)])
    inner = next(n for n in before.nodes() if n.op == "add" and n.name not in before.gradients.values()
                 and n.type.shape == SHAPE)
    before.outputs["inner"] = inner.name
    after, done = join(before)
    assert done == 0 and after.outputs == {"inner": inner.name}
