"""TVM's C interface by ctypes: what goes wrong below becomes an error with a code; TVM's own Python package may come later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import netc
from netc import NetcError
from runtime import native
from runtime.arrays import address, aligned

ROOT = Path(__file__).parent.parent.parent
X = np.zeros((2, 4), "f4")


@pytest.fixture(scope="module")
def exe():
    return netc.load("specs/logistic.net").compile()


def test_an_object_file_that_is_none(exe):
    for code in (b"", b"no object", exe.artifact.members["host.o"][:100]):
        with pytest.raises(NetcError) as problem:
            native.load(code)
        assert problem.value.code == "E0650" and "TVM reports" in problem.value.message


def test_a_symbol_that_is_not_there(exe):
    with pytest.raises(NetcError) as problem:
        native.member(native.load(exe.artifact.members["host.o"]), "nowhere")
    assert problem.value.code == "E0603" and "`nowhere`" in problem.value.message
    assert native.function("there.is.none") is None


def test_errors_of_a_driver_are_told_and_the_next_call_is_right(exe):
    """A driver checks what it is given; here a tensor of one axis too many, which `Executable` never passes."""
    bound = exe.bind("run", {"x": X})
    x = aligned((2, 4, 1), "f4")
    tensors = [native.tensor(address(x), x.shape, x.dtype), *bound.plan.call._tensors[1:]]
    with pytest.raises(NetcError) as problem:
        native.Call(bound.plan.call._driver, tensors)([], 0, 1)
    assert problem.value.code == "E0650" and "ndim" in problem.value.message
    bound()
    np.testing.assert_allclose(bound.results["p"].sum(1), 1, rtol=1e-6)


def test_values_of_every_kind_go_in_and_out():
    array = native.function("ffi.Array")(1, "two", b"three", None, native.function("ffi.Array")())
    assert native.function("ffi.ArraySize")(array) == 5
    assert native.function("ffi.ArrayGetItem")(array, 0) == 1
    assert isinstance(native.function("ffi.ArrayGetItem")(array, 4), native.Object)
    with pytest.raises(NetcError, match="E0650"):
        native.function("ffi.ArrayGetItem")(array, 7)


def test_a_library_that_is_not_installed():
    with pytest.raises(NetcError) as problem:
        native.open_library("no_such_package_anywhere", "x.so")
    assert problem.value.code == "E0606" and "pip install" in problem.value.hint


def test_executables_give_their_memory_back(exe, tmp_path):
    """The object file, code and tensors of an executable go with it: two hundred need no more room than a few."""
    script = ("import gc, resource, sys\nfrom runtime import format\nfrom runtime.execute import Executable\n"
              "import numpy as np\nartifact = format.read(sys.argv[1])\nseen = []\n"
              "for count in range(250):\n    Executable(artifact)(x=np.zeros((2, 4), 'f4'))\n"
              "    if count in (49, 249): seen.append(int(open('/proc/self/statm').read().split()[1]) * 4096)\n"
              "print(seen[1] - seen[0])")
    from runtime.format import write
    write(tmp_path / "a.netb", exe.artifact.manifest, exe.artifact.members)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.netb")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 << 20


@pytest.mark.parametrize("first", ["runtime", "tvm_ffi"])
def test_either_may_load_the_libraries_first(exe, tmp_path, first):
    from runtime.format import write
    write(tmp_path / "a.netb", exe.artifact.manifest, exe.artifact.members)
    lines = ["from runtime.execute import Executable; import numpy as np\n"
             "p = Executable.load(sys.argv[1])(x=np.zeros((2, 4), 'f4'))['p']",
             "import tvm_ffi, tvm_ffi_orcjit; tvm_ffi_orcjit.default_session(); assert tvm_ffi.from_dlpack"]
    script = "import sys\n" + "\n".join(lines if first == "runtime" else reversed(lines)) + "\nprint(p.shape)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.netb")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 3)\n"


def test_addresses_of_any_array():
    plain = np.arange(12, dtype="f4").reshape(3, 4)
    frozen = plain.copy()
    frozen.flags.writeable = False
    for array in (plain, frozen, plain.T, plain[1:, 1:], plain[:0], np.float32(3) + np.zeros(()), plain.astype(">f4")):
        array = np.asarray(array)
        assert address(array) == array.__array_interface__["data"][0]
    for shape in ((), (0,), (3, 5), [2]):
        made = aligned(shape, "f8")
        assert made.shape == tuple(shape) and address(made) % 64 == 0 and made.flags.writeable
