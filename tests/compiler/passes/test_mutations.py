"""Broken on purpose: each pass with a mistake in it is caught, by the verifier that runs behind it or by numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from compiler.build import Value
from compiler.ir import Graph, Node, TensorType
from compiler.passes import (
    clean,
    collapse_linear_chains,
    concat_gradients,
    fold_batch_norm,
    merge_sibling_convs,
    move_pooling,
)
from compiler.passes.base import PASSES
from compiler.passes.pipeline import KERNELS, LAYERS, PIPELINE
from compiler.verify import BrokenGraph
from tests.compiler.equivalence import config, graphs, wrong
from tests.compiler.nets import CLASSES, N, Net
from tests.compiler.passes.nets import constant, net

TRAIN = config("sgd")


@cache
def module() -> Net:
    """A net in which every pass finds something: normalization, siblings, a pool branch, a chain, a shortcut."""
    made = Net()
    b = made.builder
    x = b.input("image", TensorType("f32", (N, 6, 7, 8)), "input")
    label = b.input("label", TensorType("i32", (N,)), "label")
    stem = made.call("relu", made.call("batch_norm", made.call("conv", x, ch=6, k=3, pad="same", bias=False), eps=0.1))
    branches = [made.call("relu", made.call("conv", stem, ch=4)) for _ in range(3)]
    mean = made.call("avg_pool", stem, k=3, stride=1, pad=1, count_include_pad=True)
    branches.append(made.call("relu", made.call("conv", mean, ch=2)))
    maps = made.call("concat", *branches, axis=1)
    maps = made.call("add", maps, made.call("conv", made.call("conv", maps, ch=2), ch=14))
    pooled = made.call("max_pool", made.call("tanh", maps), k=2)
    logits = made.call("dense", made.call("flatten", pooled), units=CLASSES)
    made.graph.outputs["p"] = made.call("softmax", logits).name
    made.graph.losses["loss"] = made.call("cross_entropy", logits, label).name
    made.graph.metrics["accuracy"] = made.call("accuracy", logits, label).name
    return made


def problem(made: Net) -> str:
    """What all passes change of the numbers of a net; the verifier runs behind each."""
    return wrong(made.graph, made.feeds(2), made.parameters(), TRAIN)


def test_the_net_is_right():
    assert not problem(module())


# --- any pass: what the verifier sees ---------------------------------------------------------------------------------

def computed(graph: Graph) -> Node:
    """A node in the middle that something reads."""
    inner = [n for n in graph.sorted() if n.inputs and graph.users(n.name) and n.op not in ("reshape", "flatten")]
    return inner[len(inner) // 2]


def loses_an_origin(graph: Graph) -> None:
    lost = computed(graph).origins
    for node in list(graph.nodes()):
        graph.update(node.name, origins=node.origins - lost)


def gives_a_wrong_type(graph: Graph) -> None:
    node = computed(graph)
    graph.update(node.name, type=node.type.with_shape(*node.type.shape, 1))


def leaves_a_dangling_use(graph: Graph) -> None:
    name = computed(graph).name
    graph.nx.remove_node(name)


def reads_without_an_edge(graph: Graph) -> None:
    node = computed(graph)
    graph.nx.nodes[node.name]["node"] = replace(node, inputs=("image", *node.inputs[1:]) if node.inputs[0] != "image"
                                                else (*node.inputs, "image"))


def makes_a_cycle(graph: Graph) -> None:
    node = computed(graph)
    graph.nx.add_edge(graph.users(node.name)[0].name, node.name, key=len(node.inputs))


def drops_a_result(graph: Graph) -> None:
    for table in (graph.outputs, graph.losses):
        table.clear()


def swaps_results(graph: Graph) -> None:
    for table in (graph.outputs, graph.losses):
        for key in table:
            table[key] = next(n.name for n in graph.sorted() if n.inputs and n.type != graph[table[key]].type)


def uses_an_unknown_op(graph: Graph) -> None:
    graph.update(computed(graph).name, op="convolute")


def forgets_an_update(graph: Graph) -> None:
    if graph.updates:
        del graph.updates[next(iter(graph.updates))]


ANYWHERE = [loses_an_origin, gives_a_wrong_type, leaves_a_dangling_use, reads_without_an_edge, makes_a_cycle,
            drops_a_result, swaps_results, uses_an_unknown_op]


def mutate(monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[Graph], None]) -> None:
    """Pass `name` does its work and then some damage."""
    chosen = PASSES[name]

    def run(graph, context):
        done = chosen.run(graph, context)
        damage(graph)
        return done

    monkeypatch.setitem(PASSES, name, replace(chosen, run=run))


def caught(program: str = "run") -> None:
    with pytest.raises(BrokenGraph):
        graphs(module().graph, TRAIN, check=True, names=[program])


@pytest.mark.parametrize("damage", ANYWHERE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", PIPELINE)
def test_damage_behind_any_pass_is_caught_by_the_verifier(name, damage, monkeypatch):
    mutate(monkeypatch, name, damage)
    caught()


@pytest.mark.parametrize("name", [p for p in PIPELINE if p not in LAYERS and PASSES[p].training])
def test_a_lost_update_is_caught(name, monkeypatch):
    mutate(monkeypatch, name, forgets_an_update)
    caught("step")


# --- passes on kernels: what else the verifier sees -------------------------------------------------------------------

def forgets_a_kernel(graph: Graph) -> None:
    graph.kernels.pop()


def computes_twice(graph: Graph) -> None:
    graph.kernels.append(graph.kernels[0].copy())


def runs_too_early(graph: Graph) -> None:
    graph.kernels.reverse()


def writes_beyond_the_whole(graph: Graph) -> None:
    for name, place in graph.places.items():
        graph.places[name] = replace(place, starts=(place.starts[0], place.starts[1] + 1000, *place.starts[2:]))


@pytest.mark.parametrize("damage", [forgets_a_kernel, computes_twice, runs_too_early], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", KERNELS)
def test_damage_to_kernels_is_caught(name, damage, monkeypatch):
    mutate(monkeypatch, name, damage)
    caught()


def test_a_place_outside_is_caught(monkeypatch):
    mutate(monkeypatch, "eliminate_concat", writes_beyond_the_whole)
    caught()


# --- each pass: mistakes that leave a right graph, and wrong numbers --------------------------------------------------

def chain(shape: tuple[int, ...], *calls: tuple[str, dict]) -> Net:
    """A net of calls (op, arguments), each reading the one before, with a loss."""
    made, y = net(shape)
    for op, given in calls:
        y = made.call(op, y, **given)
        assert y is not None, (op, given)
    return finished(made, y)


def finished(made: Net, y: Value) -> Net:
    made.graph.outputs["y"] = y.name
    made.graph.losses["loss"] = made.call("mean", made.call("square", y)).name
    return made


def branches(*calls: tuple[str, dict]) -> Net:
    """Each call reads the same maps; a concat joins what they make."""
    made, x = net((32, 6, 6))
    stem = made.call("tanh", made.call("conv", x, ch=32))
    ends = []
    for op, given in calls:
        y = made.call(op, stem, **given)
        ends.append(made.call("relu", y) if op == "conv" else y)
    return finished(made, made.call("concat", *ends, axis=1))


def idle() -> Net:
    """A convolution that no loss depends on, beside two that learn."""
    made, x = net((32, 6, 6))
    ends = [made.call("relu", made.call("conv", x, ch=4)) for _ in range(2)]
    made.call("batch_norm", made.call("conv", x, ch=4), eps=0.1)  # its running mean is what it is for
    return finished(made, made.call("concat", *ends, axis=1))


def halved() -> Net:
    made, x = net((4,))
    y = made.call("tanh", made.call("dense", x, units=3))
    return finished(made, made.call("mul", y, constant(made, np.float32(0.5))))


def fold_without_shift(patch):
    found = fold_batch_norm._affine

    def affine(graph, node):
        right = found(graph, node)
        return right and replace(right, read=lambda b: replace(right.read(b), shift=None))
    patch.setattr(fold_batch_norm, "_affine", affine)


def fold_across_a_border(patch):
    found = fold_batch_norm._affine

    def affine(graph, node):
        right = found(graph, node)
        return right and replace(right, shifts=False)
    patch.setattr(fold_batch_norm, "_affine", affine)


def fold_columns_for_rows(patch):
    patch.setattr(fold_batch_norm, "_rows", lambda b, value, rank: b.op(
        "reshape", value, shape=(1, value.shape[0], *[1] * (rank - 2))))


def fold_without_eps(patch):
    found = fold_batch_norm._affine
    patch.setattr(fold_batch_norm, "_affine", lambda graph, node: found(
        graph, replace(node, attrs={**node.attrs, "eps": 0.0})))


def collapse_without_inner_bias(patch):
    found = collapse_linear_chains._product_of

    def product(b, first, second):
        right = found(b, first, second)
        return replace(right, bias=second.bias)
    patch.setattr(collapse_linear_chains, "_product_of", product)


def move_what_is_not_monotone(patch):
    patch.setitem(move_pooling.MONOTONE, "abs", lambda a: True)


def move_a_bias_into_padding(patch):
    patch.setattr(move_pooling, "apart", lambda conv, pool: False)


def merge_with_branches_swapped(patch):
    found = merge_sibling_convs._merge

    def merge(graph, siblings, activations):
        old = set(graph.nx)
        found(graph, siblings, activations)
        first, second, *_ = (n for n in list(graph.nodes()) if n.op == "slice" and n.name not in old)
        graph.update(first.name, attrs=second.attrs)
        graph.update(second.name, attrs=first.attrs)
    patch.setattr(merge_sibling_convs, "_merge", merge)


def merge_what_does_not_learn(patch):
    patch.setattr(Graph, "needed", lambda graph, names: {n.name for n in graph.nodes()})


def concat_in_the_wrong_order(patch):
    found = concat_gradients._join
    patch.setattr(concat_gradients, "_join", lambda graph, sums, parts, axis: found(graph, sums, parts[::-1], axis))


def clean_without_looking_at_attributes(patch):
    patch.setattr(clean, "node_key", lambda node: (node.op, node.inputs, node.type))


def precision_that_nobody_asked_for(patch):
    chosen = PASSES["choose_precision"]
    patch.setitem(PASSES, "choose_precision", replace(chosen, run=lambda graph, context: chosen.run(
        graph, replace(context, precision="bf16"))))


def clean_a_neutral_number_that_is_none(patch):
    patch.setitem(clean.IDENTITIES, "mul", [("x * 0.5 -> x", clean._neutral(1, 0.5))])


CONV, SIBLINGS = ("conv", {"ch": 6, "k": 3}), [("conv", {"ch": 4})] * 3
MEAN = ("avg_pool", {"k": 3, "stride": 1, "pad": 1, "count_include_pad": True})
LEAKY = [("leaky_relu", {"slope": slope}) for slope in (0.1, 0.3)]
PARTS = [("slice", {"axis": 1, "start": i, "stop": i + 16}) for i in (0, 16)]
MISTAKES = [
    (fold_without_shift, lambda: chain((6, 5, 5), CONV, ("batch_norm", {}))),
    (fold_across_a_border, lambda: chain((6, 5, 5), ("batch_norm", {}), ("conv", {"ch": 6, "k": 3, "pad": 1}))),
    (fold_columns_for_rows, lambda: chain((6, 5, 5), CONV, ("batch_norm", {}))),
    (fold_without_eps, lambda: chain((6, 5, 5), CONV, ("batch_norm", {"eps": 0.1}))),
    (collapse_without_inner_bias, lambda: chain((8, 5, 5), CONV, ("conv", {"ch": 2}))),
    (move_what_is_not_monotone, lambda: chain((6, 6, 6), ("abs", {}), ("max_pool", {"k": 2}), ("scale", {"by": 2.0}))),
    (move_a_bias_into_padding, lambda: chain((64, 6, 6), MEAN, ("conv", {"ch": 4}))),
    (merge_with_branches_swapped, lambda: branches(*SIBLINGS)),
    (merge_what_does_not_learn, idle),
    (concat_in_the_wrong_order, lambda: branches(*PARTS)),
    (clean_without_looking_at_attributes, lambda: branches(*LEAKY)),
    (clean_a_neutral_number_that_is_none, halved),
    (precision_that_nobody_asked_for, halved),
]


@pytest.mark.parametrize("mistake, make", MISTAKES, ids=lambda f: f.__name__ if f.__name__ != "<lambda>" else "")
def test_a_mistake_is_caught(mistake, make, monkeypatch):
    """By the numbers, forward or backward, or by the verifier, and only where there is one."""
    made = make()
    assert not problem(made)
    mistake(monkeypatch)
    try:
        found = problem(made)
    except BrokenGraph as broken:
        found = str(broken)
    assert found
