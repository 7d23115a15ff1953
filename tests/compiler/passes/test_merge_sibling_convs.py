"""Parallel convolutions become one where that pays; results, gradients, parameters and origins stay what they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.autodiff import differentiate
from compiler.build import Builder, Value
from compiler.cost import MACHINES, seconds
from compiler.dims import symbol
from compiler.interpret import relative_error, run
from compiler.ir import Graph, Origin, TensorType
from compiler.kernels import with_kernels
from compiler.passes.base import Context, Rewrite
from compiler.passes.merge_sibling_convs import merge_sibling_convs
from compiler.verify import BrokenGraph, verify
from tests.compiler.ops.table import call

N = symbol("N")
FEWER_CONVS = Context(lambda graph, nodes: float(sum(node.op == "conv" for node in nodes)))  # merging always pays
LEARNING = replace(FEWER_CONVS, training=True)


class Net:
    """A net under construction: `conv` and the like add layers as the elaborator would."""

    def __init__(self, *shape: int):
        self.graph = Graph("net")
        self.b = Builder(self.graph)
        self.x = self.b.input("x", TensorType("f32", (N, *(shape or (4, 5, 6)))), "input")

    def __call__(self, name: str, op: str, *xs: Value, **given) -> Value:
        self.b.origins = frozenset({Origin(name, f"a.net:{len(self.graph)}:1")})
        return call(self.b, op, list(xs), name=name, **given)

    def result(self, *values: Value) -> Graph:
        self.graph.outputs = {v.name: v.name for v in values}
        return self.graph


def siblings(*activations: str, **given) -> Graph:
    """A branch for each activation ("" for none): convolutions to 2, 3, 4… channels of one input."""
    net = Net()
    ends = []
    for i, activation in enumerate(activations):
        conv = net(f"c{i}", "conv", net.x, ch=i + 2, **given)
        ends.append(net(f"a{i}", activation, conv) if activation else conv)
    return net.result(net("y", "concat", *ends, axis=1))


def ops(graph: Graph) -> list[str]:
    return sorted(n.op for n in graph.nodes() if n.op not in ("input", "parameter", "constant"))


def merge(graph: Graph, context: Context = FEWER_CONVS) -> tuple[Graph, list[Rewrite]]:
    after = graph.copy()
    considered = merge_sibling_convs(after, context)
    verify(after, before=graph)
    return after, considered


def values(graph: Graph, batch: int = 2) -> tuple[dict, dict]:
    stream = np.random.default_rng(3)
    feeds = {n.name: stream.standard_normal((batch, *n.type.shape[1:])) for n in graph.leaves("input")}
    return feeds, {n.name: stream.standard_normal(n.type.shape) for n in graph.leaves("parameter")}


def compare(before: Graph, after: Graph) -> None:
    """The same outputs and gradients of all parameters, in f64 to 1e-12."""
    feeds, parameters = values(before)
    old, new = (run(g, feeds, parameters, "float64") for g in (before, after))
    for name in before.outputs:
        assert relative_error(old[before.outputs[name]], new[after.outputs[name]]) <= 1e-12, name
    for graph in (before, after):
        b = Builder(graph)
        for name, node in graph.outputs.items():
            value = b.value(node)
            square = b.op("mul", value, value)
            graph.losses[name] = b.op("sum", square, axes=tuple(range(square.type.rank)), keepdims=False).name
    (before, wanted), (after, found) = differentiate(before), differentiate(after)
    assert wanted.keys() == found.keys()
    old, new = (run(g, feeds, parameters, "float64", every=True) for g in (before, after))
    for parameter in wanted:
        assert relative_error(old[wanted[parameter]], new[found[parameter]]) <= 1e-12, parameter


def test_branches_with_one_activation_share_it():
    before = siblings("relu", "relu", "relu")
    after, considered = merge(before)
    assert ops(before) == ["concat", *["conv"] * 3, *["relu"] * 3]
    assert ops(after) == ["concat", "concat", "concat", "conv", "relu", *["slice"] * 3]
    assert [(r.taken, r.gain, r.layers) for r in considered] == [(True, 2.0, ("c0", "c1", "c2"))]
    conv, = (n for n in after.nodes() if n.op == "conv")
    assert conv.type.shape == (N, 9, 5, 6) and {o.layer for o in conv.origins} == {"c0", "c1", "c2", "a0", "a1", "a2"}
    assert [(s.attrs["start"], s.attrs["stop"]) for s in after.nodes() if s.op == "slice"] == [(0, 2), (2, 5), (5, 9)]
    compare(before, after)


def test_branches_that_differ_are_cut_first():
    before = siblings("relu", "tanh", "")
    after, _ = merge(before)
    assert ops(after) == ["concat", "concat", "concat", "conv", "relu", "slice", "slice", "slice", "tanh"]
    compare(before, after)


def test_attributes_of_activations_matter():
    net = Net()
    convs = [net(f"c{i}", "conv", net.x, ch=2) for i in range(2)]
    ends = [net(f"a{i}", "leaky_relu", conv, slope=slope) for i, (conv, slope) in enumerate(zip(convs, (0.1, 0.2)))]
    before = net.result(*ends)
    after, _ = merge(before)
    assert ops(after).count("leaky_relu") == 2
    compare(before, after)


def test_an_activation_is_not_shared_where_its_operand_has_another_reader():
    net = Net()
    convs = [net(f"c{i}", "conv", net.x, ch=3) for i in range(2)]
    before = net.result(*(net(f"a{i}", "relu", c) for i, c in enumerate(convs)), net("s", "add", *convs))
    after, _ = merge(before)
    assert ops(after) == ["add", "concat", "concat", "conv", "relu", "relu", "slice", "slice"]
    compare(before, after)


def test_convolutions_that_are_results_stay_results():
    net = Net()
    before = net.result(*(net(f"c{i}", "conv", net.x, ch=2, k=3, stride=2, pad=1) for i in range(2)))
    after, _ = merge(before)
    assert after.outputs.keys() == {"c0", "c1"} and ops(after) == ["concat", "concat", "conv", "slice", "slice"]
    compare(before, after)


def test_a_bias_that_is_missing_is_zero():
    net = Net()
    before = net.result(*(net(f"c{i}", "conv", net.x, ch=2, bias=bool(i)) for i in range(2)))
    after, _ = merge(before)
    conv, = (n for n in after.nodes() if n.op == "conv")
    assert len(conv.inputs) == 3
    compare(before, after)
    after, _ = merge(siblings("relu", "relu", bias=False))
    assert [len(n.inputs) for n in after.nodes() if n.op == "conv"] == [2]


def test_branches_of_branches():
    net = Net()
    stem = [net(f"s{i}", "conv", net.x, ch=3) for i in range(2)]
    before = net.result(*(net(f"c{i}{j}", "conv", x, ch=2) for i, x in enumerate(stem) for j in range(2)))
    after, considered = merge(before)
    assert [r.layers for r in considered] == [("s0", "s1"), ("c00", "c01"), ("c10", "c11")]
    assert ops(after).count("conv") == 3
    compare(before, after)


@pytest.mark.parametrize("given, why", [
    ([{"k": 1}, {"k": 3, "pad": "same"}], "is like none of theirs"),
    ([{"stride": 1}, {"stride": 2}], "is like none of theirs"),
    ([{"groups": 2}, {"groups": 2}], "2 groups"),
])
def test_convolutions_that_differ_stay_apart(given, why):
    net = Net()
    before = net.result(*(net(f"c{i}", "conv", net.x, ch=2, **g) for i, g in enumerate(given)))
    after, considered = merge(before)
    assert ops(after) == ["conv", "conv"]
    assert [r.layers for r in considered] == [("c0",), ("c1",)]
    assert all(not r.taken and why in r.why for r in considered)


def test_convolutions_of_different_inputs_and_single_ones_are_no_siblings():
    net = Net()
    other = net("r", "relu", net.x)
    before = net.result(*(net(f"c{i}", "conv", x, ch=2) for i, x in enumerate((net.x, other))))
    after, considered = merge(before)
    assert considered == [] and ops(after) == ["conv", "conv", "relu"]


def test_shared_weights_stay_apart():
    net = Net()
    first = net("c0", "conv", net.x, ch=4)
    shape = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "pad": ((0, 0), (0, 0)), "groups": 1}
    weights = [net.b.value("c0.weight"), net.b.value("c0.bias")]
    second = net.b.op("conv", first, *weights, name="c1", **shape)
    third = net("c2", "conv", net.x, ch=4)
    after, considered = merge(net.result(second, third))
    assert ops(after) == ["conv"] * 3
    assert [r.why for r in considered if r.layers == ("c0",)] == ["c0.weight is shared with another layer"]


def test_weights_made_of_inputs_stay_apart():
    net = Net()
    w = net.b.input("w", TensorType("f32", (2, 4, 1, 1)), "input")
    shape = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "pad": ((0, 0), (0, 0)), "groups": 1}
    given = net.b.op("conv", net.x, w, name="given", **shape)
    after, considered = merge(net.result(given, net("c", "conv", net.x, ch=2), net("d", "conv", net.x, ch=2)))
    assert ops(after).count("conv") == 2
    assert [r.taken for r in considered] == [False, True] and "inputs of the net" in considered[0].why


def test_the_step_has_one_input_gradient_and_the_users_parameters():
    net = Net()
    stem = net("stem", "conv", net.x, ch=4)
    ends = [net(f"a{i}", "relu", net(f"c{i}", "conv", stem, ch=3, lr=1.0 + i, frozen=i == 2)) for i in range(3)]
    before = net.result(net("y", "concat", *ends, axis=1))
    after, considered = merge(before, LEARNING)
    assert [r.taken for r in considered] == [True]
    assert {n.name: n.attrs for n in after.leaves("parameter")} == {n.name: n.attrs for n in before.leaves("parameter")}
    counts = []
    for graph in (before.copy(), after.copy()):
        b = Builder(graph)
        graph.losses["l"] = b.op("sum", b.value(graph.outputs["y"]), axes=(0, 1, 2, 3), keepdims=False).name
        joint, gradients = differentiate(graph)
        assert gradients.keys() == {n.name for n in before.leaves("parameter") if n.attrs["trainable"]}
        counts.append([sum(n.op == op for n in joint.nodes()) for op in ("conv_input_grad", "conv_weight_grad")])
    assert counts == [[3, 3], [1, 2]]
    compare(before, after)


def cost(machine: str, training: bool = False) -> Context:
    return Context(lambda graph, nodes: seconds(graph, nodes, MACHINES[machine], 1), training=training)


def few_channels_of_many() -> Graph:
    """Bound by reading 64 channels, four times, to make one each."""
    net = Net(64, 64, 64)
    return net.result(*(net(f"c{i}", "conv", net.x, ch=1) for i in range(4)))


def test_the_cost_model_decides():
    after, (taken,) = merge(few_channels_of_many(), cost("cpu"))
    assert taken.taken and taken.gain > 0 and ops(after).count("conv") == 1
    before = siblings("", "", k=3, pad="same")
    after, (refused,) = merge(before, cost("cpu", training=True))
    assert not refused.taken and refused.gain < 0 and "slices" in refused.why and ops(after) == ops(before)


def test_in_training_activations_stay_with_their_branches():
    """So that the gradient of each is computed in the kernel that makes it."""
    after, (taken,) = merge(siblings("relu", "relu", k=3, pad="same"), cost("cpu", training=True))
    assert taken.taken and ops(after) == ["concat"] * 3 + ["conv"] + ["relu"] * 2 + ["slice"] * 2


def inception() -> Graph:
    """Figure 2(b) of Going Deeper with Convolutions, with the channels of 3a."""
    net = Net(192, 28, 28)
    b1, r3, r5 = (net(f"{n}/relu", "relu", net(f"{n}/conv", "conv", net.x, ch=ch))
                  for n, ch in (("b1", 64), ("r3", 96), ("r5", 16)))
    b3, b5 = (net(n, "conv", r, ch=c, k=k, pad="same") for n, r, c, k in (("b3", r3, 128, 3), ("b5", r5, 32, 5)))
    bp = net("bp", "conv", net("pool", "max_pool", net.x, k=3, stride=1, pad="same"), ch=32)
    return net.result(net("y", "concat", b1, b3, b5, bp, axis=1))


def test_a_merged_convolution_writes_each_branch_where_it_belongs():
    after, (taken,) = merge(inception(), cost("cpu"))
    assert taken.taken and taken.layers == ("b1/conv", "r3/conv", "r5/conv")
    planned = with_kernels(after)
    assert sorted([after[n].op for n in launch.nodes] for launch in planned.kernels) == sorted(
        [["concat"], ["concat"], ["conv", "relu", "slice", "slice", "slice"], ["conv"], ["conv"], ["max_pool"], ["conv"]])
    assert {planned.places[n].root for n in ("b1/relu/slice", "b3", "b5", "bp")} == {"y"}
    _, (gpu,) = merge(inception(), cost("sm_80"))
    assert gpu.layers == taken.layers and gpu.gain > taken.gain > 0


def test_the_gain_is_that_of_the_whole_net():
    """Predicted for the region alone, the gain is the difference of the net before and after, weights left out."""
    before = few_channels_of_many()
    after, (taken,) = merge(before, cost("cpu"))
    total = [cost("cpu").seconds(g, [n for n in g.nodes() if n.op == "conv"]) for g in (before, after)]
    assert taken.gain == pytest.approx(total[0] - total[1], rel=1e-9)


def test_what_no_loss_depends_on_is_not_trained():
    """A gradient of zeros is not the same as none: weight decay would change the weight."""
    net = Net()
    ends = [net(f"c{i}", "conv", net.x, ch=2) for i in range(3)]
    loss = net("loss", "mean", net("square", "square", net("sum", "add", *ends[:2])))
    before = net.result(*ends)
    before.losses["loss"] = loss.name
    after, rewrites = merge(before, LEARNING)
    assert ops(after).count("conv") == 2 and "c2.weight" in after["c2"].inputs
    assert "no loss" in next(r.why for r in rewrites if not r.taken)
    assert ops(merge(before)[0]).count("conv") == 1


def test_the_backward_pass_is_priced_too():
    net = Net(64, 64, 64)
    stem = net("stem", "conv", net.x, ch=64)
    before = net.result(*(net(f"c{i}", "conv", stem, ch=1) for i in range(4)))
    gains = [merge(before, cost("cpu", training))[1][0].gain for training in (False, True)]
    assert gains[0] > 0 and gains[1] != pytest.approx(gains[0])


@st.composite
def graphs(draw) -> Graph:
    """One or two stages of branches of one input: few kinds of windows, so that most have siblings."""
    net = Net(draw(st.integers(1, 4)), draw(st.integers(3, 7)), draw(st.integers(3, 7)))
    x, ends = net.x, []
    windows = st.sampled_from([{"k": 1}, {"k": 3, "pad": "same"}, {"k": (1, 2), "stride": 2}, {"k": 2, "dilation": 2}])
    for stage in range(draw(st.integers(1, 2))):
        kinds = draw(st.lists(windows, min_size=1, max_size=2))
        ends = []
        for i in range(draw(st.integers(2, 5))):
            given = {"ch": draw(st.integers(1, 4)), "bias": draw(st.booleans()), **draw(st.sampled_from(kinds))}
            conv = net(f"c{stage}{i}", "conv", x, **given)
            activation = draw(st.sampled_from(["relu", "relu", "tanh", ""]))
            ends.append(net(f"a{stage}{i}", activation, conv) if activation else conv)
        alike = [e for e in ends if e.shape[2:] == ends[0].shape[2:]]
        x = net(f"j{stage}", "concat", *alike, axis=1)
        if min(x.shape[2:]) < 3:
            break
    return net.result(x, *ends)


@given(graphs())
@settings(max_examples=40, derandomize=True, database=None, deadline=None)
def test_random_nets_compute_the_same(before):
    after, considered = merge(before)
    taken = sum(r.taken for r in considered)
    assert ops(after).count("conv") <= ops(before).count("conv") - taken
    again, more = merge(after)
    assert not any(r.taken for r in more), "what is merged is merged"
    compare(before, after)


def test_a_wrong_slice_is_caught():
    before = siblings("relu", "relu")
    after, _ = merge(before)
    part = next(n for n in after.nodes() if n.op == "slice")
    after.update(part.name, attrs={**part.attrs, "stop": part.attrs["stop"] + 1})
    with pytest.raises(BrokenGraph, match="slice"):
        verify(after, before=before)
