"""Code for another processor is refused, not crashed on."""

import io
import platform
import shutil
from pathlib import Path

import pytest

import netc
from compiler import c_entry
from runtime import execute, tiles
from runtime.errors import NetcError
from runtime.execute import Executable

SPEC = Path(__file__).parent.parent.parent / "specs/logistic.net"
X86 = platform.machine().lower() in ("x86_64", "amd64")


def test_another_kind_of_processor():
    target = "cpu:aarch64" if X86 else "cpu:generic"
    with pytest.raises(NetcError) as caught:
        Executable(netc.load(SPEC).build(target=target))
    assert caught.value.code == "E0609" and target in caught.value.message


def test_instructions_the_processor_lacks():
    artifact = netc.load(SPEC).build()
    artifact.manifest["target"]["features"] = ["fma", "no_such_feature"]
    with pytest.raises(NetcError) as caught:
        Executable(artifact)
    assert caught.value.code == "E0609" and "no_such_feature" in caught.value.message


def test_tile_registers_that_the_system_denies(monkeypatch):
    artifact = netc.load(SPEC).build()
    artifact.manifest["target"]["features"] = ["amx_tile"]
    monkeypatch.setattr(execute, "open", lambda *_, **__: io.StringIO("flags\t: amx_tile\n"), raising=False)
    monkeypatch.setattr(tiles, "granted", lambda: False)
    with pytest.raises(NetcError) as caught:
        Executable(artifact)
    assert caught.value.code == "E0609" and "AMX" in caught.value.message and "cooperlake" in caught.value.hint
    monkeypatch.setattr(tiles, "granted", lambda: True)
    assert Executable(artifact)


def test_asking_for_tile_registers_answers_and_harms_nothing():
    assert tiles.granted() in (True, False)


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_a_c_library_asks_for_them():
    artifact = netc.load(SPEC).build(target="cpu:sapphirerapids", precision="bf16")
    made = c_entry.Entry.of(artifact.manifest)
    assert made.tiles and "if (!tiles_granted) return FAILED;" in c_entry.source(made)
    assert c_entry.link(made, artifact.members["host.o"]).startswith(b"\x7fELF")
    assert "tiles_granted" not in c_entry.source(c_entry.Entry.of(netc.load(SPEC).build().manifest))
