"""Fitting runs of kernels into a budget: the runs stay right, and a chain needs the square root of its length."""

import random
from math import sqrt

import pytest

from compiler.remat import Problem, Run, live, recipe, shrink


def chain(length, size=100):
    """A net of `length` layers and its backward pass: gradient i reads activation i - 1 and gradient i + 1."""
    last = length - 1
    runs = [Run(i, ((f"a{i - 1}", 0),) if i else (), ((f"a{i}", 0),), seconds=1.0) for i in range(length)]
    for i in reversed(range(length)):
        reads = [(f"a{i - 1}", 0)] if i else []
        reads.append((f"g{i + 1}", 0) if i < last else (f"a{i}", 0))
        runs.append(Run(2 * length - 1 - i, tuple(reads), ((f"g{i}", 0),), seconds=2.0, pinned=i == 0))
    bytes = {name: size for run in runs for name, _ in run.writes}
    return runs, Problem(bytes, {f"a{i}": recipe(f"a{i}", [runs[i]]) for i in range(length)}, len(runs))


def check(runs, problem, originals):
    """Whatever is read has been written, and each run reads the same tensors as the original it stands for."""
    written = set()
    for run in runs:
        assert all(version in written for version in run.reads)
        written.update(run.writes)
        names = [name for name, _ in originals[run.kernel].reads]
        assert [name for name, _ in run.reads] == names
    assert {run.kernel for run in originals if run.pinned} <= {run.kernel for run in runs}


@pytest.mark.parametrize("length", [16, 64, 100])
def test_a_chain_needs_the_square_root_of_its_length(length):
    runs, problem = chain(length)
    before = live(runs, problem.bytes).max()
    assert before == (length + 1) * 100
    budget = int(2.2 * sqrt(length) * 100)
    found = shrink(runs, problem, budget)
    assert found is not None and live(found, problem.bytes).max() <= budget
    check(found, problem, runs)
    assert len(found) - len(runs) <= 1.2 * length  # hardly more than one forward pass


def test_nothing_happens_where_everything_fits():
    runs, problem = chain(8)
    assert shrink(runs, problem, 10_000) == runs


def test_what_cannot_fit_is_not_found():
    runs, problem = chain(8)
    assert shrink(runs, problem, 150) is None


def test_the_cheaper_of_two_is_computed_again():
    runs, problem = chain(12)
    dear = [Run(r.kernel, r.reads, r.writes, seconds=1000.0 if i < 6 else 1.0) for i, r in enumerate(runs[:12])]
    problem = Problem(problem.bytes, {f"a{i}": recipe(f"a{i}", [dear[i]]) for i in range(12)}, problem.until)
    found = shrink([*dear, *runs[12:]], problem, 1100)
    assert {run.recipe for run in found if run.recipe} <= {f"a{i}" for i in range(6, 12)}


def test_random_programs_stay_right():
    stream, fitted = random.Random(1), 0
    for _ in range(30):
        runs, bytes = [], {}
        for i in range(40):
            reads = tuple((f"t{j}", 0) for j in sorted({stream.randrange(i) for _ in range(2)})) if i else ()
            runs.append(Run(i, reads, ((f"t{i}", 0),), stream.randrange(50), stream.random(), pinned=i > 36))
            bytes[f"t{i}"] = stream.randrange(1, 200)
        problem = Problem(bytes, {f"t{i}": recipe(f"t{i}", [runs[i]]) for i in range(0, 36)}, 38)
        most = int(live(runs, bytes).max())
        for part in (0.9, 0.7):
            found = shrink(runs, problem, int(most * part))
            fitted += found is not None
            if found is not None:
                assert live(found, bytes).max() <= most * part
                check(found, problem, runs)
                place = {run.kernel: at for at, run in enumerate(found) if run.recipe is None}
                assert all(at < place[38] for at, run in enumerate(found) if run.recipe)  # nothing behind the limit
    assert fitted > 20
