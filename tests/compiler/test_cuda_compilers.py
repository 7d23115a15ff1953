"""CUDA compilers that are missing, broken or too old: one coded error each, found before anything takes long."""

import os
import stat

import pytest

import netc
from compiler import programs, toolkit
from runtime.errors import NetcError

ASKED = 'case "$1" in --version) echo "release 13.9";; --list-gpu-code) echo sm_80 sm_90;; '
COMPILERS = {  # name: (what nvcc does, the architecture asked for, the code, what the message says)
    "unknown": (f"#!/bin/sh\n{ASKED} esac", "sm_99", "E0711", "nvcc 13.9 does not know `sm_99`"),
    "too old": (f"#!/bin/sh\n{ASKED} esac", "sm_50", "E0711", "`sm_50` is too old for nvcc 13.9"),
    "no architecture": (f"#!/bin/sh\n{ASKED} esac", "ampere", "E0711", "`ampere` is not a GPU architecture"),
    "killed": (f"#!/bin/sh\n{ASKED} *) kill -9 $$;; esac", "sm_80", "E0712", "it was ended by signal 9"),
    "silent": (f"#!/bin/sh\n{ASKED} *) exit 7;; esac", "sm_80", "E0712", "it ended with status 7"),
    "a broken installation": ("#!/bin/sh\necho 'cannot find cicc' >&2; exit 1", "sm_80", "E0710", "cannot find cicc"),
    "no program": ("\x7fELF what is no program", "sm_80", "E0710", "cannot be run"),
    "a kernel refused": (f"#!/bin/sh\n{ASKED} *) echo \"ptxas error   : Entry function 'kernel0' uses too much shared data\" >&2; "
                         "exit 255;; esac", "sm_90", "E0712", "refuses kernel `kernel0` (made of y/dense"),
}


@pytest.fixture
def net(tmp_path):
    (tmp_path / "one.net").write_text("lang 1\nnet one {\n  input x: f32[N, 4]\n  output y = x -> dense(3) -> relu\n}\n")
    return netc.load(tmp_path / "one.net")


@pytest.mark.parametrize("name", COMPILERS)
def test_a_broken_compiler(net, name, tmp_path, monkeypatch):
    script, arch, code, says = COMPILERS[name]
    (tmp_path / "nvcc").write_text(script)
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    for file in ("nvcc", "gcc"):
        (tmp_path / file).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if code != "E0712":
        monkeypatch.setattr(programs, "build", lambda *arguments: pytest.fail("found after the passes"))
    with pytest.raises(NetcError) as caught:
        net.compile("run", f"cuda:{arch}")
    assert caught.value.code == code and says in caught.value.message, str(caught.value)
    assert "\n" not in caught.value.message and caught.value.hint
    if code == "E0712":
        assert f"for {arch}" in caught.value.message


def test_no_compiler(net, monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": "/nonexistent", "HOME": os.environ.get("HOME", "/")})
    monkeypatch.setattr(toolkit, "packages", list)
    monkeypatch.setattr(programs, "build", lambda *arguments: pytest.fail("found after the passes"))
    with pytest.raises(NetcError) as caught:
        net.compile("run", "cuda:sm_80")
    assert caught.value.code == "E0710" and "pip install" in caught.value.hint
