"""The resolved data section and the fields: JSON there and back, and nothing wrong is let in."""

import json

import pytest

from runtime.data import Augment, DataConfig, Field
from runtime.errors import NetcError

FULL = {
    "name": "signs", "source": {"train": "csv:a.csv", "test": "csv:b.csv"}, "root": "/d", "batch": 64,
    "split": {"train": 0.9, "validate": 0.1}, "augment": [{"op": "crop", "args": {"pad": 2}}],
    "feed": {"x": ["a", "b"], "y": "c"}, "shuffle": False, "seed": 3, "classes": ["no", "yes"],
}


def test_json_round_trip():
    config = DataConfig.from_json(json.loads(json.dumps(FULL)))
    assert config.to_json() == FULL
    assert DataConfig.from_json(config.to_json()) == config
    assert config.augment == (Augment("crop", {"pad": 2}),)
    assert config.feed["x"] == ("a", "b")


def test_defaults():
    config = DataConfig.from_json({"name": "d", "source": "csv:a.csv", "batch": 1})
    assert (config.root, config.split, config.augment, config.feed) == (".", None, (), {})
    assert (config.shuffle, config.seed, config.classes) == (True, 0, None)


@pytest.mark.parametrize("change", [
    {"batchsize": 3}, {"batch": 0}, {"batch": True}, {"batch": "64"}, {"name": 3}, {"source": 3}, {"source": None},
    {"source": {"test": "csv:a"}}, {"source": {"train": 1}}, {"source": {"train": "csv:a", "dev": "csv:b"}},
    {"split": 0.8}, {"split": ["a"]}, {"augment": {"op": "crop"}}, {"augment": [{"args": {}}]},
    {"augment": [{"op": "crop", "pad": 2}]}, {"augment": ["crop"]}, {"feed": ["x"]}, {"feed": {"x": 3}},
    {"feed": {"x": []}}, {"shuffle": 1}, {"seed": -1}, {"seed": 0.5}, {"classes": "ab"}, {"classes": ["a", "a"]},
    {"classes": []}, {"root": 3},
])
def test_wrong_sections_are_refused(change):
    with pytest.raises(NetcError) as caught:
        DataConfig.from_json(FULL | change)
    assert caught.value.code == "E0550"


@pytest.mark.parametrize("key", ["name", "source", "batch"])
def test_required_keys(key):
    with pytest.raises(NetcError, match=key):
        DataConfig.from_json({k: v for k, v in FULL.items() if k != key})


def test_field_round_trip_and_types():
    field = Field("digit", "i32", (), "label", 10)
    assert Field.from_json(field.to_json()) == field
    assert Field("x", "float32", (4,)).numpy_dtype == Field("x", "f32", (4,)).numpy_dtype
    entry = {"name": "digit", "dtype": "int32", "shape": ["N"], "role": "label", "classes": 10}
    assert Field.from_manifest(entry) == Field("digit", "int32", (), "label", 10)
    with pytest.raises(NetcError, match="E0550"):
        Field.from_manifest(entry | {"shape": ["N", "T"]})
    assert str(Field("image", "u8", (1, 8, 8))) == "input image: u8[N, 1, 8, 8]"


@pytest.mark.parametrize("args", [
    ("x", "bf16", (4,)), ("x", "f32", (0,)), ("x", "f32", (4.0,)), ("x", "f32", (4,), "output"),
    ("y", "i32", (), "label", 0), ("y", "f32", (), "label", 3),
])
def test_wrong_fields_are_refused(args):
    with pytest.raises(NetcError) as caught:
        Field(*args)
    assert caught.value.code == "E0550"
