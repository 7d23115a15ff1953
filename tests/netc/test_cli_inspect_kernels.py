"""`netc inspect --kernels` of GPU code: a row for each kernel and GPU, with or without NVIDIA's tools; limits are kept."""

import json

import pytest

from compiler import sass, toolkit
from compiler.artifact import build
from compiler.cubin import usage
from compiler.gpus import GPUS, STATIC_SHARED
from netc.api import load
from runtime.format import read, write
from tests.compiler.emulator import compiler_or_skip
from tests.netc.command import SPECS, netc

KEYS = ["kernel", "layers", "arch", "registers", "shared_bytes", "spill_bytes", "occupancy", "dram_bytes", "flops",
        "predicted_us"]
ARCHS = ["sm_80", "sm_90"]
MODULE = f"""import "{SPECS}/inception.net" as g

net module {{
  input x: f32[N, 192, 28, 28]
  output y = x -> g.inception(64, 96, 128, 16, 32, 32)
}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    compiler_or_skip()
    folder = tmp_path_factory.mktemp("artifacts")
    (folder / "module.net").write_text(MODULE)
    for net in (SPECS / "lenet.net", folder / "module.net"):
        write(folder / f"{net.stem}.netb", *build(load(net).program, "cuda:" + ",".join(ARCHS)))
    return folder


@pytest.fixture(scope="module", params=["lenet", "module"])
def rows(folder, request):
    done = netc("inspect", folder / f"{request.param}.netb", "--kernels", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_rows_name_what_they_say(rows):
    assert {row["arch"] for row in rows} == set(ARCHS)
    for row in rows:
        assert list(row) == [*KEYS, "mix"]
        assert row["layers"] and row["kernel"].startswith("kernel") and row["dram_bytes"] > 0 and row["predicted_us"] >= 2
        assert (row["mix"] is None) == (not sass.available())


def test_kernels_keep_the_limits(rows):
    for row in rows:
        gpu = GPUS[row["arch"]]
        assert row["spill_bytes"] == 0, row
        assert 0 < row["registers"] <= 128, row
        assert row["shared_bytes"] <= STATIC_SHARED <= gpu.shared_block, row
        assert 0 < row["occupancy"] <= 1, row


def test_the_table_says_predicted(folder):
    done = netc("inspect", folder / "lenet.netb", "--kernels", "--program", "run", "--batch", "4")
    assert done.code == 0, done.err
    assert "predicted µs" in done.out and "lenet: run, batch 4, sm_80" in done.out and "lenet: run, batch 4, sm_90" in done.out
    assert "logits/conv1" in done.out and "occupancy" in done.out and " launches" in done.out
    assert ("instructions are not counted" in done.out) == (not sass.available())


def test_without_nvidia_tools_only_instructions_are_missing(folder, monkeypatch):
    monkeypatch.setattr(toolkit, "find", lambda tool: None)
    rows = json.loads(netc("inspect", folder / "lenet.netb", "--kernels", "--program", "run", "--json").out)
    launches = len(read(folder / "lenet.netb").manifest["programs"]["run"]["kernels"])
    assert len(rows) == 2 * launches and all(row["mix"] is None and row["registers"] > 0 for row in rows)
    assert "pip install nvidia-cuda-nvdisasm" in netc("inspect", folder / "lenet.netb", "--kernels").out


def test_larger_batches_move_more(folder):
    def moved(batch):
        done = netc("inspect", folder / "module.netb", "--kernels", "--program", "run", "--batch", batch, "--json")
        return {(row["kernel"], row["arch"]): row["dram_bytes"] for row in json.loads(done.out)}
    small, large = moved(1), moved(16)
    assert small.keys() == large.keys() and all(small[key] < large[key] < 16 * small[key] for key in small)


def test_each_architecture_asked_for_is_in_the_artifact(folder):
    members = read(folder / "lenet.netb").members
    kernels = set(json.loads(members["kernels.json"]))
    for arch in ARCHS:
        binary = members[f"kernels.{arch}.cubin"]
        assert f"sm_{binary[49]}" == arch and set(usage(binary)) == kernels  # the ELF header's flags, second byte
        assert all(taken.local == 0 and taken.registers <= 128 for taken in usage(binary).values())
        if sass.available():
            assert f".target\t{arch}\n" in sass.disassemble(binary)


def test_a_cpu_artifact_prints_what_it_did(tmp_path):
    assert netc("compile", SPECS / "logistic.net", "-o", tmp_path / "c.netb").code == 0
    done = netc("inspect", tmp_path / "c.netb", "--kernels")
    assert done.code == 0 and "FLOPs" in done.out and "predicted" not in done.out and "bytes of arena" in done.out


def test_a_program_it_does_not_hold(folder):
    done = netc("inspect", folder / "module.netb", "--kernels", "--program", "step")
    assert done.code == 1 and "E0607" in done.err and "it has run" in done.err
