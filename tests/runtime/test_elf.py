"""Object files loaded without TVM: the same results as by its JIT, memory that is either written or run, files that are none."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import netc
from runtime import elf, format, native
from runtime.object_file import RELA, SECTION_HEADER
from runtime.execute import Executable
from runtime.measure import random_feeds

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def exe():
    return netc.load("specs/digits.net").compile()


@pytest.fixture
def code(exe):
    return exe.artifact.members["host.o"]


def test_results_are_those_of_the_jit(exe, monkeypatch):
    assert isinstance(exe._module, elf.Code)
    feeds = random_feeds(exe, "run", {"N": 3})
    ours = exe.call("run", feeds)
    monkeypatch.setattr(native, "link", lambda code, alone: native.load(code))
    theirs = Executable(exe.artifact)
    assert isinstance(theirs._module, native.Object)
    for name, value in theirs.call("run", feeds).items():
        np.testing.assert_array_equal(ours[name], value)


def test_one_thread_needs_no_library_of_tvm(tmp_path):
    exe = netc.load("specs/lenet.net").compile()
    assert native.LAUNCH in exe.artifact.members["host.o"]
    format.write(tmp_path / "a.netb", exe.manifest, exe.artifact.members)
    script = ("import sys, numpy as np\nfrom runtime.execute import Executable\nfrom runtime.measure import random_feeds\n"
              "exe = Executable.load(sys.argv[1])\nexe.call('run', random_feeds(exe, 'run', {'N': 2}))\n"
              "print([line.split('/')[-1] for line in open('/proc/self/maps') if 'tvm' in line])")
    for threads, needed in (("1", False), ("2", True)):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.netb")], capture_output=True, text=True, cwd=ROOT,
                              env={"NETC_NUM_THREADS": threads, "PATH": ""})
        assert done.returncode == 0, done.stderr
        assert ("libtvm_runtime" in done.stdout) == needed and "orcjit" not in done.stdout


def test_no_memory_is_both_written_and_run(code):
    loaded = elf.Code(code, lambda name: native._library_function(name))
    start = ctypes.addressof(ctypes.c_char.from_buffer(loaded._memory))
    assert start <= loaded.address("__tvm_ffi_run") < start + len(loaded._memory)
    rights = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, right, *_ = line.split()
        first, end = (int(address, 16) for address in place.split("-"))
        if first < start + len(loaded._memory) and start < end:
            rights[max(first, start)] = right
    assert [rights[place] for place in sorted(rights)] in (["r-xp", "r--p"], ["r-xp", "r--p", "rw-p"])
    assert loaded.address("kernel0") is None and loaded.address("nowhere") is None


def test_files_that_are_no_object(code):
    for data in (b"", b"no object", code[:100], code[:len(code) // 2], b"\x7fELF\x01" + code[5:]):
        with pytest.raises(elf.Unsupported):
            elf.Code(data, lambda name: 0)


def test_an_object_of_another_processor(code):
    other = bytearray(code)
    struct.pack_into("<H", other, 18, 183)  # aarch64
    with pytest.raises(elf.Unsupported, match="x86-64"):
        elf.Code(bytes(other), lambda name: 0)


def test_a_function_that_is_nowhere(code):
    def resolve(name: str) -> int:
        raise LookupError(f"no {name}")

    with pytest.raises(elf.Unsupported, match="no "):
        elf.Code(code, resolve)


def test_a_relocation_that_is_not_known(code):
    other = bytearray(code)
    headers, = struct.unpack_from("<Q", code, 40)
    count, = struct.unpack_from("<H", code, 60)
    sections = [SECTION_HEADER.unpack_from(code, headers + i * SECTION_HEADER.size) for i in range(count)]
    table = next(section for section in sections if section[1] == RELA)
    info, = struct.unpack_from("<Q", code, table[4] + 8)
    struct.pack_into("<Q", other, table[4] + 8, info & ~0xFFFFFFFF | 10)  # R_X86_64_32, of code at a fixed place
    with pytest.raises(elf.Unsupported, match="kind 10"):
        elf.Code(bytes(other), native._library_function)
