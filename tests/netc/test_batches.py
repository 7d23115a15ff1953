"""`netc compile --batch 1,16`: one artifact with variants made for these batches, and any other batch."""

import json

import numpy as np
import pytest

from compiler import dims
from netc.api import choices
from runtime import format
from runtime.errors import NetcError
from runtime.measure import random_feeds, time_kernels
from tests.netc.command import SPECS, netc
from tests.small import loaded

NET = """lang 1
net small {
  input x: f32[N, 8, 12, 12]
  output y = x -> conv(16, 3x3, pad = same) -> relu -> max_pool(2x2, stride = 2) -> flatten -> dense(5)
  output z = x -> reshape([N, 8, 144]) -> mean(axes = [2])
}
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("batches"), NET)


@pytest.fixture(scope="module")
def both(net):
    return net.compile(batch=(1, 4)), net.compile()


def test_each_batch_computes_the_same(both):
    made, plain = both
    for n in (1, 4, 2, 4, 7, 1):
        feeds = random_feeds(plain, "run", {"N": n}, seed=n)
        got, want = made(**feeds), plain(**feeds)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=2e-5 * abs(want[name]).max())


def test_the_variant_of_the_batch_runs(both):
    made, plain = both
    assert made.programs["run"]["batches"] == {"symbol": "N", "programs": {"1": "run_1", "4": "run_4"}}
    for n, name in ((1, "run_1"), (4, "run_4"), (3, "run")):
        bound = made.bind("run", random_feeds(made, "run", {"N": n}))
        assert bound.plan.entry is made.programs[name]
        assert format.variant(made.programs["run"], {"N": n}) == (name if n != 3 else None)
    for name, n in (("run_1", 1), ("run_4", 4)):
        assert made.programs[name]["symbols"] == []
        assert made.programs[name]["arguments"][0]["shape"][0] == n
    rows = time_kernels(made, "run", random_feeds(made, "run", {"N": 4}), {"N": 4}, rounds=1)
    assert len(rows) == len(made.programs["run_4"]["kernels"])


def test_parameters_are_held_once(both):
    made, plain = both
    assert made.parameters.paths("weight") == plain.parameters.paths("weight")
    assert made.manifest["parameter_bytes"] <= 2 * plain.manifest["parameter_bytes"]


def test_a_changed_parameter_reaches_all_variants(net):
    made = net.compile(batch=[2], params={p: np.zeros_like(v) for p, v in net.compile().parameters.tensors("weight").items()})
    bias, = (p for p in made.parameters.paths("weight") if "dense" in p and p.endswith("bias"))
    made.parameters[bias] = np.arange(5)
    made.prepare()
    for n in (1, 2):
        assert np.array_equal(made(**random_feeds(made, "run", {"N": n}))["y"], np.tile(np.arange(5, dtype="f4"), (n, 1)))


def test_the_command(tmp_path, net):
    (tmp_path / "small.net").write_text(NET)
    done = netc("compile", tmp_path / "small.net", "--batch", "2,1,2", "-o", tmp_path / "x.netb")
    assert done.code == 0 and "of its own for batch 1, 2" in done.out
    manifest = format.read(tmp_path / "x.netb").manifest
    assert json.loads(json.dumps(manifest["programs"]["run"]["batches"]["programs"])) == {"1": "run_1", "2": "run_2"}


@pytest.mark.parametrize("text", ["", "0", "1,", "-1", "many", "1;2", "1.5"])
def test_what_is_no_list_of_batches(text):
    done = netc("compile", SPECS / "digits.net", f"--batch={text}")
    assert done.code == 1 and "error[E0417]" in done.err


def test_what_is_none_in_python():
    for batch in ((0,), (1.5,), ("1",)):
        with pytest.raises(NetcError, match="list of batches"):
            choices("run", batch)


def test_a_net_of_one_batch(tmp_path):
    (tmp_path / "one.net").write_text(NET.replace("N, 8", "2, 8"))
    done = netc("compile", tmp_path / "one.net", "--batch", "1,2")
    assert done.code == 1 and "error[E0416]" in done.err


def test_sizes_with_a_number_for_a_symbol():
    size = dims.parse("((N + 1)//2)*T + max(N, T) + N*N")
    assert dims.substitute(size, {"N": 5}) == dims.parse("3*T + max(T, 5) + 25")
    assert dims.substitute(size, {"N": 5, "T": 2}) == 36 and dims.substitute(7, {"N": 5}) == 7
