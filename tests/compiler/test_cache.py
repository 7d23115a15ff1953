"""Compiled kernels are kept: found again, dropped when damaged, bounded, and safe where several processes write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from compiler import cache, codegen
from compiler.artifact import build
from compiler.cache import Cache, key
from compiler.elaborate import load
from runtime.execute import Executable
from runtime.format import Artifact

ROOT = Path(__file__).parent.parent.parent

NET = """lang 1
net small {
  input x: f32[N, 6]
  output y = x -> dense(5) -> relu -> dense(WIDTH) -> softmax
}
"""


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


# --- the store -------------------------------------------------------------------------------------------------------


def test_what_is_put_is_found_again(tmp_path):
    store = Cache(tmp_path / "deep" / "cache")
    assert store.get(key("a")) is None
    store.put(key("a"), b"content")
    store.put(key("b"), b"")
    assert store.get(key("a")) == b"content" and store.get(key("b")) == b""
    assert Cache(store.folder).get(key("a")) == b"content"


def test_keys_depend_on_where_one_part_ends():
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("ab", "c", "")}) == 4


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:20], lambda d: b"", lambda d: d + b"x",
                                    lambda d: bytes([d[0] ^ 1]) + d[1:], lambda d: d[:40] + b"?" + d[41:]])
def test_a_damaged_entry_is_dropped(tmp_path, damage):
    store = Cache(tmp_path)
    store.put(key("a"), b"content " * 9)
    path, = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(key("a")) is None
    assert not files(tmp_path)
    store.put(key("a"), b"new")
    assert store.get(key("a")) == b"new"


def test_the_least_recently_used_go_when_the_bound_is_passed(tmp_path):
    store = Cache(tmp_path, limit=10_000)
    for number in range(10):
        store.put(key(str(number)), bytes(900))
        os.utime(store._path(key(str(number))), (number, number))
    store.trim()
    assert len(files(tmp_path)) == 10
    assert store.get(key("0")) is not None  # used now: no longer the oldest
    store.put(key("10"), bytes(1900))
    store.trim()
    left = {number for number in range(11) if store.get(key(str(number))) is not None}
    assert sum(p.stat().st_size for p in files(tmp_path)) <= 9_000
    assert left == {0, 10, *range(10 - (len(left) - 2), 10)} and 1 not in left


def test_what_would_take_most_of_it_is_not_kept(tmp_path):
    store = Cache(tmp_path, limit=10_000)
    store.put(key("small"), bytes(2_500))
    store.put(key("large"), bytes(2_501))
    assert store.get(key("small")) == bytes(2_500) and store.get(key("large")) is None


def test_a_folder_that_cannot_be_used_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Cache(tmp_path / "file")
    store.put(key("a"), b"content")
    store.trim()
    assert store.get(key("a")) is None


def test_the_environment_says_where_it_is(monkeypatch, tmp_path):
    for name in ("NETC_CACHE", "NETC_CACHE_DIR", "NETC_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.default() == Cache(tmp_path / ".cache" / "netc", cache.LIMIT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default().folder == tmp_path / "xdg" / "netc"
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("NETC_CACHE_LIMIT", "5000")
    assert cache.default() == Cache(tmp_path / "own", 5000)
    monkeypatch.setenv("NETC_CACHE", "0")
    assert cache.default().folder is None
    assert cache.default().get(key("a")) is None


def test_many_writers_never_show_half_an_entry(tmp_path):
    wrong = []

    def work(store: Cache) -> None:
        for number in range(60):
            content = str(number % 7).encode() * 5000
            found = store.get(key(str(number % 7)))
            if found not in (None, content):
                wrong.append(found)
            store.put(key(str(number % 7)), content)
            store.trim()

    threads = [threading.Thread(target=work, args=(Cache(tmp_path, limit=24_000),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not [p for p in files(tmp_path) if p.name.startswith(".")], "a temporary file is left"


# --- kernels in it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The names of the functions that were really compiled, in an empty cache."""
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NETC_CACHE", raising=False)
    names: list[str] = []
    real = codegen.compile_all
    monkeypatch.setattr(codegen, "compile_all", lambda work, target: names.extend(name for functions in work.values() for name in functions)
                        or real(work, target))
    return names


def artifact(width: int, **choices) -> Artifact:
    return Artifact(*build(load(NET.replace("WIDTH", str(width)), name="small.net"), **choices))


def test_a_second_compilation_compiles_nothing_and_gives_the_same_bytes(compiled, monkeypatch):
    first = artifact(3)
    count = len(compiled)
    assert count > 3
    assert artifact(3).members["host.o"] == first.members["host.o"]
    assert len(compiled) == count
    monkeypatch.setenv("NETC_CACHE", "0")
    assert artifact(3).members["host.o"] == first.members["host.o"]
    assert len(compiled) == 2 * count


def test_an_edit_compiles_the_kernels_it_changes(compiled):
    artifact(3)
    first = set(compiled)
    compiled.clear()
    artifact(4)
    assert "run" in compiled and len(compiled) < len(first)


def test_another_target_finds_nothing(compiled):
    artifact(3)
    count = len(compiled)
    artifact(3, target="cpu:generic")
    assert len(compiled) == 2 * count


def test_damaged_kernels_are_compiled_again(compiled, tmp_path):
    first = artifact(3)
    count = len(compiled)
    for path in files(tmp_path / "cache"):
        path.write_bytes(path.read_bytes()[:-7])
    again = artifact(3)
    assert len(compiled) == 2 * count and again.members["host.o"] == first.members["host.o"]
    x = np.linspace(-1, 1, 12, dtype="f4").reshape(2, 6)
    assert np.array_equal(Executable(again)(x=x)["y"], Executable(first)(x=x)["y"])


def test_another_process_finds_the_kernels(compiled, tmp_path):
    first = artifact(3)
    source = tmp_path / "small.net"
    source.write_text(NET.replace("WIDTH", "3"))
    code = ("import sys\nfrom compiler import codegen\nfrom compiler.artifact import build\nfrom compiler.elaborate import load\n"
            "from pathlib import Path\n"
            "def refuse(*a): raise SystemExit('compiled again')\n"
            "codegen.compile_functions = refuse\n"
            "sys.stdout.buffer.write(build(load(Path(sys.argv[1])))[1]['host.o'])")
    done = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == first.members["host.o"]
