"""idx: sources, plain and gzip, and damaged files."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data import DataConfig, Field, open_data
from runtime.data.read_idx import read_idx_file
from runtime.errors import NetcError

IMAGE = Field("image", "u8", (1, 4, 5))
LABEL = Field("digit", "i32", (), "label", 10)
PIXELS = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([9, 0, 4], dtype=np.uint8)


def idx_bytes(array, kind=0x08):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + \
        array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(folder, dash="-", dot="-", gz=False, images=None, labels=None, prefix="train"):
    for what, axes, content in (("images", 3, images or idx_bytes(PIXELS)), ("labels", 1, labels or idx_bytes(LABELS))):
        name = f"{prefix}{dash}{what}{dot}idx{axes}-ubyte" + (".gz" if gz else "")
        (folder / name).write_bytes(gzip.compress(content) if gz else content)


def load(folder, fields=(IMAGE, LABEL), **more):
    section = {"name": "d", "source": "idx:train", "root": str(folder), "batch": 2} | more
    part = open_data(DataConfig.from_json(section), fields).part("train")
    return part.gather(range(len(part)))


@pytest.mark.parametrize("dash, dot, gz", [("-", "-", False), ("-", ".", True), (".", "-", True), (".", ".", False)])
def test_names_and_gzip(tmp_path, dash, dot, gz):
    write(tmp_path, dash, dot, gz)
    got = load(tmp_path)
    assert (got["image"][:, 0] == PIXELS).all() and got["image"].dtype == np.uint8
    assert got["digit"].tolist() == [9, 0, 4] and got["digit"].dtype == np.int32


def test_flat_and_float_fields(tmp_path):
    write(tmp_path)
    got = load(tmp_path, (Field("x", "f32", (20,)), LABEL))
    assert got["x"].dtype == np.float32 and (got["x"] == PIXELS.reshape(3, 20)).all()


def test_feed_names_the_files(tmp_path):
    write(tmp_path)
    (tmp_path / "train-angles").write_bytes(idx_bytes(np.array([0.5, 1, 2], ">f4"), 0x0D))
    fields = (IMAGE, LABEL, Field("angle", "f32", (), "label"))
    got = load(tmp_path, fields, feed={"digit": "labels", "angle": "-angles"})
    assert got["angle"].tolist() == [0.5, 1, 2]
    with pytest.raises(NetcError) as caught:
        load(tmp_path, fields)
    assert caught.value.code == "E0554"


@pytest.mark.parametrize("kind, dtype", [
    (0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8"),
])
def test_all_types(tmp_path, kind, dtype):
    values = np.array([[1, 2], [100, 4]], dtype=dtype)
    (tmp_path / "v").write_bytes(idx_bytes(values, kind))
    got = read_idx_file(tmp_path / "v")
    assert got.dtype.isnative and got.tolist() == values.tolist()


def test_damaged_files(tmp_path):
    good = idx_bytes(PIXELS)
    for content, says in [(good[:-1], "truncated"), (good + b"x", "longer"), (good[:10], "header"), (b"", "nothing"),
                          (b"\x89PNG\r\n", "89504e47"), (b"\0\0\x08\0", "IDX")]:
        for gz in (False, True):
            folder = tmp_path / f"{says}{gz}"
            folder.mkdir()
            write(folder, gz=gz, images=content or None)
            if not content:
                path = folder / f"train-images-idx3-ubyte{'.gz' if gz else ''}"
                path.write_bytes(gzip.compress(b"") if gz else b"")
            with pytest.raises(NetcError) as caught:
                load(folder)
            assert caught.value.code == "E0553" and says in caught.value.message
            assert "train-images-idx3-ubyte" in caught.value.where


def test_a_header_that_claims_too_much_costs_no_memory(tmp_path):
    claim = b"\0\0\x0e\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    for gz in (False, True):
        folder = tmp_path / str(gz)
        folder.mkdir()
        write(folder, gz=gz, images=claim)
        with pytest.raises(NetcError, match="truncated"):
            load(folder)


def test_damaged_gzip(tmp_path):
    write(tmp_path, gz=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (b"not gzip", whole[:-12], whole[:20] + b"\xff" * 20 + whole[40:]):
        path.write_bytes(content)
        with pytest.raises(NetcError) as caught:
            load(tmp_path)
        assert caught.value.code == "E0553"


def test_data_that_does_not_fit(tmp_path):
    write(tmp_path, labels=idx_bytes(np.array([9, 0, 10], dtype=np.uint8)))
    with pytest.raises(NetcError) as caught:
        load(tmp_path)
    assert caught.value.code == "E0557" and "row 2" in caught.value.where
    write(tmp_path, labels=idx_bytes(LABELS[:2]))
    with pytest.raises(NetcError) as caught:
        load(tmp_path)
    assert caught.value.code == "E0555" and "`image` 3, `digit` 2" in caught.value.message
    write(tmp_path)
    with pytest.raises(NetcError) as caught:
        load(tmp_path, (Field("image", "u8", (1, 5, 4)), LABEL))
    assert caught.value.code == "E0555" and "[1, 5, 4]" in caught.value.message and "[4, 5]" in caught.value.message
    with pytest.raises(NetcError) as caught:
        load(tmp_path, source="idx:nowhere")
    assert caught.value.code == "E0552"


def test_labels_from_one_get_a_hint(tmp_path):
    write(tmp_path, labels=idx_bytes(np.array([1, 2, 3], dtype=np.uint8)))
    with pytest.raises(NetcError) as caught:
        load(tmp_path, (IMAGE, Field("digit", "i32", (), "label", 3)))
    assert "subtract 1" in caught.value.hint


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory, data):
    content = bytearray(idx_bytes(PIXELS))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("idx")
    write(folder, images=bytes(content))
    try:
        got = load(folder)
    except NetcError as error:
        assert error.code in ("E0553", "E0555")
    else:
        assert got["image"].shape == (3, 1, 4, 5)
