"""csv: sources: what they read, and that each mistake in a table is named with its line."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data import DataConfig, Field, open_data
from runtime.errors import NetcError

X = Field("x", "f32", (2,))
Y = Field("y", "i32", (), "label", 3)
FEED = {"x": ["a", "b"]}


def table(tmp_path, text, fields=(X, Y), feed=FEED, **more):
    (tmp_path / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    section = {"name": "d", "source": "csv:t.csv", "root": str(tmp_path), "batch": 2, "feed": feed} | more
    return open_data(DataConfig.from_json(section), fields)


def rows(data, part="train"):
    part = data.part(part)
    return part.gather(range(len(part)))


def test_columns_are_stacked_and_text_labels_sorted(tmp_path):
    data = table(tmp_path, 'a,"y",b,unused\n1,"wet, cold",2,?\n\n3,dry,4.5,?\n-5,dry,6e1,?\n')
    got = rows(data)
    assert got["x"].dtype == np.float32 and got["x"].tolist() == [[1, 2], [3, 4.5], [-5, 60]]
    assert got["y"].dtype == np.int32 and got["y"].tolist() == [1, 0, 0]
    assert data.class_names == data.part("train").class_names == ("dry", "wet, cold")


def test_number_labels_stay_numbers(tmp_path):
    data = table(tmp_path, "a,b,y\n1,2,2\n3,4,0\n")
    assert rows(data)["y"].tolist() == [2, 0] and data.class_names is None


def test_labels_written_as_floats_are_numbers_too(tmp_path):
    wide = Field("y", "i32", (), "label", 20)
    data = table(tmp_path, "a,b,y\n1,2,10.0\n3,4,2.0\n", fields=(X, wide))
    assert rows(data)["y"].tolist() == [10, 2]


def test_classes_of_the_section_give_the_order(tmp_path):
    data = table(tmp_path, "a,b,y\n1,2,no\n3,4,yes\n", classes=["yes", "no", "perhaps"])
    assert rows(data)["y"].tolist() == [1, 0] and data.class_names == ("yes", "no", "perhaps")


def test_input_without_feed_takes_the_columns_that_are_left(tmp_path):
    image = Field("image", "u8", (1, 2, 2))
    data = table(tmp_path, "y,p0,p1,p2,p3\n2,1,2,3,255\n", fields=(image, Y), feed={})
    assert rows(data)["image"].tolist() == [[[[1, 2], [3, 255]]]]


def test_column_by_the_fields_own_name_and_regression(tmp_path):
    fields = (Field("a", "f32", (1,)), Field("y", "f32", (1,), "label"))
    got = rows(table(tmp_path, "\ufeffa,y\n1,0.5\n2,-3\n", fields=fields, feed={}))
    assert got["a"].shape == (2, 1) and got["y"].tolist() == [[0.5], [-3]]


def test_other_parts_use_the_classes_of_train(tmp_path):
    (tmp_path / "more.csv").write_text("a,b,y\n1,2,wet\n")
    source = {"train": "csv:t.csv", "test": "csv:more.csv"}
    data = table(tmp_path, "a,b,y\n1,2,dry\n3,4,wet\n", source=source)
    assert rows(data, "test")["y"].tolist() == [1]
    (tmp_path / "more.csv").write_text("a,b,y\n1,2,wet\n1,2,moist\n")
    with pytest.raises(NetcError) as caught:
        table(tmp_path, "a,b,y\n1,2,dry\n3,4,wet\n", source=source)
    assert caught.value.code == "E0557" and caught.value.where.endswith("more.csv:3")


@pytest.mark.parametrize("text, code, line, says", [
    ("a,b,y\n1,2,0\n1,two,0\n", "E0556", 3, "two"),
    ("a,b,y\n1,2,0\n1,,0\n", "E0556", 3, "empty"),
    ("a,b,y\n1,2,0\n1,2,\n", "E0556", 3, "empty"),
    ("a,b,y\n1,2,0\n\n1,nan,0\n", "E0556", 4, "nan"),
    ("a,b,y\n1,inf,0\n", "E0556", 2, "inf"),
    ("a,b,y\n1,1e39,0\n", "E0556", 2, "f32"),
    ("a,b,y\n1,2,0\n1,2,3\n", "E0557", 3, "0 to 2"),
    ("a,b,y\n1,2,-1\n", "E0557", 2, "0 to 2"),
    ('a,b,y\n1,2,u\n1,2,v\n1,2,w\n1,2,u\n1,2,v\n1,2,wv\n1,2,w\n', "E0557", 7, "has 4"),
    ("a,b,y\n1,2,0\n1,2,0,0\n", "E0553", 3, "4 cells"),
    ('a,b,y\n1,2,0\n"1,2,0\n', "E0553", 3, "CSV"),
    ("a,b,y\n", "E0560", None, "no rows"),
    ("", "E0553", None, "empty"),
    ("1,2,0\n3,4,1\n", "E0553", 1, "numbers"),
    ("a;b;y\n1;2;0\n", "E0553", 1, "one column"),
    ("a,b,b,y\n1,2,2,0\n", "E0553", 1, "two columns"),
    ("a,bb,y\n1,2,0\n", "E0554", 1, "`b`"),
    (b"a,b,y\n1,2,\xff\n", "E0553", None, "UTF-8"),
])
def test_mistakes_are_named_with_their_line(tmp_path, text, code, line, says):
    with pytest.raises(NetcError) as caught:
        table(tmp_path, text)
    assert caught.value.code == code and says in caught.value.message
    if line is not None:
        assert caught.value.where == f"{tmp_path / 't.csv'}:{line}"


def test_integer_fields_refuse_fractions_and_overflow(tmp_path):
    fields = (Field("a", "u8", ()), Y)
    assert rows(table(tmp_path, "a,y\n255,0\n3.0,1\n", fields=fields, feed={}))["a"].tolist() == [255, 3]
    for cell in ("1.5", "256", "-1", "1e30"):
        with pytest.raises(NetcError) as caught:
            table(tmp_path, f"a,y\n7,0\n{cell},1\n", fields=fields, feed={})
        assert caught.value.code == "E0556" and caught.value.where.endswith(":3")


def test_large_integers_stay_exact(tmp_path):
    got = rows(table(tmp_path, f"a,y\n{2**53 + 1},0\n", fields=(Field("a", "i64", ()), Y), feed={}))
    assert got["a"].tolist() == [2**53 + 1]


def test_feed_mistakes(tmp_path):
    text = "a,b,y\n1,2,0\n"
    for feed, code, says in [({"x": ["a"]}, "E0555", "takes 2"), ({"z": "a"}, "E0554", "`z`"),
                             ({"x": ["a", "c"]}, "E0554", "`c`"), (FEED | {"y": ["a", "b"]}, "E0555", "takes 1 of")]:
        with pytest.raises(NetcError) as caught:
            table(tmp_path, text, feed=feed)
        assert caught.value.code == code and says in caught.value.message
    with pytest.raises(NetcError) as caught:
        table(tmp_path, text, fields=(X, Field("y", "i32", (2,), "label", 3)), feed={"x": ["a", "b"], "y": ["a", "b"]})
    assert caught.value.code == "E0555" and "class label" in caught.value.message


def test_missing_file_offers_the_nearest_name(tmp_path):
    with pytest.raises(NetcError) as caught:
        table(tmp_path, "a\n", source="csv:tt.csv")
    assert caught.value.code == "E0552" and "t.csv" in caught.value.hint
    with pytest.raises(NetcError) as caught:
        table(tmp_path, "a\n", source="csv:.")
    assert caught.value.code == "E0552"


@pytest.mark.parametrize("source", ["t.csv", "tsv:t.csv", "csv:", ":t.csv", ""])
def test_unknown_kinds_of_source(tmp_path, source):
    with pytest.raises(NetcError) as caught:
        table(tmp_path, "a\n", source=source)
    assert caught.value.code == "E0551"


LETTER = st.characters(codec="utf-8", exclude_characters="\0\r")
CELL = st.text(LETTER, min_size=1, max_size=8).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), CELL), min_size=1, max_size=12))
def test_any_table_reads_back(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("csv")
    with open(path / "t.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["v", "name"])
        writer.writerows((repr(v), f"k{name}") for v, name in examples)
    fields = (Field("v", "f32", ()), Field("name", "i32", (), "label", 100))
    section = DataConfig.from_json({"name": "d", "source": "csv:t.csv", "root": str(path), "batch": 1})
    data = open_data(section, fields)
    got = rows(data)
    assert got["v"].tolist() == [v for v, _ in examples]
    assert [data.class_names[i] for i in got["name"]] == [f"k{name}" for _, name in examples]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(b"x,y\n" + content)
    config = DataConfig.from_json({"name": "d", "source": f"csv:{path}", "batch": 1})
    try:
        data = open_data(config, (Field("x", "f32", ()), Y))
    except NetcError as error:
        assert error.code in ("E0553", "E0556", "E0557", "E0560")
    else:
        assert np.isfinite(rows(data)["x"]).all()
