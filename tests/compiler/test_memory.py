"""The arena: no two tensors that live together share a byte, at any batch."""

from hypothesis import given
from hypothesis import strategies as st

from compiler.dims import evaluate, symbol
from compiler.memory import ALIGNMENT, Lifetime, plan

N, T = symbol("N"), symbol("T")
SIZES = st.one_of(st.integers(1, 300), st.integers(1, 40).map(lambda k: N * k), st.integers(1, 9).map(lambda k: N * T * k),
                  st.integers(1, 9).map(lambda k: N * k + 7), st.integers(1, 9).map(lambda k: (N + 1) // 2 * k))


@given(st.lists(st.tuples(SIZES, st.integers(0, 12), st.integers(0, 5)), max_size=14), st.integers(1, 9), st.integers(1, 5))
def test_live_tensors_do_not_overlap(tensors, n, t):
    lives = [Lifetime(f"t{i}", size, first, first + span) for i, (size, first, span) in enumerate(tensors)]
    result = plan(lives)
    env = {"N": n, "T": t}
    top = evaluate(result.size, env)
    places = []
    for life in lives:
        start = evaluate(result.offsets[life.name], env)
        end = start + evaluate(life.bytes, env)
        assert start % ALIGNMENT == 0 and end <= top
        for other, (s, e) in places:
            if other.first <= life.last and life.first <= other.last:
                assert e <= start or end <= s
        places.append((life, (start, end)))


def test_memory_is_shared_when_lives_do_not_meet():
    chain = [Lifetime(f"t{i}", N * 64, i, i + 1) for i in range(10)]
    assert evaluate(plan(chain).size, {"N": 5}) == 2 * 5 * 64
