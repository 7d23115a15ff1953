"""What netc asks of CUDA's runtime, seen by an emulated driver: CUDA graphs, memory that is not there, old drivers."""

import contextlib
import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

from runtime.errors import NetcError
from runtime.execute import Executable
from runtime.format import read
from tests.compiler import emulator
from tests.small import ROWS, step_feeds

X = np.random.default_rng(0).standard_normal((5, 4)).astype("f4")
RECORDED = ("StreamCreateWithFlags StreamBeginCapture StreamEndCapture GraphInstantiate GraphDestroy StreamDestroy "
            "GraphLaunch").split()


def called():
    """Calls about streams and graphs since the last time."""
    text = (ctypes.c_char * (1 << 16)).in_dll(ctypes.CDLL("libcudart.so.13"), "emulated_calls")
    names = text.value.decode().split()
    text.value = b""
    return names


@contextlib.contextmanager
def failing(name):
    text = (ctypes.c_char * 64).in_dll(ctypes.CDLL("libcudart.so.13"), "emulated_failing")
    text.value = name.encode()
    yield
    text.value = b""


@contextlib.contextmanager
def environment(**values):
    os.environ.update(values)
    yield
    for name in values:
        del os.environ[name]


def want(artifact, x):
    """The same from CPU code."""
    return Executable(artifact, "cuda-emulator")(x=x)["p"]


# --- scenes, each with the artifact, in a process with an emulated GPU -----------------------------------------------


def a_program_is_recorded_once(artifact):
    exe = Executable(artifact, "cuda")
    called()
    for turn in range(5):
        x = X * turn  # other arrays, at other places of the host
        np.testing.assert_allclose(exe(x=x)["p"], want(artifact, x), rtol=1e-5)
        assert called() == [[], RECORDED, ["GraphLaunch"], ["GraphLaunch"], ["GraphLaunch"]][turn]


def each_batch_is_recorded(artifact):
    exe = Executable(artifact, "cuda")
    for rows in (5, 2):
        called()
        for _ in range(3):
            np.testing.assert_allclose(exe(x=X[:rows])["p"], want(artifact, X[:rows]), rtol=1e-5)
        # The graphs of the batch before are given back with its arena.
        assert called() == (["GraphExecDestroy"] if rows == 2 else []) + RECORDED + ["GraphLaunch"]


def arrays_on_the_gpu_take_turns(artifact):
    exe = Executable(artifact, "cuda")
    xs = [exe.local({"x": X * scale}) for scale in (1, 2)]
    bound = [exe.bind("run", x) for x in xs]
    called()
    for turn in range(4):
        for scale in (1, 2):
            bound[scale - 1]()
            np.testing.assert_allclose(bound[scale - 1].results["p"].numpy(), want(artifact, X * scale), rtol=1e-5)
        assert called() == [[], RECORDED * 2, ["GraphLaunch"] * 2, ["GraphLaunch"] * 2][turn]


def few_graphs_are_kept(artifact):
    exe = Executable(artifact, "cuda")
    kept = [exe.bind("run", exe.local({"x": X})) for _ in range(6)]
    called()
    for bound in kept * 2:  # more than are kept take turns: none is ever at hand
        bound()
    assert called() == []


def a_step_is_recorded_in_its_parts(artifact):
    exe, cut = Executable(artifact, "cuda"), artifact.manifest["programs"]["step"]["update_from"]
    losses = {}
    for device in ("cuda", "cuda-emulator"):
        exe, losses[device] = Executable(artifact, device), []
        called()
        for step in range(4):
            bound = exe.bind("step", step_feeds(exe, step, 0.1, x=X, y=np.arange(5, dtype="i4") % 3))
            bound(0, cut)
            losses[device].append(float(bound.results["loss"]))
            bound(cut)
            if device == "cuda":
                one = len(exe.programs["step"]["kernels"]) - cut < 2  # which is launched by itself
                assert called() == [[], RECORDED * (2 - one)][step] if step < 2 else ["GraphLaunch"] * (2 - one)
    np.testing.assert_allclose(losses["cuda"], losses["cuda-emulator"], rtol=1e-5)
    assert losses["cuda"][-1] < losses["cuda"][0]


def kernels_one_by_one_are_not_recorded(artifact):
    exe = Executable(artifact, "cuda")
    bound = exe.bind("run", {"x": X})
    called()
    for _ in range(3):
        for kernel in range(len(exe.programs["run"]["kernels"])):
            bound(kernel, kernel + 1)
    assert called() == []
    np.testing.assert_allclose(bound.results["p"], want(artifact, X), rtol=1e-5)


def graphs_can_be_switched_off(artifact):
    with environment(NETC_CUDA_GRAPH="0"):
        exe = Executable(artifact, "cuda")
    called()
    for _ in range(3):
        np.testing.assert_allclose(exe(x=X)["p"], want(artifact, X), rtol=1e-5)
    assert called() == []


def what_cannot_be_recorded_is_launched(artifact):
    after = {  # what is still called when a call failed
        "StreamCreateWithFlags": [], "StreamBeginCapture": ["StreamDestroy"], "StreamEndCapture": ["StreamDestroy"],
        "GraphInstantiate": ["GraphDestroy", "StreamDestroy"], "GraphLaunch": ["GraphExecDestroy"]}
    for name, more in after.items():
        exe = Executable(artifact, "cuda")
        exe(x=X)
        called()
        with failing(name):
            np.testing.assert_allclose(exe(x=-X)["p"], want(artifact, -X), rtol=1e-5)
        assert called() == RECORDED[:RECORDED.index(name) + 1] + more, name
        np.testing.assert_allclose(exe(x=X)["p"], want(artifact, X), rtol=1e-5)
        assert called() == [], "it is tried once"


def a_launch_that_fails_while_recorded_ends_the_recording(artifact):
    exe = Executable(artifact, "cuda")
    exe(x=X)
    plan, called_driver, calls = exe._plans["run"], exe._plans["run"].call, []

    class Failing:
        def __call__(self, *arguments):
            calls.append(arguments)
            if len(calls) == 1:
                raise NetcError("E0650", "TVM reports CUDAError: operation not permitted when stream is capturing")
            called_driver(*arguments)

    object.__setattr__(plan, "call", Failing())
    called()
    np.testing.assert_allclose(exe(x=X)["p"], want(artifact, X), rtol=1e-5)
    assert called() == ["StreamCreateWithFlags", "StreamBeginCapture", "StreamEndCapture", "GraphDestroy", "StreamDestroy"]
    assert len(calls) == 2


def no_room_says_what_would_fit(artifact):
    exe = Executable(artifact, "cuda")
    free = exe._memory.room()
    exe(x=X)
    one = free - exe._memory.room()
    with environment(EMULATED_MEMORY=str(2**34 - free + 40 * one)):
        with pytest.raises(NetcError) as caught:
            exe(x=np.zeros((2000, 4), "f4"))
        assert caught.value.code == "E0723" and "for N = 2000" in caught.value.message, str(caught.value)
        assert "bytes on the GPU" in caught.value.message and "are free" in caught.value.message
        fits = int(caught.value.hint.split("a batch of ")[1].split()[0])
        assert 5 < fits < 2000
        exe(x=np.zeros((fits, 4), "f4"))
        with pytest.raises(NetcError):
            exe(x=np.zeros((fits + 40, 4), "f4"))
        np.testing.assert_allclose(exe(x=X)["p"], want(artifact, X), rtol=1e-5)
    with environment(EMULATED_MEMORY="100"), pytest.raises(NetcError) as caught:
        Executable(artifact, "cuda")
    assert caught.value.code == "E0723" and "more bytes" in caught.value.message and "--device cpu" in caught.value.hint


def an_old_driver_says_so(artifact):
    with environment(EMULATED_DRIVER="12040"), pytest.raises(NetcError) as caught:
        Executable(artifact, "cuda")
    assert caught.value.code == "E0724" and "for CUDA 12.4, this needs CUDA 13" in caught.value.message
    for status, name in (("209", "CUDA_ERROR_NO_BINARY_FOR_GPU"), ("200", "CUDA_ERROR_INVALID_IMAGE")):
        with environment(EMULATED_IMAGE=status), pytest.raises(NetcError) as caught:
            Executable(artifact, "cuda")(x=X)
        assert caught.value.code == "E0724" and name in caught.value.message, str(caught.value)
    with environment(EMULATED_ARCH="90"), pytest.raises(NetcError) as caught:
        Executable(artifact, "cuda")
    assert caught.value.code == "E0721" and "GPU is sm_90" in caught.value.message
    assert "--target cuda:sm_90" in caught.value.hint


SCENES = [a_program_is_recorded_once, each_batch_is_recorded, arrays_on_the_gpu_take_turns, few_graphs_are_kept,
          a_step_is_recorded_in_its_parts, kernels_one_by_one_are_not_recorded, graphs_can_be_switched_off,
          what_cannot_be_recorded_is_launched, a_launch_that_fails_while_recorded_ends_the_recording,
          no_room_says_what_would_fit, an_old_driver_says_so]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each scene said, of those that went wrong."""
    artifact, environment = emulator.deployed(tmp_path_factory.mktemp("calls"), ROWS)
    done = subprocess.run([sys.executable, __file__, str(artifact)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(part.split("\n", 1) for part in done.stdout.split("SCENE ")[1:])


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test(seen, scene):
    assert not seen[scene.__name__].strip(), seen[scene.__name__]


if __name__ == "__main__":
    import traceback
    for each in SCENES:
        print("SCENE", each.__name__)
        try:
            each(read(sys.argv[1]))
        except Exception:
            print(traceback.format_exc())
