"""On a machine with a GPU: what kernels and calls do there. Elsewhere the emulated driver stands in (test_gpu_check.py)."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from runtime import cuda
from runtime.errors import NetcError
from runtime.execute import Executable

pytestmark = pytest.mark.skipif(not cuda.present(), reason="needs an NVIDIA GPU")
NET = """
lang 1
net tiny {
  input image: u8[N, 1, 5, 5]
  label digit: i32[N] in 3
  logits = image -> scale(1/255) -> conv(4, 3x3) -> relu -> max_pool(2x2, stride = 1) -> flatten -> dense(3)
  output p = logits -> softmax
  loss cross_entropy(logits, digit)
}
data none { source = "npz:none.npz", batch = 5 }
train fit { optimizer = adam(lr = 0.01), run = 1 epochs }
"""
IMAGE = np.random.default_rng(0).integers(0, 256, (5, 1, 5, 5)).astype("u1")
FEEDS = {"image": IMAGE, "digit": np.arange(5, dtype="i4") % 3, "lr": np.float32(0.01)}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpu") / "tiny.net"
    place.write_text(NET)
    return netc.load(place)


@pytest.fixture(scope="module")
def artifact(net):
    return net.compile("train", device="cuda", seed=1).artifact


@pytest.fixture(scope="module")
def cpu(net):
    return net.compile("train", seed=1)


def steps(exe, count=4):
    names = [a["name"] for a in exe.programs["step"]["arguments"] if a["kind"] == "input"]
    losses = []
    for step in range(count):
        feeds = {**FEEDS, "step": np.float32(step + 1), "seed": np.uint32(step)}
        losses.append(exe.call("step", {name: feeds[name.removeprefix("train/")] for name in names})["loss"])
    return np.array(losses), exe.parameters.tensors("weight")


def test_the_device_is_named(artifact):
    exe = Executable(artifact, "cuda")
    assert exe.device == "cuda" and exe.place == cuda.gpu_name() != ""
    assert cuda.choose_binary(artifact.manifest["target"]["archs"], cuda.gpu_arch([]))


def test_any_batch_computes_what_the_cpu_does(artifact, cpu):
    exe = Executable(artifact, "cuda")
    for rows in (1, 5, 3, 5):
        np.testing.assert_allclose(exe(image=IMAGE[:rows])["p"], cpu(image=IMAGE[:rows])["p"], rtol=1e-4, atol=1e-6)


def test_training_follows_the_cpu(artifact, cpu):
    (losses, weights), (want, theirs) = steps(Executable(artifact, "cuda")), steps(Executable(cpu.artifact))
    np.testing.assert_allclose(losses, want, rtol=1e-4)
    for path, value in theirs.items():
        np.testing.assert_allclose(weights[path], value, rtol=1e-3, atol=1e-4, err_msg=path)


def test_graphs_change_nothing(artifact, monkeypatch):
    found = []
    for switch in ("1", "0"):
        monkeypatch.setenv("NETC_CUDA_GRAPH", switch)
        exe = Executable(artifact, "cuda")
        found.append([exe(image=IMAGE)["p"] for _ in range(4)] + list(steps(exe)[0]))
    for graph, plain in zip(*found):
        np.testing.assert_array_equal(graph, plain)


def test_kernels_one_by_one_do_what_all_do(artifact):
    exe = Executable(artifact, "cuda")
    bound = exe.bind("run", {"image": IMAGE})
    bound()
    whole = bound.results["p"].copy()
    bound.results["p"][...] = 0
    for kernel in range(len(exe.programs["run"]["kernels"])):
        bound(kernel, kernel + 1)
    np.testing.assert_array_equal(bound.results["p"], whole)


def test_arrays_stay_on_the_gpu(artifact):
    exe = Executable(artifact, "cuda")
    want, there = exe(image=IMAGE)["p"], exe.local({"image": IMAGE})
    for _ in range(3):
        got = exe.call("run", there)["p"]
        assert got.__dlpack_device__()[0] == 2
        np.testing.assert_array_equal(got.numpy(), want)


def test_no_room_says_what_would_fit(tmp_path):
    (tmp_path / "wide.net").write_text("lang 1\nnet wide {\n  input x: f32[N, 1]\n  output y = x -> dense(65536) -> softmax\n}\n")
    exe = netc.load(tmp_path / "wide.net").compile(device="cuda")
    with pytest.raises(NetcError) as caught:
        exe(x=exe.local({"x": np.zeros((4_000_000, 1), "f4")})["x"])
    assert caught.value.code == "E0723" and "a batch of" in caught.value.hint, str(caught.value)
    assert exe(x=np.ones((2, 1), "f4"))["y"].shape == (2, 65536)
