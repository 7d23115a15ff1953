"""Weights that only preparing reads are in memory while it reads them, and come back when they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from netc import NetcError
from runtime import format
from runtime.execute import Executable
from runtime.stored import Stored
from tests.small import loaded

NET = """lang 1
net small {
  input x: f32[N, 16, 12, 12]
  output y = x -> conv(32, 3) -> relu -> conv(32, 3) -> relu
}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An executable, and the path of its artifact."""
    folder = tmp_path_factory.mktemp("stored")
    exe = loaded(folder, NET).compile()
    format.write(folder / "small.netb", exe.manifest, exe.artifact.members)
    return exe, folder / "small.netb"


X = np.random.default_rng(3).standard_normal((2, 16, 12, 12)).astype("f4")


def test_what_is_left_comes_back_the_same(made):
    exe, path = made
    loaded = Executable.load(path)
    left = set(loaded.parameters._left)
    assert left and left <= set(loaded.parameters.paths("weight", "state", "constant"))
    weights = Stored(loaded.artifact.members, format.WEIGHTS, "it")
    for name in left:
        entry = loaded.parameters.table[name]
        whole = loaded.parameters.block.read(entry["offset"], entry["bytes"])
        pages = whole[-(-entry["offset"] // 4096) * 4096 - entry["offset"]:][:entry["bytes"] // 4096 * 4096 - 4096]
        assert not pages.any(), "given back"
    for name in sorted(left):
        np.testing.assert_array_equal(loaded.parameters[name], weights[name])
    assert not loaded.parameters._left
    np.testing.assert_array_equal(loaded(x=X)["y"], exe(x=X)["y"])


def test_one_that_is_set_keeps_the_others(made):
    exe, path = made
    loaded, same = Executable.load(path), Executable(exe.artifact)
    name = sorted(loaded.parameters._left)[0]
    for each in (loaded, same):
        each.parameters[name] = np.full(each.parameters.table[name]["shape"], 0.25, "f4")
        each.prepare()
    assert (loaded.parameters[name] == 0.25).all()
    np.testing.assert_array_equal(loaded(x=X)["y"], same(x=X)["y"])
    assert not np.array_equal(loaded(x=X)["y"], exe(x=X)["y"])


def test_a_file_that_changes_while_it_is_in_use(made, tmp_path):
    data = bytearray(made[1].read_bytes())
    (tmp_path / "a.netb").write_bytes(data)
    loaded = Executable.load(tmp_path / "a.netb")
    member = made[0].artifact.members[format.WEIGHTS]
    with open(tmp_path / "a.netb", "r+b") as stream:
        stream.seek(bytes(data).index(member) + len(member) - 5)
        stream.write(b"!!")
    with pytest.raises(NetcError, match="E0603.*changed while it was in use"):
        loaded.parameters[sorted(loaded.parameters._left)[0]]
    with pytest.raises(NetcError, match="E0603"):
        loaded.artifact.members[format.WEIGHTS]


def test_a_file_that_was_replaced_is_read_as_it_was(made, tmp_path):
    (tmp_path / "a.netb").write_bytes(made[1].read_bytes())
    loaded = Executable.load(tmp_path / "a.netb")
    (tmp_path / "b.netb").write_bytes(b"something else")
    (tmp_path / "b.netb").replace(tmp_path / "a.netb")
    name = sorted(loaded.parameters._left)[0]
    np.testing.assert_array_equal(loaded.parameters[name], made[0].parameters[name])
