"""Which device an artifact runs on, and fat artifacts: code for GPUs and for a CPU in one file, of the same weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.target import TargetError, halves
from netc.api import target_of
from runtime import cuda, devices, format
from runtime.errors import NetcError
from runtime.execute import Executable
from tests.netc.command import netc as command
from tests.runtime.emulated import needs_emulator
from tests.small import loaded

NET = """
lang 1
net tiny {
  input image: f32[N, 1, 6, 6]
  label kind: i32[N] in 3
  logits = image -> conv(4, 3x3, pad = same) -> batch_norm -> relu -> flatten -> dense(3)
  output p = logits -> softmax
  loss cross_entropy(logits, kind)
}
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("devices"), NET)


@pytest.fixture(scope="module")
def fat(net, tmp_path_factory):
    """Read back from its file."""
    built, place = net.build("evaluate", "cpu+cuda-emulator", seed=4), tmp_path_factory.mktemp("fat") / "fat.netb"
    format.write(place, built.manifest, built.members)
    return format.read(place)


def with_binaries(artifact):
    return dataclasses.replace(artifact, members={**artifact.members, "kernels.sm_80.cubin": b"\x7fELF"})


@pytest.mark.parametrize("text, parts", {
    "cpu": ["cpu"], "cuda:sm_80,sm_90": ["cuda:sm_80,sm_90", "cpu"], "cuda-emulator": ["cuda-emulator"],
    "cuda:sm_80+cpu:generic": ["cuda:sm_80", "cpu:generic"], "cpu:x86-64-v3 + cuda:sm_80": ["cuda:sm_80", "cpu:x86-64-v3"],
    "cuda": ["cuda"]}.items())
def test_a_gpu_alone_brings_this_cpu(text, parts):
    assert halves(text) == parts


@pytest.mark.parametrize("text", ["cpu+cpu:generic", "cuda:sm_80+cuda:sm_90", "cuda:sm_80+cuda-emulator"])
def test_a_target_names_one_of_a_kind(text):
    with pytest.raises(TargetError) as caught:
        halves(text)
    assert caught.value.code == "E0704" and text in caught.value.message


def test_halves_share_weights_and_texts_only(fat):
    assert format.kinds(fat.manifest) == ["cuda", "cpu"]
    assert fat.manifest["target"]["kind"] == "cuda" and "kernels.cu" in fat.members
    half = format.half(fat, "cpu")
    assert half.manifest["target"]["name"] == "cpu" and format.kinds(half.manifest) == ["cpu"]
    assert half.members["host.o"] != fat.members["host.o"] and "kernels.cu" not in half.members
    assert half.members[format.WEIGHTS] == fat.members[format.WEIGHTS]
    assert sum(name.endswith(format.WEIGHTS) for name in fat.members) == 1
    assert [name for name in fat.members if name.startswith("source/")] == ["source/0-x.net"]
    assert format.half(fat, "cuda") is fat


def test_the_cpu_half_is_what_the_cpu_alone_gets(net, fat):
    alone, half = net.build("evaluate", "cpu", seed=4), format.half(fat, "cpu")
    assert all(half.members[name] == data for name, data in alone.members.items())
    assert all(half.manifest[key] == alone.manifest[key] for key in format.HALF)


@needs_emulator
def test_halves_compute_the_same(fat):
    image = np.random.default_rng(0).standard_normal((3, 1, 6, 6)).astype("f4")
    exes = {device: Executable(fat, device) for device in ("auto", "cpu", "cuda-emulator")}
    assert {device: exe.device for device, exe in exes.items()} == {
        "auto": "cpu", "cpu": "cpu", "cuda-emulator": "cuda-emulator"}
    got = {device: exe(image=image)["p"] for device, exe in exes.items()}
    np.testing.assert_array_equal(got["auto"], got["cpu"])
    np.testing.assert_allclose(got["cuda-emulator"], got["cpu"], rtol=1e-5, atol=1e-6)
    # The GPU's half is packed in other ways; both take the user's tensors.
    for exe in exes.values():
        for path in exe.parameters.paths("weight"):
            exe.parameters[path] = 0
        exe.prepare()
        np.testing.assert_allclose(exe(image=image)["p"], np.full((3, 3), 1 / 3, "f4"), rtol=1e-6)


def test_auto_is_the_gpu_if_there_is_one(net, fat, monkeypatch):
    cpu, gpu, both = net.build("run", "cpu"), with_binaries(net.build("run", "cuda-emulator")), with_binaries(fat)
    for present, chosen in (False, ("cpu", "cuda", "cpu")), (True, ("cpu", "cuda", "cuda")):
        monkeypatch.setattr(cuda, "present", lambda: present)
        assert tuple(devices.choose(artifact, "auto") for artifact in (cpu, gpu, both)) == chosen
    assert devices.choose(fat, "auto") == "cpu"  # no machine code: nothing for a GPU to run


@pytest.mark.parametrize("target, device, code, says", [
    ("cpu", "cuda-emulator", "E0744", "holds CPU code"), ("cpu", "cuda", "E0745", "holds CPU code"),
    ("cuda-emulator", "cpu", "E0745", "no code for the CPU"), ("cuda-emulator", "cuda", "E0745", "no machine code"),
    ("cpu", "gpu", "E0703", "no device `gpu`")])
def test_a_device_that_an_artifact_is_not_for(net, target, device, code, says):
    with pytest.raises(NetcError) as caught:
        Executable(net.build("run", target), device)
    assert caught.value.code == code and says in caught.value.message


def test_auto_compiles_for_a_gpu_where_all_is_there(monkeypatch):
    from compiler import cuda as compilers
    for present, missing, target in ((False, None, "cpu"), (True, None, "cuda:sm_80"), (True, compilers, "cpu"), (True, cuda, "cpu")):
        def absent(*_):
            raise NetcError("E0710", "not there")
        monkeypatch.setattr(cuda, "present", lambda present=present: present)
        monkeypatch.setattr(cuda, "gpu_arch", lambda held: "sm_80")
        monkeypatch.setattr(compilers, "find_compiler", absent if missing is compilers else lambda: None)
        monkeypatch.setattr(cuda, "load_runtime", absent if missing is cuda else lambda: None)
        assert target_of("auto") == target and target_of("cuda") == "cuda:sm_80" and target_of("cpu") == "cpu"


@needs_emulator
def test_verbs_take_a_device(net, fat, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "_driver", lambda: "no NVIDIA GPU (no driver: libcuda.so.1)")
    monkeypatch.setenv("NETC_CUDA_GRAPH", "1")
    np.save(tmp_path / "image.npy", np.ones((2, 1, 6, 6), "f4"))
    given = "--input", f"image={tmp_path}/image.npy"
    shown = {device: command("run", fat.path, *given, "--device", device, "--no-graph") for device in ("auto", "cpu", "cuda-emulator")}
    assert len({done.out for done in shown.values()}) == 1 and all(done.code == 0 for done in shown.values()), shown
    for arguments, code in ((("run", fat.path, *given, "--device", "cuda"), "E0745"), (("run", fat.path, "--device", "gpu"), "E0453"),
                            (("time", net.path, "--device", "cuda"), "E0720")):
        done = command(*arguments, cwd=tmp_path)
        assert done.code and f"error[{code}]" in done.err, done.err
    timed = command("time", fat.path, "--device", "cuda-emulator", "--json")
    assert timed.code == 0 and '"kernels"' in timed.out, timed.err


def test_a_gpu_that_is_not_there(net, fat, monkeypatch):
    monkeypatch.setattr(cuda, "_driver", lambda: "no NVIDIA GPU (no driver: libcuda.so.1)")
    with pytest.raises(NetcError) as caught:
        Executable(with_binaries(fat), "cuda")
    assert caught.value.code == "E0720" and "sm_80" in caught.value.message and "--device cpu" in caught.value.hint
    with pytest.raises(NetcError) as caught:
        net.compile("run", device="cuda")
    assert caught.value.code == "E0720"
    with pytest.raises(NetcError) as caught:
        net.compile("run", device="tpu")
    assert caught.value.code == "E0703"
    assert net.compile("run", device="auto").device == "cpu"
