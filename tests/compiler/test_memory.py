"""The arena: no two tensors that live together share a byte, at any batch, and it is hardly larger than what lives together."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.dims import evaluate, symbol
from compiler.memory import ALIGNMENT, Lifetime, max_live, plan

N, T = symbol("N"), symbol("T")
SIZES = st.one_of(st.integers(1, 300), st.integers(1, 40).map(lambda k: N * k), st.integers(1, 9).map(lambda k: N * T * k),
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


@given(st.lists(st.tuples(SIZES, st.integers(0, 12), st.integers(0, 5)), max_size=14), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=200)
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


def test_equal_lives_give_equal_plans():
    lives = [Lifetime(f"t{i}", N * 64 * (i % 7 + 1), i % 5, i % 5 + i % 3) for i in range(30)]
    assert plan(lives) == plan(list(lives))


def test_an_empty_program_needs_no_memory():
    assert plan([]).size == 0 and max_live([], {}) == 0
