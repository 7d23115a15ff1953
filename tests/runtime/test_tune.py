"""Variants of kernels: a driver calls the chosen ones, they compute the same, and `netc tune` remembers the fastest."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

import netc
from compiler.schedule import cuda as schedule
from runtime import cuda, format, tune
from runtime.errors import NetcError
from runtime.execute import Executable
from tests.netc.command import netc as command
from tests.runtime.emulated import needs_emulator
from tests.small import ROWS, step_feeds

pytestmark = needs_emulator
LAYERS = 35  # more than one word of choices
X = np.random.default_rng(0).standard_normal((5, 4)).astype("f4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("tune") / "tiny.net"
    place.write_text(ROWS)
    return place


@pytest.fixture(scope="module")
def built(place):
    return netc.load(place).build("train", "cuda-emulator", variants=3)


def test_a_driver_calls_the_chosen_variants(tmp_path, monkeypatch):
    """Here variant r adds r to what its kernel computes, so that the result tells which ones ran."""
    emit = schedule.emit
    monkeypatch.setattr(schedule, "emit", lambda kernels, batch, *more, rank=0: emit([replace(
        k, store=lambda idx, value, *rest, k=k: k.store(idx, value + float(rank), *rest)) for k in kernels], batch, *more))
    (tmp_path / "deep.net").write_text("lang 1\nnet deep {\n  input x: f32[N, 2]\n  output y = x"
                                       + " -> dense(2, bias = false) -> relu" * LAYERS + "\n}\n")
    exe = netc.load(tmp_path / "deep.net").compile("run", "cuda-emulator", variants=3)
    kernels = exe.programs["run"]["kernels"]
    assert len(kernels) == LAYERS and exe.programs["run"]["choices"] == 2
    weights = [np.eye(2, dtype="f4") * (0.5 + i / 100) for i in range(LAYERS)]
    for path, weight in zip(exe.parameters.paths("weight"), weights):
        exe.parameters[path] = weight
    exe.prepare()
    for seed in range(3):
        ranks = np.random.default_rng(seed).integers(0, 3, LAYERS)
        exe.choose("run", 0)
        for kernel, rank in zip(kernels, ranks):
            kernel["function"] = kernel["variants"][rank]
        want = np.float32([[1, 2]])
        for weight, rank in zip(weights, ranks):
            want = np.maximum(want @ weight.T + rank, 0)
        np.testing.assert_allclose(exe(x=np.float32([[1, 2]]))["y"], want, rtol=1e-5)


def test_variants_compute_the_same(built):
    exe = Executable(format.Artifact(copy.deepcopy(built.manifest), built.members))
    feeds = step_feeds(exe, 0, 0.1, x=X, y=np.arange(5, dtype="i4") % 3)
    start, found = exe.parameters.tensors(), []
    for rank in range(3):
        for path, value in start.items():
            exe.parameters[path] = value
        for program in exe.programs:
            exe.choose(program, rank)
        found.append({**exe.call("step", feeds), **exe.call("run", {"x": X}), **exe.parameters.tensors()})
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_one_variant_leaves_nothing_to_say(place):
    program = netc.load(place).build("run", "cuda-emulator").manifest["programs"]["run"]
    assert program["choices"] == 0 and not any("variants" in kernel for kernel in program["kernels"])
    assert netc.load(place).build("run", "cpu", variants=3).manifest["programs"]["run"]["choices"] == 0


def test_the_fastest_is_remembered_in_the_file(place, tmp_path, monkeypatch):
    made = command("compile", place, "--train", "--target", "cuda-emulator+cpu", "--variants", 3, "-o", "t.netb", cwd=tmp_path)
    assert made.code == 0, made.err
    before = format.read(tmp_path / "t.netb")
    timed = []

    def seconds(bound, kernel, count):
        """The last variant is fastest, but of the first kernel of `run`, where it is hardly faster than what was predicted."""
        timed.append((bound.program, kernel))
        return count * (1e-3 - bound.rank * (1e-5 if timed[-1] == ("run", 0) else 2e-4))

    bind = Executable.bind

    def marked(self, program, *arguments):
        bound = bind(self, program, *arguments)
        kernel = max(self.programs[program]["kernels"], key=lambda kernel: len(kernel["variants"]))
        object.__setattr__(bound, "program", program)
        object.__setattr__(bound, "rank", kernel["variants"].index(kernel["function"]))
        return bound

    monkeypatch.setattr(tune, "_seconds", seconds)
    monkeypatch.setattr(Executable, "bind", marked)
    done = command("tune", "t.netb", "--device", "cuda-emulator", "--batch", 3, cwd=tmp_path)
    here = Executable(before, "cuda-emulator").place
    assert done.code == 0 and f"on {here} at batch 3" in done.out, done.err
    after = format.read(tmp_path / "t.netb")
    assert after.manifest["tuned"] == {"device": here, "batch": 3} and "tuned" not in before.manifest
    chosen = [[k["variants"].index(k["function"]) for k in after.manifest["programs"][p]["kernels"]] for p in ("run", "step")]
    assert chosen[0][0] == 0 and 2 in chosen[0] and set(chosen[1]) <= {0, 1, 2}
    assert after.members == before.members and after.manifest["halves"] == before.manifest["halves"]
    functions = [tuple(k["variants"]) for p in after.manifest["programs"].values() for k in p["kernels"]]
    assert len(set(timed)) == len(set(functions)) < len(functions), "equal kernels are timed once"
    monkeypatch.undo()
    got = [Executable(artifact, "cuda-emulator")(x=X)["p"] for artifact in (before, after)]
    np.testing.assert_allclose(*got, rtol=1e-5)
    other = command("tune", "t.netb", "--device", "cuda-emulator", "-o", "u.netb", "--json", cwd=tmp_path)
    assert other.code == 0 and '"chosen"' in other.out
    assert format.read(tmp_path / "t.netb").manifest == after.manifest and (tmp_path / "u.netb").exists()


def test_what_cannot_be_tuned(place, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "_driver", lambda: "no NVIDIA GPU (no driver: libcuda.so.1)")
    for target in ("cpu", "cuda-emulator"):
        assert command("compile", place, "--target", target, "-o", f"{target}.netb", cwd=tmp_path).code == 0
        on_gpu = command("tune", f"{target}.netb", cwd=tmp_path)
        assert on_gpu.code == 1 and "error[E0720]" in on_gpu.err and len(on_gpu.err.splitlines()) == 2, on_gpu.err
        emulated = command("tune", f"{target}.netb", "--device", "cuda-emulator", cwd=tmp_path)
        assert emulated.code == 1 and "error[E0746]" in emulated.err and "--variants 3" in emulated.err
    with pytest.raises(NetcError, match="E0601"):
        format.read(tmp_path / "none.netb")
