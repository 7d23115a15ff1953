"""Code for another processor is refused, not crashed on."""

import platform
from pathlib import Path

import pytest

import netc
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
