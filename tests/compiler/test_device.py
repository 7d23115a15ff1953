"""Arrays on the emulated GPU: what is copied and what is not, results by DLPack, what is refused.

`Cupy` stands for an array of another library: memory of the (emulated) GPU behind `__dlpack__`.
"""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from runtime.errors import NetcError
from runtime.execute import Executable
from runtime.format import read
from tests.compiler import emulator
from tests.small import step_feeds

NET = """
lang 1

net small {
  input x: f32[N, 4]
  label y: f32[N, 3]
  out = x -> dense(3)
  output out
  loss mse(out, y)
}

data none { source = "npz:none.npz", batch = 5 }
train fit { optimizer = sgd(lr = 0.1), run = 1 epochs }
"""
X = np.random.default_rng(0).standard_normal((5, 4)).astype("f4")


class Cupy:
    """A GPU array as CuPy has it. The emulated GPU's memory is the host's, so a numpy array is its storage."""

    def __init__(self, array, device=(2, 0), offset=0):
        from tvm_ffi import from_dlpack
        self.storage = np.zeros(array.nbytes + 1024, "u1")
        start = -self.storage.ctypes.data % 256 + offset
        self.array = self.storage[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.device, self.streams, self._exported = device, [], from_dlpack
        self.strides = None

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        array = self.array if self.strides is None else np.lib.stride_tricks.as_strided(
            self.array, (5, 4), self.strides)
        capsule = self._exported(array).__dlpack__()
        # DLManagedTensor begins with the DLTensor: data, then the kind of device.
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        ctypes.c_int32.from_address(get(capsule, b"dltensor") + 8).value = 2
        return capsule


def copied():
    """Bytes copied up, down and across since the last call, by the emulated driver."""
    counts = (ctypes.c_size_t * 4).in_dll(ctypes.CDLL("libcudart.so.13"), "emulated_copied")
    seen = tuple(counts[1:])
    counts[:] = [0, 0, 0, 0]
    return seen


def want(exe, x):
    return x @ exe.parameters["out.weight"].T + exe.parameters["out.bias"]


# --- what runs where the GPU is ---------------------------------------------------------------------------------------


def numpy_in_numpy_out(exe):
    copied()
    got = exe(x=X)["out"]
    assert copied() == (X.nbytes, got.nbytes, 0), "neither parameters nor the arena travel"
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, want(exe, X), rtol=1e-5)


def device_in_device_out(exe):
    x = Cupy(X)
    copied()
    got = exe(x=x)["out"]
    assert copied() == (0, 0, 0), "nothing is copied"
    assert x.streams == [1], "the producer is told the stream: the legacy default one"
    assert got.__dlpack_device__() == (2, 0) and got.shape == (5, 3) and got.dtype == np.float32
    np.testing.assert_allclose(got.numpy(), want(exe, X), rtol=1e-5)
    again = exe(x=x)["out"]
    assert again.address != got.address, "each call has results of its own"


def results_go_by_dlpack(exe):
    got = exe(x=Cupy(X))["out"]
    import tvm_ffi
    for options in ({}, {"stream": 1}, {"stream": -1}, {"stream": 123456}, {"max_version": (1, 0)}, {"copy": False,
                    "max_version": (1, 0)}):
        view = tvm_ffi.from_dlpack(got.__dlpack__(**options))
        assert view.data_ptr() == got.address and view.device.index == 0 and view.shape == (5, 3)
    here = np.from_dlpack(got, device="cpu")
    np.testing.assert_allclose(here, want(exe, X), rtol=1e-5)
    with pytest.raises(BufferError):
        got.__dlpack__(dl_device=(1, 0), copy=False)
    del got  # the memory lives as long as the last one who has it
    for _ in range(3):
        exe(x=Cupy(np.zeros_like(X)))
    held = (ctypes.c_float * 15).from_address(view.data_ptr())
    np.testing.assert_array_equal(np.frombuffer(held, "f4"), here.ravel())


def our_own_arrays_are_inputs_too(exe):
    x = exe.local({"x": X})["x"]
    copied()
    got = exe(x=x)["out"]
    assert copied() == (0, 0, 0)
    np.testing.assert_allclose(got.numpy(), want(exe, X), rtol=1e-5)
    with pytest.raises(NetcError, match="E0614"):
        exe(x=got)


def unaligned_is_copied_across(exe):
    copied()
    got = exe(x=Cupy(X, offset=4))["out"]
    assert copied() == (0, 0, X.nbytes)
    np.testing.assert_allclose(got.numpy(), want(exe, X), rtol=1e-5)


def wrong_arrays_are_refused(exe):
    gaps = Cupy(np.zeros((5, 8), "f4"))
    gaps.strides = (32, 4)
    columns = Cupy(X)
    columns.strides = (4, 20)
    for code, what, x in [("E0616", "GPU 1", Cupy(X, device=(2, 1))), ("E0616", "device 0", Cupy(X, device=(10, 0))),
                          ("E0616", "gaps", gaps), ("E0616", "gaps", columns), ("E0613", "float64", Cupy(X.astype("f8"))),
                          ("E0614", "shape", Cupy(X[:, :3].copy())), ("E0614", "shape", Cupy(X[0]))]:
        with pytest.raises(NetcError) as refused:
            exe(x=x)
        assert refused.value.code == code and what in str(refused.value) and "`x`" in str(refused.value), str(refused.value)


def parameters_stay_on_the_gpu(exe):
    before = exe.parameters["out.weight"]
    with pytest.raises(ValueError, match="read-only"):
        before[...] = 0
    feeds = step_feeds(exe, 0, 0.1, x=X, y=np.zeros((5, 3), "f4"))
    inputs = sum(np.asarray(v).nbytes for v in feeds.values())
    exe.call("step", feeds)
    copied()
    results = exe.call("step", feeds)
    assert copied() == (inputs, sum(r.nbytes for r in results.values()), 0), "a step moves its batch and its loss only"
    after = exe.parameters["out.weight"]
    assert not np.array_equal(before, after)
    exe.parameters["out.weight"] = before
    np.testing.assert_array_equal(exe.parameters["out.weight"], before)
    tensors = exe.parameters.tensors("weight")
    exe.parameters.assign(tensors, "test", ("weight",))
    np.testing.assert_array_equal(exe.parameters["out.weight"], before)
    np.testing.assert_allclose(exe(x=X)["out"], want(exe, X), rtol=1e-5)


def bound_programs_run_on_what_is_there(exe):
    x, host = Cupy(X), X.copy()
    theirs, ours = exe.bind("run", {"x": x}), exe.bind("run", {"x": host})
    for scale in (1, 2):
        x.array[...], host[...] = X * scale, X * -scale
        theirs()
        ours()
        np.testing.assert_allclose(theirs.results["out"].numpy(), want(exe, X * scale), rtol=1e-5)
        np.testing.assert_allclose(ours.results["out"], want(exe, -X * scale), rtol=1e-5)


SCENES = [numpy_in_numpy_out, device_in_device_out, results_go_by_dlpack, our_own_arrays_are_inputs_too,
          unaligned_is_copied_across, wrong_arrays_are_refused, parameters_stay_on_the_gpu,
          bound_programs_run_on_what_is_there]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return emulator.deployed(tmp_path_factory.mktemp("device"), NET)


def test_arrays_on_the_gpu(machine):
    artifact, environment = machine
    done = subprocess.run([sys.executable, __file__, str(artifact)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [scene.__name__ for scene in SCENES]


def test_an_artifact_for_the_cpu_refuses_gpu_arrays():
    import netc
    exe = netc.load("specs/logistic.net").compile()

    class Elsewhere:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, **options):
            raise AssertionError("it is not asked for")

    with pytest.raises(NetcError) as refused:
        exe(x=Elsewhere())
    assert refused.value.code == "E0616" and "GPU 0" in refused.value.message


if __name__ == "__main__":
    executable = Executable(read(sys.argv[1]))
    for scene in SCENES:
        scene(executable)
        print(scene.__name__)
