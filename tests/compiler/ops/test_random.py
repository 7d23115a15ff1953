"""Random numbers depend on seed, step, stream and place only, and are spread evenly; dropout is made of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from compiler.build import Builder
from compiler.interpret import run
from compiler.ir import Graph, TensorType
from compiler.ops import REGISTRY
from compiler.ops.random import pcg4d
from compiler.passes.select_mode import select_mode
from tests.compiler.harness import executable
from tests.compiler.ops.table import call


def uniform(seed=1, step=1, stream=0, shape=(64, 256)):
    like = np.zeros(shape, "float32")
    return REGISTRY["random_uniform"].numpy(SimpleNamespace(stream=stream), np.uint32(seed), np.float32(step), like)


def test_the_hash_is_the_published_one():
    """Against the shader code of the paper in plain 32-bit arithmetic."""
    with np.errstate(over="ignore"):
        for words in np.random.default_rng(0).integers(0, 2 ** 32, (50, 4), dtype=np.uint32):
            x, y, z, w = words * np.uint32(1664525) + np.uint32(1013904223)
            x += y * w; y += z * x; z += x * y; w += y * z  # noqa: E702
            x, y, z, w = (v ^ (v >> np.uint32(16)) for v in (x, y, z, w))
            x += y * w; y += z * x; z += x * y; w += y * z  # noqa: E702
            assert int(pcg4d(*map(int, words))) == int(x)


def test_numbers_are_even_and_independent():
    u = uniform()
    assert 0 <= u.min() and u.max() < 1
    counts = np.histogram(u, 32, (0, 1))[0]
    expected = u.size / 32
    assert ((counts - expected) ** 2 / expected).sum() < 75  # chi-squared with 31 degrees of freedom: p is about 1e-5
    for other in (uniform(seed=2), uniform(step=2), uniform(stream=1), np.roll(u, 1), np.roll(u, 1, 0)):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(u.size)
    np.testing.assert_array_equal(u, uniform())


def dropped(rate: float) -> Graph:
    graph = Graph("drop")
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (64, 256)), "input")
    for name in ("a", "b"):
        graph.losses[name] = call(b, "dropout", [x], name=name, rate=rate).name
    return graph


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
    feeds = {"x": np.ones((64, 256)), "seed": 7, "step": 3}
    got = run(select_mode(dropped(rate), "train"), feeds, {})
    np.testing.assert_array_equal(run(select_mode(dropped(rate), "evaluate"), feeds, {})["a"], 1)
    y = got[select_mode(dropped(rate), "train").losses["a"]]
    assert set(np.unique(y)) <= {0, np.float32(1 / (1 - rate))}
    assert abs((y == 0).mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / y.size)
    if rate:
        assert (y != got["b"]).any()


def test_compiled_numbers_are_the_same_bits():
    graph = select_mode(dropped(0.4), "train")
    graph.outputs, graph.losses = dict(graph.losses), {}
    exe = executable({"run": graph})
    x = np.random.default_rng(0).standard_normal((64, 256)).astype("f4")
    for seed, step in ((0, 1), (2 ** 32 - 1, 70000)):
        feeds = {"x": x, "seed": np.uint32(seed), "step": np.float32(step)}
        got = exe(**feeds)
        want = run(graph, feeds, {})
        for name in ("a", "b"):
            np.testing.assert_array_equal(got[name] == 0, want[name] == 0)
            np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
