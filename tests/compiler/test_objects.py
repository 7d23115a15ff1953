"""Joining object files: symbols meet, what is private stays private, relocations keep what they point at."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from compiler import codegen, objects
from compiler.artifact import build
from compiler.elaborate import load
from runtime.object_file import ALLOC, LOCAL, RELA, RELOCATION, SECTION, UNDEFINED, WEAK, read

NET = """lang 1
net small {
  input x: f32[N, 9]
  label c: i32[N] in 4
  logits = x -> dense(7) -> tanh -> dense(4)
  output y = logits -> softmax
  loss cross_entropy(logits, c)
}
"""


@pytest.fixture(scope="module")
def parts():
    """The objects that were joined and the result, by target."""
    seen = {}
    real = objects.join

    def spy(given, rename):
        seen[target] = list(given), dict(rename), real(given, rename)
        return seen[target][2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codegen.objects, "join", spy)
        patch.setenv("NETC_CACHE", "0")
        for target in ("cpu:x86-64-v3", "cpu:aarch64"):
            build(load(NET, name="small.net"), target, names=("run", "evaluate"))
    return seen


@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cpu:aarch64"])
def test_kernels_are_private_and_drivers_are_not(parts, target):
    given, rename, data = parts[target]
    joined = read(data)
    outside = {s.name for s in joined.symbols if s.binding != LOCAL}
    assert {"__tvm_ffi_run", "__tvm_ffi_evaluate"} <= outside
    assert not outside & {*rename, *rename.values()}
    assert {s.name for s in joined.symbols if s.binding == LOCAL and s.section != UNDEFINED} >= set(rename.values())
    defined = [s.name for s in joined.symbols if s.binding != LOCAL and s.section != UNDEFINED]
    assert len(defined) == len(set(defined))
    before = {s.name for each in given for s in read(each).symbols if s.binding != LOCAL}
    assert outside - {""} == before - set(rename) - {""}


@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cpu:aarch64"])
def test_code_and_what_it_refers_to_move_together(parts, target):
    """Each relocation of the result is one of the given ones: the same kind, at the same code, to the same symbol or bytes."""
    given, rename, data = parts[target]
    after = sites(data, rename)
    assert {site[2] for site in after if site[2] in rename.values()} == set(rename.values()), "every kernel is called"
    assert after == set().union(*(sites(each, rename) for each in given))


def sites(data: bytes, rename: dict[str, str]) -> set[tuple]:
    """Of each relocation: its section, the code before it, the name of a function or else the bytes it refers to, its kind."""
    o = read(data)
    found = set()
    for table in o.sections:
        if table.type != RELA or not (code := o.sections[table.info]).flags & ALLOC or code.name == ".eh_frame":
            continue
        for offset, info, addend in RELOCATION.iter_unpack(table.data):
            symbol = o.symbols[info >> 32]
            name, near = rename.get(symbol.name, symbol.name), code.data[offset - 2:offset]
            if symbol.type != SECTION and (symbol.binding != LOCAL or name in rename.values()):
                what = name, addend
            else:
                held = o.sections[symbol.section]
                start = symbol.value + (addend if symbol.type == SECTION else 0)
                what = held.data[start:start + 4], held.name
            found.add((code.name, near, *what, info & 0xFFFFFFFF))
    return found


def test_a_weak_definition_is_taken_once(parts):
    given, _, data = parts["cpu:x86-64-v3"]
    twice = [name for name in ("__TVMBackendParallelLaunch", "__truncsfhf2")
             if sum(any(s.name == name and s.section != UNDEFINED for s in read(each).symbols) for each in given) > 1]
    assert twice
    joined = read(data)
    for name in twice:
        symbol, = [s for s in joined.symbols if s.name == name]
        assert symbol.binding == WEAK and symbol.section != UNDEFINED


def test_debug_sections_are_left_out(parts):
    for given, _, data in parts.values():
        assert not [s.name for s in read(data).sections if s.name.startswith((".debug", ".eh_frame"))]
        assert len(data) < sum(map(len, given))


def test_other_files_are_refused(parts):
    for data in (b"", b"\x7fELF", b"PK" + bytes(100), b"\x7fELF\x02\x01" + bytes(58)):
        with pytest.raises(ValueError, match="no "):
            objects.join([data], {})
    with pytest.raises(ValueError, match="several machines"):
        objects.join([given[0] for given, _, _ in parts.values()], {})
    given, rename, _ = parts["cpu:x86-64-v3"]
    with pytest.raises(ValueError, match="defined twice"):
        objects.join([*given, given[-1]], rename)
    with pytest.raises(ValueError, match="defined nowhere"):
        objects.join(given[-1:], rename)


@pytest.mark.skipif(shutil.which("readelf") is None or shutil.which("ld") is None, reason="binutils are not installed")
def test_binutils_read_it_and_link_it(parts, tmp_path):
    _, _, data = parts["cpu:x86-64-v3"]
    path = tmp_path / "host.o"
    path.write_bytes(data)
    read = subprocess.run(["readelf", "-aW", str(path)], capture_output=True, text=True, check=True)
    assert "rror" not in read.stderr and "arning" not in read.stderr, read.stderr
    subprocess.run(["ld", "-shared", "-o", str(tmp_path / "host.so"), str(path)], check=True)
