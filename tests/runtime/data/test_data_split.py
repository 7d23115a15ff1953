"""Parts: by fractions, by index file, by sources of their own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data import DataConfig, Field, open_data
from runtime.data.split import read_split, split_by_fractions
from runtime.errors import NetcError

FIELDS = (Field("v", "i32", ()),)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), st.integers(0, 2**40), st.integers(1, 98), st.integers(1, 98))
def test_fractions_are_disjoint_cover_all_and_repeat(count, seed, first, second):
    if first + second >= 100:
        first, second = first // 2 + 1, second // 2
    fractions = {"validate": first / 100, "train": second / 100, "test": 1 - (first + second) / 100}
    fractions = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    rows = split_by_fractions(count, fractions, seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(count))
    for part, fraction in fractions.items():
        assert abs(len(rows[part]) - fraction * count) < 1 + 1e-6
        assert (np.diff(rows[part]) > 0).all()
    again = split_by_fractions(count, dict(reversed(fractions.items())), seed)
    assert all((again[part] == rows[part]).all() for part in fractions)


def test_exact_sizes_and_seeds():
    fractions = {"train": 0.7, "validate": 0.1, "test": 0.2}
    rows = split_by_fractions(1000, fractions, 0)
    assert [len(rows[part]) for part in fractions] == [700, 100, 200]
    assert (split_by_fractions(1000, fractions, 1)["test"] != rows["test"]).any()


@pytest.mark.parametrize("fractions", [
    {"train": 0.8, "validate": 0.1}, {"train": 0.8, "test": 0.3}, {"train": 1.0, "test": 0.0}, {"train": 1.5},
    {"train": -0.5, "test": 1.5}, {"dev": 0.5, "train": 0.5}, {"train": "80%"}, {"train": True}, {},
    {"train": float("nan")},
])
def test_wrong_fractions(fractions):
    with pytest.raises(NetcError) as caught:
        split_by_fractions(10, fractions, 0)
    assert caught.value.code == "E0559"


def test_index_files(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("index,part\n2,train\n0,test\n1,train\n\n3,validate\n")
    want = {"train": [1, 2], "validate": [3], "test": [0]}
    assert {part: rows.tolist() for part, rows in read_split(path, 4).items()} == want
    path.write_text("test\ntrain\ntrain\nvalidate\n")
    assert {part: rows.tolist() for part, rows in read_split(path, 4).items()} == want


@pytest.mark.parametrize("text, code, where", [
    ("index,part\n0,train\n0,test\n1,train\n", "E0559", ":3"),
    ("index,part\n0,train\n2,test\n", "E0559", ":3"),
    ("index,part\n0,train\n-1,test\n", "E0559", ":3"),
    ("index,part\n0,train\n", "E0559", ""),
    ("index,part\n0,train\n1,dev\n", "E0559", ":3"),
    ("index,part\n0,train\n1\n", "E0553", ":3"),
    ("0,train\n1,test\n", "E0553", ":1"),
    ("train\ntest\ntest\n", "E0559", ":3"),
    ("train\n", "E0559", ""),
    ("", "E0559", ""),
])
def test_wrong_index_files(tmp_path, text, code, where):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(NetcError) as caught:
        read_split(path, 2)
    assert caught.value.code == code and caught.value.where == str(path) + where
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(NetcError, match="index file"):
        read_split(path, 2)


def load(folder, source="npz:a.npz", **more):
    for name, start, count in (("a", 0, 20), ("b", 100, 5)):
        np.savez(folder / f"{name}.npz", v=np.arange(start, start + count))
    section = {"name": "d", "source": source, "root": str(folder), "batch": 2} | more
    return open_data(DataConfig.from_json(section), FIELDS)


def values(data, part):
    return data.part(part).gather(range(len(data.part(part))))["v"].tolist()


def test_no_split_is_all_train(tmp_path):
    data = load(tmp_path)
    assert values(data, "train") == list(range(20)) and list(data.parts) == ["train"]
    with pytest.raises(NetcError) as caught:
        data.part("test")
    assert caught.value.code == "E0559"


def test_sources_of_their_own_and_fractions_of_train(tmp_path):
    data = load(tmp_path, {"train": "npz:a.npz", "test": "npz:b.npz"}, split={"train": 0.75, "validate": 0.25})
    assert values(data, "test") == [100, 101, 102, 103, 104]
    assert len(data.part("train")) == 15
    assert sorted(values(data, "train") + values(data, "validate")) == list(range(20))
    with pytest.raises(NetcError) as caught:
        load(tmp_path, {"train": "npz:a.npz", "test": "npz:b.npz"}, split={"train": 0.75, "test": 0.25})
    assert caught.value.code == "E0559"


def test_index_file_beside_the_data(tmp_path):
    (tmp_path / "split.csv").write_text("\n".join(["test"] * 3 + ["train"] * 17))
    data = load(tmp_path, split="split.csv")
    assert values(data, "test") == [0, 1, 2] and values(data, "train") == list(range(3, 20))
    with pytest.raises(NetcError) as caught:
        load(tmp_path, split="splt.csv")
    assert caught.value.code == "E0552" and "split.csv" in caught.value.hint


def test_parts_without_examples(tmp_path):
    with pytest.raises(NetcError) as caught:
        load(tmp_path, split={"train": 0.99, "test": 0.01})
    assert caught.value.code == "E0560"
    with pytest.raises(NetcError) as caught:
        load(tmp_path, split={"test": 1.0})
    assert caught.value.code == "E0559"


def test_seed_chooses_the_split(tmp_path):
    split = {"train": 0.5, "test": 0.5}
    assert values(load(tmp_path, split=split, seed=1), "test") == values(load(tmp_path, split=split, seed=1), "test")
    assert values(load(tmp_path, split=split, seed=1), "test") != values(load(tmp_path, split=split, seed=2), "test")


def test_gather_outside_the_part(tmp_path):
    part = load(tmp_path).part("train")
    for wrong in ([20], [-1]):
        with pytest.raises(IndexError):
            part.gather(wrong)
    assert part.gather([])["v"].shape == (0,)
