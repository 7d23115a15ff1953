"""npz: sources and the fitting of arrays to fields."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.data import DataConfig, Field, open_data
from runtime.data.fit import Place, fit
from runtime.errors import NetcError

PLACE = Place("a.npz", "v")
LABEL = Field("y", "i32", (), "label", 3)


def load(folder, fields, feed={}, **arrays):
    if arrays:
        np.savez(folder / "a.npz", **arrays)
    data = open_data(DataConfig.from_json(
        {"name": "d", "source": "npz:a.npz", "root": str(folder), "batch": 2, "feed": feed}), fields)
    return data, data.part("train").gather(range(len(data.part("train"))))


def test_by_name_and_by_feed(tmp_path):
    x = np.arange(12, dtype=np.float64).reshape(2, 2, 3)
    _, got = load(tmp_path, (Field("x", "f32", (2, 3)), LABEL), {"x": "pixels"}, pixels=x, y=np.array([2, 0]))
    assert got["x"].dtype == np.float32 and (got["x"] == x).all()
    assert got["y"].dtype == np.int32 and got["y"].tolist() == [2, 0]


@pytest.mark.parametrize("labels", [np.array(["b", "a"]), np.array([b"b", b"a"])])
def test_text_labels(tmp_path, labels):
    data, got = load(tmp_path, (LABEL,), y=labels)
    assert got["y"].tolist() == [1, 0] and data.class_names == ("a", "b")


def test_mistakes(tmp_path):
    x = Field("x", "f32", (2,))
    good, y = np.zeros((2, 2)), np.array([0, 1])
    for arrays, code, says in [
        ({"z": good, "y": y}, "E0554", "`x`"),
        ({"x": np.zeros((2, 3)), "y": y}, "E0555", "[3]"),
        ({"x": np.array(1.0), "y": y}, "E0555", "one number"),
        ({"x": np.array([[0, 1], [np.nan, 0]]), "y": y}, "E0556", "nan"),
        ({"x": np.array([["a", "b"], ["c", "d"]]), "y": y}, "E0556", "numbers"),
        ({"x": good.astype(complex), "y": y}, "E0556", "numbers"),
        ({"x": np.array([[{}, 1], [2, 3]], dtype=object), "y": y}, "E0553", "Object"),
        ({"x": good, "y": np.array([0, 3])}, "E0557", "0 to 2"),
        ({"x": good, "y": np.array([0.0, 0.5])}, "E0556", "0.5"),
        ({"x": good, "y": np.array([0, 1, 2])}, "E0555", "`x` 2, `y` 3"),
    ]:
        with pytest.raises(NetcError) as caught:
            load(tmp_path, (x, LABEL), **arrays)
        assert caught.value.code == code and says in caught.value.message, caught.value
        assert "a.npz" in caught.value.where


def test_the_row_is_named(tmp_path):
    with pytest.raises(NetcError) as caught:
        load(tmp_path, (LABEL,), y=np.array([0, 1, 7, 8]))
    assert caught.value.where.endswith("a.npz, row 2 of `y`")


def test_channels_last_gets_a_hint():
    with pytest.raises(NetcError) as caught:
        fit(np.zeros((2, 8, 9, 3), np.uint8), Field("image", "u8", (3, 8, 9)), PLACE)
    assert "transpose(0, 3, 1, 2)" in caught.value.hint


def test_other_files_are_refused(tmp_path):
    single, text, encrypted = io.BytesIO(), b"x,y\n1,2\n", io.BytesIO()
    np.save(single, np.zeros(3))
    with zipfile.ZipFile(encrypted, "w") as archive:
        archive.writestr("y.npy", b"not an array")
    for content in (single.getvalue(), text, b"", encrypted.getvalue()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(NetcError) as caught:
            load(tmp_path, (LABEL,))
        assert caught.value.code == "E0553"


@pytest.mark.parametrize("have, want, fits", [
    ((28, 28), (1, 28, 28), True), ((1, 28, 28), (28, 28), True), ((64,), (1, 8, 8), True), ((8, 8), (64,), True),
    ((), (1,), True), ((1,), (), True), ((3, 8, 4), (3, 4, 8), False), ((8, 4), (4, 8), False),
    ((2, 16), (4, 8), False),
])
def test_shapes_that_fit(have, want, fits):
    values = np.arange(2 * int(np.prod(have)), dtype=np.int64).reshape(2, *have)
    if fits:
        got = fit(values, Field("v", "f32", want), PLACE)
        assert got.shape == (2, *want) and (got.ravel() == values.ravel()).all()
    else:
        with pytest.raises(NetcError) as caught:
            fit(values, Field("v", "f32", want), PLACE)
        assert caught.value.code == "E0555"


NUMBERS = hnp.arrays(st.sampled_from([np.bool_, np.int8, np.uint8, np.int32, np.uint64, np.int64, np.float16,
                                      np.float32, np.float64]), st.tuples(st.integers(1, 5), st.integers(1, 4)))


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.sampled_from(["u8", "i8", "i32", "i64", "f16", "f32", "f64", "bool"]))
def test_fit_keeps_every_value_or_names_the_first_row_that_does_not_fit(values, dtype):
    field = Field("v", dtype, values.shape[1:])
    target = field.numpy_dtype

    def fits(value):
        exact = value.item()
        if target.kind == "f":
            return np.isfinite(value) and abs(exact) <= float(np.finfo(target).max)
        low, high = (0, 1) if target.kind == "b" else (np.iinfo(target).min, np.iinfo(target).max)
        return np.isfinite(value) and exact == int(exact) and low <= exact <= high

    bad = [row for row in range(len(values)) if not all(fits(value) for value in values[row])]
    try:
        got = fit(values, field, PLACE)
    except NetcError as error:
        assert error.code == "E0556" and bad
        assert int(error.where.split()[2]) in bad
    else:
        assert not bad and got.dtype == target
        if target.kind == "f":
            np.testing.assert_array_equal(got, values.astype(target))
        else:
            assert [[int(v) for v in row] for row in got] == [[int(v) for v in row] for row in values]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory, data):
    buffer = io.BytesIO()
    np.savez(buffer, y=np.array([0, 1, 2]))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("npz")
    (folder / "a.npz").write_bytes(content)
    try:
        _, got = load(folder, (LABEL,))
    except NetcError as error:
        assert error.code.startswith("E055")
    else:
        assert got["y"].tolist() == [0, 1, 2]
