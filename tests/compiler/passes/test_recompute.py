"""recompute: the arena fits the budget, cheap kernels are repeated before dear ones, and a step computes the same."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import netc
from compiler import artifact, programs
from compiler.backend import CpuBackend
from compiler.group import memory_read
from compiler.initialize import initialize
from compiler.interpret import run as interpret
from compiler.ir import Graph
from compiler.passes.plan_memory import plan_memory
from compiler.passes.recompute import recompute
from compiler.verify import verify
from netc.options import parse_bytes, recompute_text
from runtime.errors import NetcError
from runtime.format import size
from tests.compiler.harness import executable
from tests.compiler.nets import nets
from tests.compiler.replay import planned, replay
from tests.netc.command import netc as command

TEXT = """lang 1

block unit(x: tensor, ch: int) -> y {
  y = x -> conv(ch, 3x3, pad = same, bias = false) -> batch_norm -> relu
}

net deep(classes: int = 3) {
  input image: f32[N, 3, 8, 8]
  label class: i32[N] in classes
  maps = image -> unit(8) ** 3 -> max_pool(2x2) -> dropout(0.3) -> unit(12) -> unit(12)
  logits = maps -> global_avg_pool -> flatten -> dense(classes)
  output p = logits -> softmax
  loss cross_entropy(logits, class)
}

data pictures { source = "npz:pictures.npz", batch = 16 }
train fit { net = deep, data = pictures, optimizer = sgd(lr = 0.1, momentum = 0.9), run = 1 epochs }
"""
BATCH = 16
SGD = {"optimizer": {"name": "sgd", "args": {"momentum": 0.9}}}
BEFORE = programs.Options(off=("plan_memory",))  # which comes behind recompute


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    path = tmp_path_factory.mktemp("deep") / "deep.net"
    path.write_text(TEXT)
    return path


def context(graph: Graph, memory: int | None, batch: int = BATCH):
    return replace(programs.Options(batch=batch).context(training=True), memory=memory)


def step_of(path) -> Graph:
    net = netc.load(path)
    return programs.kernels(programs.step(net.graph, net.train_config), BEFORE, training=True)


def arena(graph: Graph, batch: int = BATCH) -> int:
    program = planned(graph)
    return size(program.arena, {"N": batch})


def kernels(graph: Graph) -> list[str]:
    return [launch.nodes[-1] for launch in graph.kernels]


def test_without_a_budget_nothing_happens(deep):
    graph = step_of(deep)
    assert recompute(graph, context(graph, None)) == []
    before = kernels(graph)
    refused, = recompute(graph, context(graph, arena(graph)))
    assert not refused.taken and "fits" in refused.why and kernels(graph) == before


def test_before_and_after(deep):
    """Kernels are repeated right before the first that reads what they make; the others stay in their order."""
    before = step_of(deep)
    after = before.copy()
    whole, *done = recompute(after, context(after, int(0.85 * arena(before, 256)), 256))
    verify(after, before=before)
    again = [name for name in kernels(after) if name.startswith("again/")]
    assert again and whole.taken and whole.gain < 0 and "instead of" in whole.what
    assert all(rewrite.taken and rewrite.layers for rewrite in done)
    order = kernels(after)
    kept = [name for name in order if name not in again]
    assert kept == [name for name in kernels(before) if name in kept]
    computed = {name for launch in after.kernels for name in launch.nodes}
    for at, launch in enumerate(after.kernels):
        if order[at] in again:
            behind = after.kernels[at + 1:]
            reader = next(i for i, k in enumerate(behind)
                          if any(memory_read(after, m, computed) & set(launch.results) for m in k.nodes))
            assert all(k.nodes[-1] in again for k in behind[:reader])  # only what else that reader needs again
    assert kernels(before) == [k.nodes[-1] for k in before.kernels] and not any("again/" in n for n in before.nx)


@pytest.mark.parametrize("part", [0.9, 0.8])
def test_the_arena_fits_and_nothing_is_overwritten(deep, part):
    graph = step_of(deep)
    budget = int(part * arena(graph))
    assert recompute(graph, context(graph, budget))[0].taken
    assert arena(verify(graph)) <= budget
    replay(planned(graph), 1, 3)


def test_what_cannot_be_met_says_what_can(deep):
    graph = step_of(deep)
    with pytest.raises(NetcError) as wrong:
        recompute(graph.copy(), context(graph, 1000))
    assert wrong.value.code == "E0414"
    smallest = wrong.value.hint.split("met is ")[1].split(";")[0]
    assert recompute(graph, context(graph, parse_bytes(smallest)))[0].taken


def feeds_of(graph: Graph, batch: int) -> dict[str, np.ndarray]:
    stream = np.random.default_rng(1)
    scalars = {"lr": np.float32(0.1), "step": np.float32(2), "seed": np.uint32(3)}
    return {n.name: scalars[n.name] if n.name in scalars else stream.integers(0, 3, batch).astype("i4")
            if n.attrs.get("classes") else stream.standard_normal((batch, *n.type.shape[1:])).astype("f4")
            for n in graph.leaves("input")}


def test_a_compiled_step_with_a_budget_makes_the_same_parameters(deep):
    """Bit by bit: the same kernels are repeated, dropout with the same random numbers."""
    plain = step_of(deep)
    tight = plain.copy()
    recompute(tight, context(tight, int(0.8 * arena(tight))))
    plan_memory(tight, context(tight, None))
    assert any("random_uniform" in name for name in tight.nx if name.startswith("again/"))
    exe = executable({"step": plain, "tight": tight}, initialize(netc.load(deep).graph, 1))
    start = {path: value.copy() for path, value in exe.parameters.tensors().items()}
    results = []
    for name in ("step", "tight"):
        for path, value in start.items():
            exe.parameters[path][...] = value
        losses = [float(exe.call(name, feeds_of(plain, BATCH))["loss"]) for _ in range(2)]
        results.append((losses, {path: value.copy() for path, value in exe.parameters.tensors().items()}))
    (losses, one), (same, other) = results
    assert losses == same and losses[0] != losses[1] and one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path])


@given(nets(), st.sampled_from([0.9, 0.7, 0.5]))
@settings(max_examples=8, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much])
def test_random_steps_mean_the_same(net, part):
    before = programs.kernels(programs.step(net.graph, SGD), BEFORE, training=True)
    after = before.copy()
    try:
        recompute(after, context(after, max(1, int(part * arena(before, 3))), 3))
    except NetcError as impossible:
        assert impossible.code == "E0414"
        return
    plan_memory(after, context(after, None, 3))
    verify(after, before=before)
    replay(planned(after), 3)
    values = net.parameters()
    values |= {n.name: np.zeros(n.type.shape, "f4") for n in before.leaves("parameter") if n.name not in values}
    given_here = net.feeds(3) | {"lr": np.float32(0.1), "step": np.float32(1), "seed": np.int32(3)}
    given_here = {n.name: given_here[n.name] for n in before.leaves("input")}
    want, got = interpret(before, given_here, values), interpret(after, given_here, values)
    for table in ("losses", "metrics", "updates"):
        for key, node in getattr(before, table).items():
            np.testing.assert_array_equal(want[node], got[getattr(after, table)[key]])


# --- from the command line -------------------------------------------------------------------------------------------

def test_opt_says_what_a_budget_costs(deep):
    step = "opt", deep, "--program", "step", "--batch", BATCH, "--memory-budget"
    refused = command(*step, "1KiB").err
    least, all_kept = map(int, re.search(r"can be met is (\d+)KiB; without one it takes (\d+)KiB", refused).groups())
    assert 1024 * all_kept > arena(step_of(deep))  # what kernels need for themselves counts
    done = command(*step, f"{(least + all_kept) // 2}KiB", "--explain", "--verify")
    assert done.code == 0 and "is computed again, loss" in done.out and "instead of" in done.out


def test_lowering_keeps_the_budget_with_what_kernels_need_for_themselves(deep):
    net, backend = netc.load(deep), CpuBackend("cpu")
    lower = partial(artifact._lower, net.program, ["step"], backend, backend.options(1))
    plain = lower(None)[2]["step"]
    taken = size(plain["arena"], {"N": BATCH})
    entry = lower(int(0.92 * taken))[2]["step"]
    assert size(entry["arena"], {"N": BATCH}) <= 0.92 * taken and len(entry["kernels"]) > len(plain["kernels"])
    paid = entry["recompute"]
    assert paid["without"] == taken and paid["batch"] == BATCH and paid["tensors"] > 0 and paid["seconds"] > 0
    assert "tensors are computed again" in recompute_text("step", entry) and not recompute_text("step", plain)


@pytest.mark.parametrize("text, bytes", [("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("100", 100), ("2kb", 2000)])
def test_amounts(text, bytes):
    assert parse_bytes(text) == bytes


@pytest.mark.parametrize("text", ["lots", "-3MiB", "12 parsecs", "", "0", "MiB"])
def test_what_is_no_amount_is_refused(deep, text):
    done = command("opt", deep, "--memory-budget", text)
    assert done.code == 1 and "E0415" in done.err
