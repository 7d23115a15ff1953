"""On a machine with a GPU: what kernels and calls do there. Elsewhere the emulated driver stands in (test_gpu_check.py)."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import cuda
from runtime.errors import NetcError
from runtime.execute import Executable
from tests.small import IMAGES, loaded, step_feeds

pytestmark = pytest.mark.skipif(not cuda.present(), reason="needs an NVIDIA GPU")
IMAGE = np.random.default_rng(0).integers(0, 256, (5, 1, 5, 5)).astype("u1")
KIND = np.arange(5, dtype="i4") % 3


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("gpu"), IMAGES)


@pytest.fixture(scope="module")
def artifact(net):
    return net.compile("train", device="cuda", seed=1).artifact


@pytest.fixture(scope="module")
def cpu(net):
    return net.compile("train", seed=1)


def steps(exe, count=4):
    losses = [exe.call("step", step_feeds(exe, step, 0.01, image=IMAGE, kind=KIND))["loss"] for step in range(count)]
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
    wide = "lang 1\nnet wide {\n  input x: f32[N, 1]\n  output y = x -> dense(65536) -> softmax\n}\n"
    exe = loaded(tmp_path, wide).compile(device="cuda")
    with pytest.raises(NetcError) as caught:
        exe(x=exe.local({"x": np.zeros((4_000_000, 1), "f4")})["x"])
    assert caught.value.code == "E0723" and "a batch of" in caught.value.hint, str(caught.value)
    assert exe(x=np.ones((2, 1), "f4"))["y"].shape == (2, 65536)
