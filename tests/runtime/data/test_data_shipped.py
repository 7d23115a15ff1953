"""The data that is shipped in specs/data: whole, split as said in its README, and readable as the specs read it."""

import re
from pathlib import Path

import numpy as np

from runtime.data import DataConfig, Field, open_data

SPECS = Path(__file__).parents[3] / "specs"


def load(fields, **section):
    return open_data(DataConfig.from_json({"name": "d", "root": str(SPECS), "batch": 16} | section), fields)


def everything(part):
    return part.gather(range(len(part)))


def test_digits():
    fields = (Field("image", "u8", (1, 8, 8)), Field("digit", "i32", (), "label", 10))
    data = load(fields, source="npz:data/digits.npz", split="data/digits.split.csv")
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 1257, "validate": 180, "test": 360}
    assert sorted(np.concatenate([part.rows for part in data.parts.values()])) == list(range(1797))
    whole = np.concatenate([everything(part)["digit"] for part in data.parts.values()])
    share = np.bincount(whole) / len(whole)
    for part in data.parts.values():
        got = everything(part)
        assert got["image"].max() == 255
        assert (np.abs(np.bincount(got["digit"]) - share * len(part)) < 1.5).all()


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    fields = (Field("image", "u8", (64,)), Field("digit", "i32", (), "label", 10))
    got = everything(load(fields, source="npz:data/digits.npz").part("train"))
    want = load_digits()
    assert (got["image"] == np.rint(want.data * 255 / 16)).all() and (got["digit"] == want.target).all()


def test_iris():
    columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    fields = (Field("x", "f32", (4,)), Field("species", "i32", (), "label", 3))
    data = load(fields, source="csv:data/iris.csv", feed={"x": columns}, split={"train": 0.8, "validate": 0.2})
    assert data.class_names == ("setosa", "versicolor", "virginica")
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 120, "validate": 30}
    whole = everything(load(fields, source="csv:data/iris.csv").part("train"))
    assert np.bincount(whole["species"]).tolist() == [50, 50, 50]
    np.testing.assert_allclose(whole["x"].mean(axis=0), [5.8433, 3.0573, 3.758, 1.1993], atol=1e-3)


def test_the_readme_names_every_file():
    readme = (SPECS / "data" / "README.md").read_text()
    for path in (SPECS / "data").iterdir():
        assert path.name == "README.md" or re.search(rf"\b{re.escape(path.name)}", readme), path.name
    assert "CC BY 4.0" in readme
