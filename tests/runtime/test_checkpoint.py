"""Checkpoints: what goes in comes out, reproducibly; anything else is refused by name."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.checkpoint import read_checkpoint, read_weights, write_checkpoint
from runtime.errors import NetcError

TENSORS = {"a/conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b.count": np.array([7], np.int64),
           "scalar": np.array(2.5, np.float64), "empty": np.zeros((0, 3), np.float32), "mask": np.array([True, False])}
META = {"epoch": 3, "value": 0.1 + 0.2, "names": ["ü", "x"]}


def test_round_trip(tmp_path):
    write_checkpoint(tmp_path / "c.safetensors", TENSORS, META)
    found = read_checkpoint(tmp_path / "c.safetensors")
    assert found.meta == META and set(found.tensors) == set(TENSORS)
    for path, value in TENSORS.items():
        assert found.tensors[path].dtype == value.dtype and np.array_equal(found.tensors[path], value)
        assert found.tensors[path].shape == value.shape


def test_same_content_same_bytes_and_readable_by_others(tmp_path):
    write_checkpoint(tmp_path / "1", TENSORS, META)
    write_checkpoint(tmp_path / "2", TENSORS, META)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert set(load_file(tmp_path / "1")) == set(TENSORS)


def test_takes_views_that_are_not_contiguous(tmp_path):
    write_checkpoint(tmp_path / "c", {"t": TENSORS["a/conv.weight"].T}, {})
    assert np.array_equal(read_weights(tmp_path / "c")["t"], TENSORS["a/conv.weight"].T)


def test_weights_from_elsewhere(tmp_path):
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    found = read_checkpoint(tmp_path / "other.safetensors")
    assert found.meta == {} and np.array_equal(found.tensors["w"], np.ones(3))


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"w": np.arange(6, dtype=np.float32)}, {"epoch": 1})
    whole = path.read_bytes()
    for position in range(len(whole)):
        if whole[position:position + 1] == b" ":
            continue  # padding of the header, which means nothing
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1:])
        try:
            found = read_checkpoint(path)
        except NetcError as problem:
            assert problem.code in ("E0622", "E0623") and path.name in problem.message
        else:  # a header key was renamed: then it is no checkpoint of ours, which needs one refuses it
            assert found.meta == {}, position
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(NetcError) as problem:
            read_checkpoint(path)
        assert problem.value.code == "E0622"


def test_missing_and_foreign_versions(tmp_path):
    with pytest.raises(NetcError) as problem:
        read_checkpoint(tmp_path / "none")
    assert problem.value.code == "E0621"
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "later", metadata={"netc": json.dumps({"format": 99})})
    with pytest.raises(NetcError) as problem:
        read_checkpoint(tmp_path / "later")
    assert problem.value.code == "E0623"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    write_checkpoint(path, {"w": np.zeros(2, np.float32)}, {})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, NetcError)):
        write_checkpoint(path, {"w": np.ones(2, np.float32)}, {})
    assert path.read_bytes() == before
