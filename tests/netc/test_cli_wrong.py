"""Wrong command lines: each ends in one message with a code and a way out, never in a traceback, and changes nothing."""

from __future__ import annotations

import os
import random
import zipfile

import numpy as np
import pytest

from netc.verbs.explain import pages
from tests.netc.command import netc, process
from tests.netc.conftest import TINY, write_tiny

PAGES = pages()
NETS = {
    "bad.net": "net a {\n  input x: f32[N, 3]\n  output p = x -> dens(2)\n}\n",
    "two.net": "".join(f"net {name} {{\n  input x: f32[N, 3]\n  output p = x -> dense(2)\n}}\n" for name in "ab"),
    "noloss.net": "net a {\n  input x: f32[N, 3]\n  output p = x -> dense(2)\n}\n",
    "nooutput.net": "net a {\n  input x: f32[N, 3]\n  label y: i32[N] in 2\n  l = x -> dense(2)\n  loss cross_entropy(l, y)\n}\n",
    "notrain.net": TINY[:TINY.index("data rows")],
    "nodata.net": TINY.replace("rows.csv", "nowhere.csv"),
    "empty.net": "",
}


@pytest.fixture(scope="module")
def folder(made):
    """The folder of `made` with everything a user may get wrong beside it."""
    for name, text in NETS.items():
        (made / name).write_text(text)
    (made / "binary.net").write_bytes(b"net \0\xff")
    (made / "latin.net").write_bytes("# é".encode("latin1"))
    for name in ("empty.netb", "junk.netb", "junk.npy", "junk.png", "junk.safetensors"):
        (made / name).write_bytes(b"" if "empty" in name else b"junk" * 20)
    with zipfile.ZipFile(made / "zip.netb", "w") as archive:
        archive.writestr("hello", "there")
    for name in ("folder.net", "folder.netb"):
        (made / name).mkdir()
    for name, array in {"wide": np.zeros((5, 4), "f4"), "complex": np.zeros((5, 3), "c8"), "text": np.array(["a"] * 3),
                        "none": np.zeros((0, 3), "f4"), "p": np.zeros((5, 2), "f4")}.items():
        np.save(made / f"{name}.npy", array)
    np.save(made / "objects.npy", np.array([None]), allow_pickle=True)
    np.savez(made / "empty.npz")
    return made


# command line → its exit code (2 for wrong usage) and the error code it prints
WRONG = """
    check missing.net                                   1 E0120
    check folder.net                                    1 E0121
    check .                                             1 E0121
    check binary.net                                    1 E0124
    check latin.net                                     1 E0124
    check tiny.netb                                     1 E0124
    check bad.net                                       1 E0203
    check tiny.net --set nope=1                         1 E0420
    check tiny.net --set classes                        1 E0407
    check tiny.net --set classes=many                   1 E0201
    check                                               2 E0452
    show missing.net                                    1 E0120
    show two.net                                        1 E0211
    show two.net:c                                      1 E0210
    show empty.net                                      1 E0210
    show tiny.net --ir wrong                            2 E0453
    show tiny.net --batch 0                             2 E0453
    show noloss.net --ir step                           1 E0510
    show notrain.net --ir step                          1 E0511
    fmt missing.net                                     1 E0120
    fmt folder.net                                      1 E0121
    fmt binary.net                                      1 E0124
    ops convv                                           2 E0454
    explain E9999                                       2 E0454
    compil tiny.net                                     2 E0450
    compile                                             2 E0452
    compile missing.net                                 1 E0120
    compile tiny.netb                                   1 E0124
    compile bad.net                                     1 E0203
    compile nooutput.net                                1 E0208
    compile noloss.net --train                          1 E0510
    compile notrain.net --train                         1 E0511
    compile tiny.net --target gpu                       1 E0701
    compile tiny.net --target cpu:pentium               1 E0701
    compile tiny.net --target cuda                      1 E0702
    compile tiny.net --params missing.safetensors       1 E0621
    compile tiny.net --params junk.safetensors          1 E0622
    compile tiny.net --params .                         1 E0621
    compile tiny.net --set classes=0                    1 E0425
    compile tiny.net --set classes=99999999999999       1 E0608
    compile tiny.net --seed x                           2 E0453
    compile tiny.net --design-batch 0                   2 E0453
    compile tiny.net -o folder.netb                     1 E0605
    compile tiny.net -o x.npy/out.netb                  1 E0605
    inspect missing.netb                                1 E0601
    inspect folder.netb                                 1 E0601
    inspect tiny.net                                    1 E0602
    inspect junk.netb                                   1 E0602
    inspect empty.netb                                  1 E0602
    inspect zip.netb                                    1 E0602
    inspect tiny.netb --extract nothing                 1 E0607
    run missing.netb                                    1 E0601
    run tiny.net --input x=x.npy                        1 E0602
    run tiny.netb                                       1 E0611
    run tiny.netb --input x                             1 E0618
    run tiny.netb --input x=                            1 E0615
    run tiny.netb --input x=missing.npy                 1 E0615
    run tiny.netb --input x=.                           1 E0615
    run tiny.netb --input x=junk.npy                    1 E0615
    run tiny.netb --input x=objects.npy                 1 E0615
    run tiny.netb --input x=empty.npz                   1 E0615
    run tiny.netb --input x=tiny.net                    1 E0615
    run tiny.netb --input x=junk.png                    1 E0555
    run tiny.netb --input x=wide.npy                    1 E0614
    run tiny.netb --input x=none.npy                    1 E0614
    run tiny.netb --input x=complex.npy                 1 E0613
    run tiny.netb --input x=text.npy                    1 E0613
    run tiny.netb --input y=x.npy                       1 E0612
    show tiny.net --after clean                         2 E0454
    run tiny.netb --input x=x.npy --input z=x.npy       1 E0612
    run tiny.netb --input x=x.npy --output q=q.npy      1 E0617
    run tiny.netb --input x=x.npy --output p=folder.net 1 E0605
    run tiny.netb --input x=x.npy --expect p=none       1 E0615
    run tiny.netb --input x=x.npy --threads 0           2 E0453
    time tiny.netb --train                              1 E0619
    time missing.net                                    1 E0120
    test missing.netb                                   1 E0601
    test notrain.net                                    1 E0621
    test tiny.net --params junk.safetensors             1 E0622
    test tiny.netb --set classes=3                      2 E0454
    test tiny.netb --part nothing                       2 E0453
    train missing.net                                   1 E0120
    train nodata.net                                    1 E0552
    train notrain.net                                   1 E0511
    train two.net                                       1 E0211
    train tiny.net:other                                1 E0210
    train tiny.net --resume                             1 E0628
    train tiny.net --resume --fresh                     2 E0454
    train tiny.net --epochs 0                           2 E0453
    train tiny.net --out x.npy                          1 E0605
    data cifar                                          1 E0570
"""
LINES = [line.split() for line in WRONG.strip().splitlines()]
LINES = [(words[:-2], int(words[-2]), words[-1]) for words in LINES]


@pytest.mark.parametrize("arguments, code, error", LINES, ids=[" ".join(words) for words, *_ in LINES])
def test_wrong_command_lines_end_in_a_message(folder, arguments, code, error):
    before = sorted(p.name for p in folder.iterdir() if p.name != "runs")
    done = netc(*arguments, cwd=folder)
    assert done.code == code, done.err
    assert "Traceback" not in done.err and done.out == ""
    assert f"error[{error}]: " in done.err
    assert error in PAGES
    assert sorted(p.name for p in folder.iterdir() if p.name != "runs") == before, "something was left behind"


def test_every_message_of_the_table_is_short(folder):
    for arguments, _, error in LINES:
        if error in ("E0601", "E0602", "E0611", "E0614", "E0701"):
            assert len(netc(*arguments, cwd=folder).err.strip().splitlines()) <= 3


# --- damaged artifacts -------------------------------------------------------------------------------------------


def content(path) -> tuple[int, int]:
    """Where the members of an artifact lie: bytes before and behind them are the zip's own."""
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()[0].header_offset + 30, archive.start_dir


def test_damage_anywhere_in_the_content_is_refused_by_name(made, tmp_path):
    data = (made / "tiny.netb").read_bytes()
    stream = random.Random(1)
    for at in stream.sample(range(*content(made / "tiny.netb")), 20):
        broken = bytearray(data)
        broken[at] ^= 1 << stream.randrange(8)
        (tmp_path / "broken.netb").write_bytes(broken)
        for arguments in (["inspect"], ["run", "--input", f"x={made / 'x.npy'}"]):
            done = netc(arguments[0], "broken.netb", *arguments[1:], cwd=tmp_path)
            if done.code == 0:  # a date or a flag of the zip, which nobody reads
                assert netc("inspect", "broken.netb", "--json", cwd=tmp_path).out \
                    == netc("inspect", made / "tiny.netb", "--json").out
            else:
                assert done.code == 1 and "error[E0603]: broken.netb is damaged" in done.err


def test_truncated_artifacts_are_refused_by_name(made, tmp_path):
    data = (made / "tiny.netb").read_bytes()
    for length in (1, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        (tmp_path / "short.netb").write_bytes(data[:length])
        done = netc("run", "short.netb", "--input", f"x={made / 'x.npy'}", cwd=tmp_path)
        assert done.code == 1 and "short.netb" in done.err and "error[E060" in done.err


def test_members_that_were_exchanged_added_or_compressed_are_refused(made, tmp_path):
    with zipfile.ZipFile(made / "tiny.netb") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for change, kind in [({"host.o": members["host.o"][::-1]}, zipfile.ZIP_STORED), ({"extra": b"x"}, zipfile.ZIP_STORED),
                         ({}, zipfile.ZIP_DEFLATED), ({"manifest.json": b"{}"}, zipfile.ZIP_STORED)]:
        with zipfile.ZipFile(tmp_path / "other.netb", "w", kind) as archive:
            for name, data in (members | change).items():
                archive.writestr(name, data)
        done = netc("inspect", "other.netb", cwd=tmp_path)
        assert done.code == 1 and "error[E0603]: other.netb is damaged" in done.err


# --- what fails leaves what was there ----------------------------------------------------------------------------


def test_a_failed_compile_keeps_the_old_artifact(tmp_path):
    write_tiny(tmp_path)
    (tmp_path / "tiny.netb").write_bytes(b"precious")
    for arguments in (["--target", "gpu"], ["--set", "classes=0"], ["--params", "none.safetensors"]):
        assert netc("compile", "tiny.net", *arguments, cwd=tmp_path).code == 1
    assert (tmp_path / "tiny.netb").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["rows.csv", "tiny.net", "tiny.netb"]


def test_parameters_of_another_net_are_refused(made, tmp_path):
    write_tiny(tmp_path)
    assert netc("train", "tiny.net", "--quiet", "--epochs", 1, cwd=tmp_path).code == 0
    done = netc("compile", "tiny.net", "--set", "classes=3", "--params", "runs/tiny/best.safetensors", cwd=tmp_path)
    assert done.code == 1 and "error[E0610]" in done.err and "logits.weight" in done.err
    assert not (tmp_path / "tiny.netb").exists()


def test_a_cuda_artifact_without_a_gpu_says_so_in_one_line(made, tmp_path):
    compiled = netc("compile", made / "tiny.net", "--target", "cuda:sm_80", "-o", "gpu.netb", cwd=tmp_path)
    if "error[E0710]" in compiled.err:
        pytest.skip("no CUDA compiler on this machine")
    assert compiled.code == 0, compiled.err
    hidden = process("run", "gpu.netb", "--device", "cuda", "--input", f"x={made / 'x.npy'}", cwd=tmp_path,
                     env={"CUDA_VISIBLE_DEVICES": ""})
    _, err = hidden.communicate(timeout=60)
    assert hidden.returncode == 1
    assert "error[E072" in err.splitlines()[0] and "Traceback" not in err and len(err.splitlines()) <= 2


def test_a_closed_pipe_is_no_error_of_ours():
    listing = process("ops")
    listing.stdout.close()
    err = listing.stderr.read()
    listing.wait(timeout=60)
    assert "Traceback" not in err and "Exception" not in err
