"""`netc compile --emit c`: what the library computes, what it refuses, and that it stands alone."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import netc as api
from compiler import c_entry
from runtime.measure import random_feeds
from tests.docs.examples import examples
from tests.netc.command import ROOT, SPECS, netc

HAVE_CC = any(map(shutil.which, ("cc", "gcc", "clang")))
needs_cc = pytest.mark.skipif(not HAVE_CC, reason="there is no C compiler on this machine")
SEVERAL = """lang 1
net double(classes: int = 3) {
  input register: f32[N, T, 4]
  input shape_0: f32[N, 4]
  input place: u8[N, T]
  mean = register -> mean(axes = [1]) -> dense(classes)
  output tensor = mean
  output load = shape_0 -> dense(4) -> relu
  output number = place -> scale(1/255)
}
"""
WIDE = """lang 1
net wide {
  input x: f32[N, 8, 32, 32]
  output y = x -> conv(32, 3x3, pad = same) -> relu -> conv(32, 5x5, pad = same) -> relu -> global_avg_pool -> flatten -> dense(8)
}
"""
FORK = """#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "wide.h"
static float x[8 * 32 * 32], one[8], other[8];
int main(int count, char **arguments) {
  void *weights = malloc(wide_weights_size()), *workspace = malloc(wide_workspace_size(1));
  int status = 0;
  for (int i = 0; i < 8 * 32 * 32; i++) x[i] = (float)(i % 17) - 8;
  if (count < 2 || wide_load(arguments[1], weights) || wide_set_threads(3) || wide_run(x, one, 1, weights, workspace)) return 1;
  if (!fork()) {
    for (int turn = 0; turn < 2; turn++) {
      memset(other, 0, sizeof other);
      if (wide_run(x, other, 1, weights, workspace) || memcmp(one, other, sizeof one) || wide_set_threads(2)) _exit(1);
    }
    _exit(wide_set_threads(1));
  }
  wait(&status);
  return status != 0 || wide_set_threads(1);
}
"""


class Library:
    """A library of one net by ctypes: `lib(feeds, n)` runs it between guard bands."""

    def __init__(self, folder: Path, name: str, mode: int = ctypes.DEFAULT_MODE):
        self.name = name
        self.dll = ctypes.CDLL(str(folder / f"lib{name}.so"), mode)
        for what in ("weights_size", "workspace_size"):
            self.function(what).restype = ctypes.c_size_t
        self.weights = np.zeros(self.function("weights_size")(), np.uint8)
        assert self.load(folder / f"{name}.weights") == 0

    def function(self, what: str):
        return getattr(self.dll, f"{self.name}_{what}")

    def load(self, path: Path) -> int:
        return self.function("load")(os.fsencode(path), pointer(self.weights))

    def __call__(self, inputs: list[np.ndarray], outputs: list[tuple[tuple, str]], *sizes: int, shift: int = 0):
        numbers = [ctypes.c_int64(s) for s in sizes]
        arrays = [Guarded(i.shape, i.dtype, shift, i) for i in inputs] + [Guarded(s, d, shift) for s, d in outputs]
        workspace = Guarded((self.function("workspace_size")(*numbers),), "u1", shift, 0xFF)  # as floats, not a number
        code = self.function("run")(*(a.address for a in arrays), *numbers, pointer(self.weights), workspace.address)
        assert all(a.whole() for a in [*arrays, workspace]), "written outside an array"
        assert all(np.array_equal(a.array, i) for a, i in zip(arrays, inputs)), "an input is written"
        return code, [a.array.copy() for a in arrays[len(inputs):]]


class Guarded:
    """An array `shift` bytes behind an aligned address, with a band of known bytes on either side."""

    def __init__(self, shape: tuple, dtype, shift: int, value=None):
        self.bytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        self.memory = np.full(self.bytes + 512, 0xA5, np.uint8)
        self.start = 128 + -self.memory.ctypes.data % 64 + shift
        self.array = self.memory[self.start:self.start + self.bytes].view(dtype).reshape(shape)
        if value is not None:
            self.array[...] = value
        self.address = ctypes.c_void_p(self.array.ctypes.data)

    def whole(self) -> bool:
        return bool((self.memory[:self.start] == 0xA5).all() and (self.memory[self.start + self.bytes:] == 0xA5).all())


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module")
def deploy(tmp_path_factory) -> Path:
    """digits and traffic_sign, seeded, in one folder."""
    if not HAVE_CC:
        pytest.skip("there is no C compiler on this machine")
    folder = tmp_path_factory.mktemp("c") / "deploy"
    for name in ("digits", "traffic_sign"):
        done = netc("compile", SPECS / f"{name}.net", "--emit", "c", "-o", folder)
        assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def digits():
    return api.load(SPECS / "digits.net").compile()


def images(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("n, shift", [(1, 0), (1, 4), (7, 0), (5, 20), (64, 8)])
def test_it_computes_what_the_artifact_computes_wherever_arrays_lie(deploy, digits, n, shift):
    image = images(n, 1, 8, 8)
    code, (p,) = Library(deploy, "digits")([image], [((n, 10), "f4")], n, shift=shift)
    assert code == 0
    assert np.array_equal(p, digits(image=image)["p"])


def test_threads_may_call_it_at_once(deploy, digits):
    lib = Library(deploy, "digits")
    batches = [images(n, 1, 8, 8) for n in range(1, 17)]
    start = threading.Barrier(4)

    def work(part: int) -> None:
        start.wait()
        for _ in range(20):
            for image in batches[part::4]:
                code, (p,) = lib([image], [((len(image), 10), "f4")], len(image))
                assert code == 0 and np.array_equal(p, wanted[len(image)])

    wanted = {len(image): digits(image=image)["p"] for image in batches}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A net whose kernels have parallel regions, and its library."""
    if not HAVE_CC:
        pytest.skip("there is no C compiler on this machine")
    folder = tmp_path_factory.mktemp("wide")
    (folder / "wide.net").write_text(WIDE)
    net = api.load(folder / "wide.net")
    net.emit_c(folder)
    return net.compile(), Library(folder, "wide")


def test_results_do_not_depend_on_the_number_of_threads(wide):
    exe, lib = wide
    feeds = {n: random_feeds(exe, "run", {"N": n}) for n in (1, 3)}
    wanted = {n: exe(**feeds[n])["y"] for n in feeds}
    for count in (1, 2, 3, 7, 2, 1):
        assert lib.function("set_threads")(count) == 0
        for n in feeds:
            for _ in range(5):
                code, (y,) = lib([feeds[n]["x"]], [(wanted[n].shape, "f4")], n)
                assert code == 0 and np.array_equal(y, wanted[n])
    assert [lib.function("set_threads")(count) for count in (0, -1, 257)] == [1, 1, 1]


@needs_cc
def test_batches_with_kernels_of_their_own(tmp_path):
    done = netc("compile", SPECS / "digits.net", "--emit", "c", "-o", tmp_path, "--batch", "1,4")
    assert done.code == 0, done.err
    exe, lib = api.load(SPECS / "digits.net").compile(batch=(1, 4)), Library(tmp_path, "digits")
    for n in (4, 1, 3, 4):
        code, (p,) = lib([images(n, 1, 8, 8)], [((n, 10), "f4")], n)
        assert code == 0 and np.array_equal(p, exe(image=images(n, 1, 8, 8))["p"])


def test_callers_share_the_pool_while_its_size_changes(wide):
    exe, lib = wide
    feeds = random_feeds(exe, "run", {"N": 2})
    wanted = exe(**feeds)["y"]
    start = threading.Barrier(4)

    def work(part: int) -> None:
        start.wait()
        for turn in range(40):
            if part == 0:
                assert lib.function("set_threads")(turn % 4 + 1) == 0
            code, (y,) = lib([feeds["x"]], [(wanted.shape, "f4")], 2)
            assert code == 0 and np.array_equal(y, wanted)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert lib.function("set_threads")(1) == 0


@needs_cc
def test_a_forked_child_computes_alone_and_may_ask_for_threads_again(wide, tmp_path):
    exe, lib = wide
    folder = Path(lib.dll._name).parent
    (tmp_path / "fork.c").write_text(FORK)
    subprocess.run(["cc", "fork.c", f"-I{folder}", f"-L{folder}", "-lwide", f"-Wl,-rpath,{folder}", "-o", "fork"], cwd=tmp_path,
                   check=True)
    assert subprocess.run(["./fork", str(folder / "wide.weights")], cwd=tmp_path, timeout=60).returncode == 0


def test_several_nets_live_in_one_process(deploy, digits):
    libraries = [Library(deploy, name, ctypes.RTLD_GLOBAL) for name in ("traffic_sign", "digits")]
    image = images(2, 1, 8, 8)
    assert np.array_equal(libraries[1]([image], [((2, 10), "f4")], 2)[1][0], digits(image=image)["p"])
    code, (p,) = libraries[0]([images(3, 3, 32, 32)], [((3, 43), "f4")], 3)
    assert code == 0 and np.allclose(p.sum(1), 1)


def test_weights_may_be_mapped(deploy, digits):
    lib, image = Library(deploy, "digits"), images(3, 1, 8, 8)
    lib.weights = np.memmap(deploy / "digits.weights", np.uint8, "r", offset=0)[64:]
    assert np.array_equal(lib([image], [((3, 10), "f4")], 3)[1][0], digits(image=image)["p"])


@pytest.mark.parametrize("code, damage", [
    (2, None), (3, lambda d: b""), (3, lambda d: d[:50]), (3, lambda d: b"x" + d[1:]), (3, lambda d: d[:9] + b"x" + d[10:]),
    (4, lambda d: d[:-1]), (4, lambda d: d[:100] + bytes([d[100] ^ 1]) + d[101:]), (4, lambda d: d[:64] + d[72:] + d[64:72])])
def test_a_wrong_file_of_weights_is_refused(deploy, tmp_path, code, damage):
    lib = Library(deploy, "digits")
    if damage is not None:
        (tmp_path / "w").write_bytes(damage((deploy / "digits.weights").read_bytes()))
    assert lib.load(tmp_path / "w") == code
    assert lib.load(deploy / "traffic_sign.weights") == 3
    assert lib.load(deploy / "digits.weights") == 0


def test_bad_arguments_are_refused(deploy):
    lib = Library(deploy, "digits")
    image, p, space = images(1, 1, 8, 8), np.zeros(10, "f4"), np.zeros(1 << 20, np.uint8)
    good = [pointer(image), pointer(p), ctypes.c_int64(1), pointer(lib.weights), pointer(space)]
    assert lib.function("run")(*good) == 0
    for index in (0, 1, 3, 4):
        assert lib.function("run")(*good[:index], None, *good[index + 1:]) == 1
    for size in (0, -1):
        assert lib.function("run")(*good[:2], ctypes.c_int64(size), *good[3:]) == 1
    assert lib.function("load")(None, pointer(lib.weights)) == 1 == lib.function("load")(b"x", None)


@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")
def test_it_stands_alone_and_allocates_nothing(deploy):
    done = subprocess.run(["nm", "-D", str(deploy / "libdigits.so")], capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in done.stdout.splitlines()]
    needed = {name.partition("@")[0] for kind, name in symbols if kind == "U"}
    assert not needed & {"malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign"}
    assert not [name for name in needed if "TVM" in name or "Py" in name]
    assert {name for kind, name in symbols if kind == "T"} == {
        f"digits_{what}" for what in ("run", "load", "set_threads", "weights_size", "workspace_size")}


def test_the_library_is_small(deploy):
    assert (deploy / "libdigits.so").stat().st_size < 200_000
    assert (deploy / "digits.h").read_text().count("\n") < 60


@needs_cc
def test_the_program_of_the_page_runs(deploy, digits):
    page = ROOT / "docs" / "c.md"
    example, = (e for e in examples(page) if e.marks.get("file") == "example.c")
    folder = deploy.parent
    (folder / "example.c").write_text(example.text)
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "example.c", "-Ideploy", "-Ldeploy", "-ldigits",
                    "-Wl,-rpath,$ORIGIN/deploy", "-o", "example"], cwd=folder, check=True)
    done = subprocess.run(["./example"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image = (np.arange(64) % 8 * 32).astype("u1").reshape(1, 1, 8, 8)
    printed = [float(line.split(": ")[1]) for line in done.stdout.splitlines()]
    assert np.allclose(printed, digits(image=image)["p"][0], atol=1e-6)
    quoted = next(e for e in examples(page) if e.language == "c" and "digits_workspace_size(int64_t N)" in e.text)
    header = (deploy / "digits.h").read_text()
    assert all(line in header for line in quoted.text.splitlines())


@needs_cc
def test_names_sizes_and_types_of_any_kind(tmp_path):
    (tmp_path / "x.net").write_text(SEVERAL)
    net = api.load(tmp_path / "x.net")
    deployed = net.emit_c(tmp_path)
    header = deployed.header.read_text()
    assert deployed.header.name == "double_.h" and "const float *register_" in header
    subprocess.run(["cc", "-x", "c++" if shutil.which("c++") else "c", "-Werror", "-Wall", "-fsyntax-only", str(deployed.header)],
                   check=True)
    exe = net.compile()
    feeds = random_feeds(exe, "run", {"N": 3, "T": 5})
    wanted = exe(**feeds)
    inputs = [feeds[a["name"]] for a in exe.programs["run"]["arguments"] if a["kind"] == "input"]
    names = [a["name"] for a in exe.programs["run"]["arguments"] if a["kind"] == "output"]
    code, results = Library(tmp_path, "double_")(inputs, [(wanted[n].shape, wanted[n].dtype) for n in names], 3, 5)
    assert code == 0
    assert all(np.array_equal(got, wanted[name]) for got, name in zip(results, names))


def test_without_a_compiler_the_message_says_where_to_get_one(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = netc("compile", SPECS / "logistic.net", "--emit", "c", "-o", tmp_path / "out")
    assert done.code == 1 and "error[E0730]" in done.err and "ziglang" in done.err and not (tmp_path / "out").exists()
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert "`no-such-compiler`, which CC names" in netc("compile", SPECS / "logistic.net", "--emit", "c").err


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    script = tmp_path / "mycc"
    script.write_text("#!/bin/sh\necho 'x.c:1: error: I make nothing' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    done = netc("compile", SPECS / "logistic.net", "--emit", "c", "-o", tmp_path / "out")
    assert done.code == 1 and "error[E0731]" in done.err and "I make nothing" in done.err


def test_what_has_no_c_library():
    done = netc("compile", SPECS / "digits.net", "--emit", "c", "--target", "cuda:sm_90")
    assert done.code == 1 and "error[E0732]" in done.err
    assert netc("compile", SPECS / "digits.net", "--emit", "c", "--train").code == 2


def test_sizes_in_c():
    names = {"N": "N", "T": "T_"}
    assert c_entry.expression(["+", ["*", 3, "N", "T"], ["//", ["+", "N", 1], 2], ["max", "N", "T", 5]], names) \
        == "((3 * N * T_) + ((N + 1) / 2) + larger(larger(N, T_), 5))"
    assert c_entry.expression(1 << 40, names) == f"INT64_C({1 << 40})"
