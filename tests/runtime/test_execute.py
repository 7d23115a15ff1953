"""The executable from Python: what arrays it takes without a copy, what it converts, what it refuses; threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import netc
from netc import NetcError
from runtime.arrays import aligned

STREAM = np.random.default_rng(0)
X = STREAM.standard_normal((5, 4)).astype("f4")


@pytest.fixture(scope="module")
def logistic():
    exe = netc.load("specs/logistic.net").compile()
    exe.parameters["logits.weight"][...] = np.random.default_rng(1).standard_normal((3, 4))
    return exe


@pytest.fixture(scope="module")
def digits():
    return netc.load("specs/digits.net").compile(seed=3)


def softmax(exe, x):
    scores = np.exp(x @ exe.parameters["logits.weight"].T + exe.parameters["logits.bias"])
    return scores / scores.sum(1, keepdims=True)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


SAME = {
    "lists": X.tolist(), "f64": X.astype("f8"), "column order": np.asfortranarray(X), "every second row": np.repeat(X, 2, 0)[::2],
    "backwards": X[::-1].copy()[::-1], "read-only": read_only(X), "big-endian": X.astype(">f4"),
    "transposed": X.T.copy().T, "unaligned": np.frombuffer(b"\0" + X.tobytes(), "u1")[1:].view("f4").reshape(5, 4),
}


@pytest.mark.parametrize("kind", SAME)
def test_any_array_of_these_numbers_gives_the_same(logistic, kind):
    given = SAME[kind]
    before = np.array(given)
    got = logistic(x=given)["p"]
    np.testing.assert_allclose(got, softmax(logistic, X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.array(given), before)


def test_arrays_of_other_libraries_come_by_dlpack(logistic):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    got = logistic(x=jax.numpy.asarray(X))["p"]
    np.testing.assert_allclose(got, softmax(logistic, X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.numpy.from_dlpack(got), got)


def test_aligned_arrays_are_read_where_they_are(logistic):
    x = aligned((5, 4), "f4")
    x[...] = X

    class Foreign:  # an array of another library, on the CPU
        def __dlpack__(self, **options):
            return x.__dlpack__(**options)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    for given in (x, Foreign()):
        bound = logistic.bind("run", {"x": given})
        assert bound.addresses[0] == x.ctypes.data
        bound()
        first = bound.results["p"].copy()
        x *= 2  # a bound program sees what is written into its input
        bound()
        np.testing.assert_allclose(bound.results["p"], softmax(logistic, x), rtol=1e-5, atol=1e-6)
        assert not np.allclose(bound.results["p"], first)


def test_results_can_be_written_into_given_arrays(logistic):
    p = aligned((5, 3), "f4")
    got = logistic.call("run", {"x": X}, results={"p": p})["p"]
    assert got.ctypes.data == p.ctypes.data
    np.testing.assert_allclose(p, softmax(logistic, X), rtol=1e-5, atol=1e-6)


def test_each_call_has_results_of_its_own(logistic):
    first = logistic(x=X)["p"]
    copy = first.copy()
    logistic(x=-X)
    np.testing.assert_array_equal(first, copy)


def test_whole_numbers_are_taken_where_they_fit(digits):
    image = STREAM.integers(0, 256, (2, 1, 8, 8))
    want = digits(image=image.astype("u1"))["p"]
    for given in (image, image.tolist(), image.astype("i2"), image.astype("u8")):
        np.testing.assert_array_equal(digits(image=given)["p"], want)
    np.testing.assert_array_equal(digits(image=image > 100)["p"], digits(image=(image > 100).astype("u1"))["p"])


WRONG = {
    "too large": ("E0613", {"image": np.full((1, 1, 8, 8), 256)}), "negative": ("E0613", {"image": np.full((1, 1, 8, 8), -1)}),
    "floats for bytes": ("E0613", {"image": np.zeros((1, 1, 8, 8), "f4")}), "text": ("E0613", {"image": [["a"]]}),
    "objects": ("E0613", {"image": np.full((1, 1, 8, 8), None)}), "ragged": ("E0613", {"image": [[1, 2], [3]]}),
    "nothing": ("E0613", {"image": None}), "no batch": ("E0614", {"image": np.zeros((1, 8, 8), "u1")}),
    "other size": ("E0614", {"image": np.zeros((1, 1, 9, 8), "u1")}), "empty": ("E0614", {"image": np.zeros((0, 1, 8, 8), "u1")}),
    "missing": ("E0611", {}), "unknown": ("E0612", {"image": np.zeros((1, 1, 8, 8), "u1"), "digit": [1]}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused_by_name(digits, kind):
    code, feeds = WRONG[kind]
    with pytest.raises(NetcError) as problem:
        digits(**feeds)
    assert problem.value.code == code
    assert "image" in str(problem.value) or kind == "unknown" and "digit" in str(problem.value)


def test_an_input_may_have_any_name(tmp_path):
    (tmp_path / "a.net").write_text("net a {\n  input self: f32[N, 2]\n  output program = self -> relu\n}\n")
    got = netc.load(tmp_path / "a.net").compile()(self=[[-1, 2]])
    np.testing.assert_array_equal(got["program"], [[0, 2]])


def test_executables_do_not_disturb_each_other(logistic, digits):
    image = STREAM.integers(0, 256, (3, 1, 8, 8))
    first, second = logistic(x=X)["p"], digits(image=image)["p"]
    other = netc.load("specs/digits.net").compile(seed=4)
    assert not np.array_equal(other(image=image)["p"], second)
    np.testing.assert_array_equal(logistic(x=X)["p"], first)
    np.testing.assert_array_equal(digits(image=image)["p"], second)


def test_threads_share_an_executable(digits):
    images = [STREAM.integers(0, 256, (8, 1, 8, 8)).astype("u1") for _ in range(6)]
    want = [digits(image=image)["p"] for image in images]
    wrong = []

    def work(i):
        wrong.extend(i for _ in range(60) if not np.array_equal(digits(image=images[i])["p"], want[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
