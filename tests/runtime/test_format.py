"""The artifact format: round trip, atomic writing, and damage refused by name."""

import json
import math
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import format
from runtime.errors import NetcError

MEMBERS = {"host.o": b"\x7fELF" + bytes(range(200)), "parameters.safetensors": b"\0" * 50,
           "ir/run.txt": "grüße".encode()}


@pytest.fixture
def path(tmp_path):
    format.write(tmp_path / "x.netb", {"net": "x", "programs": {}}, MEMBERS)
    return tmp_path / "x.netb"


def code(action, *arguments):
    with pytest.raises(NetcError) as problem:
        action(*arguments)
    return problem.value.code


def test_round_trip(path):
    found = format.read(path)
    assert found.members == MEMBERS and found.path == str(path)
    assert found.manifest["net"] == "x" and found.manifest["format"] == format.FORMAT
    assert found.manifest["members"]["host.o"]["bytes"] == 204


def test_same_content_same_bytes(path, tmp_path):
    format.write(tmp_path / "y.netb", {"net": "x", "programs": {}}, dict(reversed(MEMBERS.items())))
    assert path.read_bytes() == (tmp_path / "y.netb").read_bytes()


def test_damage_is_noticed_wherever_it_is(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        spans = [(i.header_offset + 30 + len(i.filename), i.file_size) for i in archive.infolist()]
    for start, size in spans:
        for position in (start, start + size // 2, start + size - 1):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1:])
            assert code(format.read, path) == "E0603"
    for length in range(2, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        assert code(format.read, path) == "E0603"


def test_members_that_were_added_taken_or_exchanged(path):
    def rewrite(change):
        with zipfile.ZipFile(path) as archive:
            content = {info.filename: archive.read(info) for info in archive.infolist()}
        change(content)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)

    whole = path.read_bytes()
    for change in (lambda c: c.update(extra=b"1"), lambda c: c.pop("host.o"), lambda c: c.update({"host.o": b"other"}),
                   lambda c: c.update({"manifest.json": c["manifest.json"].replace(b'"x"', b'"y"')})):
        path.write_bytes(whole)
        rewrite(change)
        assert code(format.read, path) == "E0603"


def test_what_is_no_artifact(tmp_path):
    assert code(format.read, tmp_path / "none.netb") == "E0601"
    (tmp_path / "text").write_text("net x {}")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "empty"):
        assert code(format.read, tmp_path / name) == "E0602"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert code(format.read, tmp_path / "other.zip") == "E0602"


def test_another_format(tmp_path, monkeypatch):
    monkeypatch.setattr(format, "FORMAT", 99)
    format.write(tmp_path / "x.netb", {"net": "x"}, {})
    monkeypatch.undo()
    assert code(format.read, tmp_path / "x.netb") == "E0604"


def test_atomic_keeps_the_old_file_when_writing_fails(path, tmp_path):
    before = path.read_bytes()
    with pytest.raises(KeyError), format.atomic(path) as stream:
        stream.write(b"half")
        raise KeyError
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_atomic_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert code(format.write, tmp_path / "file" / "x.netb", {}, {}) == "E0605"
    assert code(format.write, tmp_path / "folder", {}, {}) == "E0605"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_sizes_by_hand():
    env = {"N": 5, "T": 3}
    assert format.size(["+", ["*", 64, "N"], ["//", ["*", "N", "T"], 2], 1], env) == 64 * 5 + 7 + 1
    assert format.size("T", env) == 3 and format.size(12, {}) == 12


ENV = {"N": 7, "T": 3}


def combine(parts):
    operator, operands = parts
    values = [value for _, value in operands]
    return [operator, *(tree for tree, _ in operands)], {"+": sum, "*": math.prod, "max": max}[operator](values)


EXPRESSIONS = st.recursive(  # (tree, value)
    st.integers(0, 1000).map(lambda n: (n, n)) | st.sampled_from(sorted(ENV)).map(lambda s: (s, ENV[s])),
    lambda inner: st.tuples(st.sampled_from(["+", "*", "max"]), st.lists(inner, min_size=1, max_size=4)).map(combine), max_leaves=12)


@given(EXPRESSIONS)
def test_sizes_mean_what_they_say(expression):
    tree, value = expression
    assert format.size(json.loads(json.dumps(tree)), ENV) == value
