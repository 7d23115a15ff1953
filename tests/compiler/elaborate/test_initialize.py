"""First values of weights: distributions, and streams that depend on seed and path only."""

import numpy as np
import pytest

from compiler.initialize import INITIALIZERS, draw, initialize, stream
from tests.compiler.elaborate.programs import net

BODY = "  a = x -> conv(32, 3x3, init = {})\n  output p = a -> flatten -> dense(4)"


def weights(init: str, seed: int = 0) -> np.ndarray:
    return initialize(net(BODY.format(init)).graph, seed)["a.weight"]


def test_distributions():
    n, fan_in, fan_out = 32 * 27, 27, 288
    he, xavier = weights("he"), weights("xavier")
    assert he.dtype == np.float32 and he.shape == (32, 3, 3, 3)
    assert abs(he.std() / np.sqrt(2 / fan_in) - 1) < 4 / np.sqrt(2 * n) and abs(he.mean()) < 4 * he.std() / np.sqrt(n)
    bound = np.sqrt(6 / (fan_in + fan_out))
    assert 0.95 * bound < np.abs(xavier).max() <= bound and abs(xavier.var() / (bound ** 2 / 3) - 1) < 0.2
    assert abs(weights("normal(0.5)").std() / 0.5 - 1) < 0.1
    assert 0.45 < np.abs(weights("uniform(0.5)")).max() <= 0.5
    for init, value in (("zeros", 0), ("ones", 1), ("constant(-2.5)", -2.5)):
        assert (weights(init) == value).all()


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (16, 2, 3, 3), (6, 6)])
def test_orthogonal(shape):
    w = draw("orthogonal", (), shape, (1, 1), stream(0, "w")).reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert np.allclose(gram, np.eye(len(gram)), atol=1e-12)


def test_a_thousand_orthogonal_layers_keep_the_norm():
    x = np.ones(8)
    for i in range(1000):
        x = draw("orthogonal", (), (8, 8), (8, 8), stream(1, f"p/dense{i}.weight")) @ x
    assert np.isclose(np.linalg.norm(x), np.sqrt(8))


def test_streams_depend_on_seed_and_path_only():
    first = initialize(net(BODY.format("he")).graph, 7)
    more = initialize(net("  b = x -> conv(3)\n" + BODY.format("he") + "\n  output q = b -> conv(2)").graph, 7)
    assert all(np.array_equal(first[path], more[path]) for path in first)
    assert not np.array_equal(first["a.weight"], weights("he", 8))
    assert not np.array_equal(more["b.weight"].ravel()[:6], more["q.weight"].ravel()[:6])


def test_values_stay_the_same_on_every_machine():
    assert stream(3, "fc.weight").integers(0, 2 ** 32, 3).tolist() == [690271419, 143197771, 2369029257]


def test_fixed_arrays():
    body = "  output p = x -> conv(2, weight = [[3]], bias = false)"
    assert (initialize(net(body).graph, 1)["p.weight"] == np.full((2, 3, 1, 1), 3, np.float32)).all()


@pytest.mark.parametrize("init", INITIALIZERS)
def test_every_initializer_is_known_to_the_language(init):
    arguments = f"({', '.join(['0.5'] * len(INITIALIZERS[init]))})" if INITIALIZERS[init] else ""
    assert np.isfinite(weights(init + arguments)).all()
