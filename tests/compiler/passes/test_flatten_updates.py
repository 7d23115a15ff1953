"""Parameters that are updated alike are updated by one kernel, in place, to the same numbers as each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import lower, programs
from compiler.artifact import input_entries, parameter_entry
from compiler.backend import CpuBackend
from compiler.build import Builder, Value
from compiler.interpret import run
from compiler.ir import Graph, Node, Origin, TensorType
from compiler.memory import ALIGNMENT
from compiler.optimizer import OPTIMIZERS
from compiler.passes.clean import clean
from compiler.schedule import cpu
from compiler.verify import verify
from runtime.execute import Executable
from runtime.format import Artifact
from tests.compiler.harness import HOST
from tests.compiler.nets import N
from tests.compiler.passes.nets import context

SETTINGS = {"sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, "adam": {}, "adamw": {"weight_decay": 0.1},
            "rmsprop": {"momentum": 0.5, "centered": True}, "adagrad": {}, "adadelta": {}}
CONV = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "pad": ((0, 0), (0, 0)), "groups": 1}


class Small:
    """A net under construction whose parameters are named as they come."""

    def __init__(self):
        self.graph = Graph("small")
        self.b = Builder(self.graph)
        self.x = self.b.input("x", TensorType("f32", (N, 16, 3, 3)), "input")

    def parameter(self, name: str, *shape: int, **attrs) -> Value:
        self.b.origins = frozenset({Origin(name, f"small.net:{len(self.graph) + 1}:1")})
        self.graph.add(Node(name, "parameter", (), TensorType("f32", shape), {"trainable": True, **attrs}))
        return self.b.value(name)

    def conv(self, x: Value, name: str, ch: int, **attrs) -> Value:
        w = self.parameter(f"{name}.weight", ch, x.shape[1], 1, 1, **attrs)
        return self.b.op("conv", x, w, self.parameter(f"{name}.bias", ch, decay=False, **attrs), **CONV)

    def joint(self, *ends: Value, optimizer: str = "sgd") -> Graph:
        total = None
        for end in ends:
            one = self.b.op("sum", self.b.op("square", end), axes=(0, 1, 2, 3), keepdims=False)
            total = one if total is None else total + one
        self.graph.losses["loss"] = total.name
        graph = programs.join(self.graph, {"optimizer": {"name": optimizer, "args": SETTINGS[optimizer]}})
        clean(graph, context(training=True))
        return graph


def chain(optimizer: str = "sgd", **attrs) -> Graph:
    net = Small()
    y = net.b.op("tanh", net.conv(net.x, "one", 5))
    return net.joint(net.conv(y, "two", 7, **attrs), optimizer=optimizer)


def siblings(channels: tuple[int, ...] = (16, 32, 48), **attrs) -> Graph:
    """Parallel convolutions as one, of a merged weight."""
    net = Small()
    weights = [net.parameter(f"w{i}", c, 16, 1, 1, **(attrs if i == 1 else {})) for i, c in enumerate(channels)]
    other = net.parameter("other", 3, 16, 1, 1)
    y = net.b.op("conv", net.x, net.b.op("concat", *weights, axis=0), **CONV)
    return net.joint(y, net.b.op("conv", net.x, other, **CONV))


def values(graph: Graph) -> dict[str, np.ndarray]:
    stream = np.random.default_rng(0)
    return {n.name: (stream.standard_normal(n.type.shape) * (0.0 if n.attrs.get("optimizer") else 0.3)).astype("f4")
            for n in graph.leaves("parameter")}


def flatten(graph: Graph) -> Graph:
    """The graph with kernels, which computes the same."""
    after = programs.kernels(graph, training=True)
    verify(after, before=graph)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 16, 3, 3)), "lr": 0.1, "step": 1}
    params = values(graph)
    old, new = (run(g, feeds, params, "float64") for g in (graph, after))
    assert after.updates.keys() == graph.updates.keys()
    for path, node in graph.updates.items():
        np.testing.assert_allclose(new[after.updates[path]], old[node], rtol=1e-12, atol=1e-14)
    return after


def compiled(graph: Graph) -> Executable:
    """The graph, which has kernels, as an executable."""
    slots = lower.layout([graph])
    lowering = lower.Lowering(lambda kernels, batch: cpu.emit(kernels, HOST, batch), slots)
    entry = lowering.program("step", graph)
    backend = CpuBackend("cpu")
    manifest = {"net": "test", "target": backend.describe(), "programs": {"step": entry}, "inputs": input_entries(graph),
                "parameters": [parameter_entry(graph[p], s) for p, s in slots.items()], "tvm": "",
                "parameter_bytes": max(s.offset + s.bytes for s in slots.values())}
    exe = Executable(Artifact(manifest, backend.members(lowering.module, {})))
    for path, value in values(graph).items():
        exe.parameters[path][...] = value
    return exe


def trained(before: Graph, steps: int = 3) -> Executable:
    """Runs steps of the flattened and compiled graph beside steps of the interpreter."""
    after = flatten(before)
    exe = compiled(after)
    params = values(before)
    for step in range(1, steps + 1):
        feeds = {"x": np.random.default_rng(step).standard_normal((2, 16, 3, 3)).astype("f4"), "lr": np.float32(0.01),
                 "step": np.float32(step)}
        feeds = {k: v for k, v in feeds.items() if k in before}
        exe.call("step", feeds)
        found = run(before, feeds, params)
        params |= {path: found[node] for path, node in before.updates.items()}
        for path in before.updates:
            np.testing.assert_allclose(exe.parameters[path], params[path], rtol=2e-4, atol=1e-5, err_msg=path)
    return exe


def updates(graph: Graph) -> list[list[str]]:
    """Ops of the kernels that change parameters."""
    return [[graph[n].op for n in launch.nodes] for launch in graph.kernels
            if launch.update and any(graph[n].type.rank for n in launch.nodes)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_parameters_alike_are_one_kernel(optimizer):
    before = chain(optimizer)
    exe = trained(before)
    with_decay = bool(SETTINGS[optimizer].get("weight_decay"))
    assert len(updates(flatten(before))) == (2 if with_decay else 1)
    kernels = exe.programs["step"]["kernels"]
    assert sum(k["name"].startswith("update/flat") for k in kernels) == (2 if with_decay else 1)
    table = exe.parameters.table
    run_of = [p for p in table if p in ("one.weight", "two.weight")] if with_decay else [p for p in table if "/" not in p]
    for one, other in zip(run_of, run_of[1:]):
        end = table[one]["offset"] + table[one]["bytes"]
        assert table[other]["offset"] == -(-end // ALIGNMENT) * ALIGNMENT


def test_layers_of_their_own_learning_rate_are_a_kernel_of_their_own():
    assert len(updates(flatten(chain(lr=0.5)))) == 4
    trained(chain(lr=0.5))


def test_what_is_frozen_stays():
    before = chain(trainable=False)
    exe = trained(before)
    np.testing.assert_array_equal(exe.parameters["two.weight"], values(before)["two.weight"])
    assert "two.weight" not in flatten(before).updates


def test_a_merged_weight_is_the_parameters_and_its_gradient_lies_as_they_do():
    before = siblings()
    after = flatten(before)
    ops = [after[n].op for launch in after.kernels for n in launch.nodes]
    assert "concat" not in ops and "slice" not in ops and "copy" not in ops
    assert len(updates(after)) == 1
    exe = trained(before)
    offsets = [exe.parameters.table[f"w{i}"]["offset"] for i in range(4) if f"w{i}" in exe.parameters]
    assert offsets == [offsets[0], offsets[0] + 16 * 16 * 4, offsets[0] + 48 * 16 * 4]


@pytest.mark.parametrize("how", [{"channels": (16, 5, 7), "attrs": {}}, {"channels": (16, 32, 48), "attrs": {"lr": 0.1}}])
def test_parts_with_gaps_or_rates_of_their_own(how):
    """16 * 5 numbers fill no whole lines; a slower part is not updated with the others."""
    before = siblings(how["channels"], **how["attrs"])
    after = flatten(before)
    kernels = [after[n].op for launch in after.kernels for n in launch.nodes]
    assert ("concat" in kernels) == bool(how["attrs"])
    trained(before)


def test_a_gradient_of_two_parameters_is_copied_to_the_second():
    net = Small()
    one, two = net.parameter("one", 16, 1, 1), net.parameter("two", 16, 1, 1)
    y = net.b.op("tanh", net.x + one + two)
    before = net.joint(y)
    assert before.gradients["one"] == before.gradients["two"]
    after = flatten(before)
    assert sum(after[n].op == "copy" for launch in after.kernels for n in launch.nodes) == 1
    trained(before)


def test_without_the_pass_each_parameter_has_kernels_of_its_own():
    after = programs.kernels(chain(), programs.Options(off=["flatten_updates"]), training=True)
    assert len(updates(after)) >= 4 and not any(n.op == "flat" for n in after.nodes())


def test_a_part_from_a_wrong_place_is_caught():
    after = programs.kernels(chain(), training=True)
    path, node = next((p, n) for p, n in after.updates.items() if after[n].attrs["start"])
    after.update(node, attrs={**after[node].attrs, "start": 0})
    before = chain()
    feeds = {"x": np.ones((1, 16, 3, 3)), "lr": 0.1}
    wrong, right = (run(g, feeds, values(before), "float64")[g.updates[path]] for g in (after, before))
    assert not np.allclose(wrong, right)
