"""`make gpu-check` and the tests it runs, on the emulated driver; and without a GPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_check
from runtime.measure import random_feeds
from tests.compiler import emulator

ROOT = Path(__file__).parents[2]
CHECK = "import runpy, sys, tests.compiler.emulator.gpu; sys.argv[0] = 'gpu_check'; " \
        "runpy.run_path('benchmarks/gpu_check.py', run_name='__main__')"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    emulator.compiler_or_skip()
    emulator.gpu_or_skip()
    return emulator.machine(tmp_path_factory.mktemp("machine"), "sm_80")


def test_without_a_gpu_it_says_so_in_one_line():
    done = subprocess.run([sys.executable, "benchmarks/gpu_check.py"], cwd=ROOT, capture_output=True, text=True,
                          env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 1 and not done.stdout
    assert "this machine has no NVIDIA GPU" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_tests_of_the_gpu_pass(machine):
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "tests.compiler.emulator.gpu", "-p", "tests.on_gpu",
                           "tests/runtime/test_gpu.py"], cwd=ROOT, env=machine, capture_output=True, text=True)
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr


def test_nets_are_compared_and_timed(machine, tmp_path):
    options = ["--no-tests", "--nets", "logistic", "--train", "logistic", "--emulate", "logistic", "--steps", "logistic:4",
               "--batch", "2", "--precision", "f32", "--repeats", "1", "--torch-device", "cpu", "--json", str(tmp_path / "x.json")]
    done = subprocess.run([sys.executable, "-c", CHECK, *options], cwd=ROOT, env=machine, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("emulated, sm_80, ") and lines[-1] == "all tests pass and results agree"
    assert any(line.startswith("agrees   logistic f32: from cpu") and "cuda-emulator" in line for line in lines), done.stdout
    assert any(line.startswith("agrees   logistic, 3 steps: from cpu") for line in lines), done.stdout
    assert sum(line.split()[:2] in (["logistic", "run"], ["logistic", "step"]) for line in lines) == 2, done.stdout
    assert (tmp_path / "x.json").exists()


def test_pytorch_computes_what_we_do():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.cuda import load
    from benchmarks.torch_gpu import Peer
    net = load("lenet", 2)
    exe = net.compile("train")
    feeds = random_feeds(exe, "evaluate", {"N": 2})
    values = exe.parameters.tensors("weight", "state")
    peer = Peer(net.graph, values, feeds, "cpu")
    want = exe.call("evaluate", feeds)
    for name, got in zip(net.graph.outputs, peer.run()):
        np.testing.assert_allclose(got.numpy(), want[name], rtol=1e-4, atol=1e-6)
    step = Peer(net.graph, values, feeds, "cpu", optimizer=net.train_config["optimizer"])
    np.testing.assert_allclose(sum(step.forward(step.feeds)).item(), want["loss"], rtol=1e-4)
    assert step.milliseconds(1) > 0


def test_what_differs_is_told(capsys):
    right, wrong = np.float32([1, 2]), np.float32([1, 2.1])
    for theirs, well in ((right, True), (wrong, False), (np.float32([1, np.nan]), False)):
        assert gpu_check.report("net f32", {"cuda": {"p": right}, "cpu": {"p": theirs}}, 1e-4) == well
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "agrees   net f32: from cpu 0.0e+00"
    assert lines[1] == "DIFFERS  net f32: from cpu 4.8e-02 (p: more than 1e-04)" and "nan" in lines[2]
