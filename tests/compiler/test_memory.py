"""The arena: no two tensors that live together share a byte, at any batch, and it is hardly larger than these."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import netc
from compiler import programs
from compiler.backend import CpuBackend
from compiler.describe import describe
from compiler.dims import as_json, evaluate, symbol
from compiler.lifetimes import storages
from compiler.memory import ALIGNMENT, Lifetime, Part, Plan, max_live, plan
from runtime.format import size
from tests.compiler.nets import nets
from tests.compiler.replay import lowered, planned, replay

N, T = symbol("N"), symbol("T")
SIZES = st.one_of(st.integers(1, 300), st.integers(1, 40).map(lambda k: N * k),
                  st.integers(1, 9).map(lambda k: N * T * k),
                  st.integers(1, 9).map(lambda k: N * k + 7), st.integers(1, 9).map(lambda k: (N + 1) // 2 * k))


def check(lives, result, env):
    """Replays a plan byte by byte's range: whoever lives together lies apart, inside the arena, aligned."""
    top = evaluate(result.size, env)
    places = []
    for life in lives:
        start = evaluate(result.offsets[life.name], env)
        end = start + evaluate(life.bytes, env)
        assert start % ALIGNMENT == 0 and 0 <= start and end <= top
        for other, (s, e) in places:
            if other.first <= life.last and life.first <= other.last:
                assert e <= start or end <= s
        places.append((life, (start, end)))
    assert set(result.offsets) == {life.name for life in lives}


@given(st.lists(st.tuples(SIZES, st.integers(0, 12), st.integers(0, 5)), max_size=14), st.integers(1, 9),
       st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_live_tensors_do_not_overlap(tensors, n, t):
    lives = [Lifetime(f"t{i}", size, first, first + span) for i, (size, first, span) in enumerate(tensors)]
    check(lives, plan(lives), {"N": n, "T": t})


def test_memory_is_shared_when_lives_do_not_meet():
    chain = [Lifetime(f"t{i}", N * 64, i, i + 1) for i in range(10)]
    assert evaluate(plan(chain).size, {"N": 5}) == 2 * 5 * 64


def test_what_grows_and_what_does_not_share_memory_at_every_batch():
    """Activations die while gradients of weights come to life, as in a training step."""
    steps = 40
    lives = [Lifetime(f"a{i}", N * 6400, i, 2 * steps - i) for i in range(steps)]
    lives += [Lifetime(f"w{i}", 64000, 2 * steps - i, 2 * steps) for i in range(steps)]
    result = plan(lives)
    for n in (1, 7, 10, 16, 50, 1000):
        check(lives, result, {"N": n})
        assert evaluate(result.size, {"N": n}) == max_live(lives, {"N": n})


def test_random_lives_are_packed_near_the_bound():
    stream = random.Random(3)
    for _ in range(20):
        lives = []
        for i in range(60):
            first = stream.randrange(100)
            size = 64 * stream.randrange(1, 200) * (N if i % 3 else 8)
            lives.append(Lifetime(f"t{i}", size, first, first + stream.randrange(1, 12)))
        result = plan(lives)
        for n in (1, 4, 16, 64):
            check(lives, result, {"N": n})
            assert evaluate(result.size, {"N": n}) <= 1.25 * max_live(lives, {"N": n})


@given(st.lists(st.tuples(SIZES, st.integers(0, 12), st.integers(0, 5)), max_size=10), st.integers(1, 9),
       st.lists(st.tuples(st.integers(1, 400), st.integers(0, 12)), min_size=1, max_size=6))
@settings(deadline=None)
def test_a_tensor_of_parts_leaves_what_is_not_alive_to_others(tensors, n, pieces):
    """As gradients do that are written one by one, side by side, and read together."""
    parts, start = [], 0
    for size, first in pieces:
        parts.append(Part(start, size, first, 13))
        start += -(-size // ALIGNMENT) * ALIGNMENT
    lives = [Lifetime(f"t{i}", size, first, first + span) for i, (size, first, span) in enumerate(tensors)]
    whole = Lifetime("whole", start, min(p.first for p in parts), 13, tuple(parts))
    result = plan([*lives, whole])
    offset = evaluate(result.offsets["whole"], {"N": n, "T": 1})
    apart = [Lifetime(f"part{i}", p.bytes, p.first, p.last) for i, p in enumerate(parts)]
    places = {f"part{i}": offset + p.start for i, p in enumerate(parts)}
    check([*lives, *apart], Plan({**{k: v for k, v in result.offsets.items() if k != "whole"}, **places}, result.size),
          {"N": n, "T": 1})


def test_parts_that_come_late_are_free_until_then():
    gradient = Lifetime("flat", 1280, 0, 9, (Part(0, 640, 8, 9), Part(640, 640, 0, 9)))
    early = Lifetime("early", 640, 0, 7)
    result = plan([gradient, early])
    assert result.size == 1280 == max_live([gradient, early], {}) and result.offsets["early"] == result.offsets["flat"]


def test_equal_lives_give_equal_plans():
    lives = [Lifetime(f"t{i}", N * 64 * (i % 7 + 1), i % 5, i % 5 + i % 3) for i in range(30)]
    assert plan(lives) == plan(list(lives))


def test_an_empty_program_needs_no_memory():
    assert plan([]).size == 0 and max_live([], {}) == 0


# --- whole programs --------------------------------------------------------------------------------------------------

SPECS = Path(__file__).parent.parent.parent / "specs"
SGD = {"optimizer": {"name": "sgd", "args": {"momentum": 0.9, "weight_decay": 5e-4}}}
LARGE = {"inception_v3": {"side": 96}, "mobilenet": {"side": 32}, "resnet": {"depth": 18, "side": 32},
         "squeezenet": {"side": 64}}
TRAINED = ("squeezenet", "resnet")  # the steps of the others take long to differentiate, and are alike


def programs_of(name, training=True, **settings):
    """`run`, `prepare` and, if it is to be trained, `step` of a shipped net, with kernels."""
    net = netc.load(SPECS / f"{name}.net", settings=settings)
    options = CpuBackend("cpu").options(1)
    graphs = programs.build(net.program, ["run"], options)
    if training and net.graph.losses:
        step = programs.step(net.graph, net.train_config or SGD, options)
        graphs["step"] = programs.kernels(step, options, training=True)
    return graphs


@pytest.mark.parametrize("name", ["digits", "lenet", "logistic", "mlp", "traffic_sign"])
def test_lowered_programs_overwrite_nothing_that_is_read(name):
    for graph in programs_of(name).values():
        replay(lowered(graph), 1, 3)


@pytest.mark.parametrize("name", sorted(LARGE))
def test_plans_of_large_nets_overwrite_nothing_that_is_read_and_are_near_the_bound(name):
    for graph in programs_of(name, name in TRAINED, **LARGE[name]).values():
        program = planned(graph)
        replay(program, 2)
        for batch in (1, 2, 16, 256):
            assert evaluate(program.plan.size, {"N": batch}) <= 1.1 * max_live(program.lives, {"N": batch})


@given(nets())
@settings(max_examples=15, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much])
def test_plans_of_random_nets_overwrite_nothing_that_is_read(net):
    run = programs.kernels(programs.run(net.graph))
    step = programs.kernels(programs.step(net.graph, SGD), training=True)
    for graph in (run, step):
        replay(planned(graph), 1, 3)


def test_a_wrong_plan_is_found():
    """The replay is a test: any two tensors of a plan that live together, put into one place, are found."""
    right = planned(programs_of("digits")["step"])
    lives = {life.name: life for life in right.lives}
    one, other = next((a, b) for a in lives.values() for b in lives.values() if a.first < b.first < a.last)
    wrong = Plan({**right.plan.offsets, other.name: right.plan.offsets[one.name]}, right.plan.size * 2)
    storage = storages(right.graph)
    results = [describe(right.graph, "", launch, storage, wrong)["results"] for launch in right.graph.kernels]
    with pytest.raises(AssertionError, match="is gone before|is overwritten by|shares memory"):
        replay(replace(right, results=results, plan=wrong, arena=as_json(wrong.size)), 2)


def test_the_arena_of_googlenet_is_near_what_lives_together():
    """As lowered, what kernels need for themselves included."""
    for name, graph in programs_of("googlenet").items():
        program = lowered(graph)
        replay(program, 2)
        for batch in (1, 2, 4, 16, 32, 256):
            env = {"N": batch}
            if program.lives:
                assert size(program.arena, env) <= 1.1 * max_live(program.lives, env), f"{name} at batch {batch}"
