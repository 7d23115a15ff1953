"""Files that import files."""

from pathlib import Path

import pytest

from compiler.elaborate import check, load
from dsl.diagnostics import DiagnosticError
from tests.compiler.elaborate.programs import at

MAIN = 'import "%s" as g\nnet t {\n  input x: f32[N, 3, 8, 8]\n  output p = x -> g.f(g.k)\n}\n'
LIB = "let k = 3 * 2\nblock f(x: tensor, n: int) -> y {\n  y = x -> inner(n)\n}\n" \
      "block inner(x: tensor, n: int) -> y {\n  y = x -> conv(n)\n}\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.net").write_text(text)
    return folder / "main.net"


def wrong(path: Path) -> list[tuple[str, str]]:
    return [(d.code, at(d)) for d in check(path) if d.severity == "error"]


def test_blocks_and_lets_of_an_imported_file(tmp_path):
    program = load(write(tmp_path, main=MAIN % "lib.net", lib=LIB))
    assert str(program.graph["p"].type) == "f32[N, 6, 8, 8]"
    assert [(Path(name).name, text) for name, text in program.sources] == [("main.net", MAIN % "lib.net"),
                                                                           ("lib.net", LIB)]
    assert {o.place.rsplit("/", 1)[1] for o in program.graph["p"].origins} == {"lib.net:6:12"}


def test_a_path_may_be_a_string(tmp_path):
    path = write(tmp_path, main=MAIN % "lib.net", lib=LIB)
    assert load(str(path)).net == "t"
    with pytest.raises(DiagnosticError) as caught:
        load(str(tmp_path / "man.net"))
    assert caught.value.diagnostics[0].code == "E0120" and "main.net" in caught.value.diagnostics[0].hint


def test_installed_specs_are_found_behind_the_own_folder(tmp_path):
    text = 'import "inception.net" as g\nnet t {\n  input x: f32[N, 3, 8, 8]\n  output p = x -> g.conv_relu(2)\n}\n'
    assert load(text, name=str(tmp_path / "x.net")).sources[1][0] == "specs/inception.net"
    (tmp_path / "inception.net").write_text("block conv_relu(x: tensor, n: int) -> y {\n  y = x -> dropout(0.5)\n}\n")
    assert load(text, name=str(tmp_path / "x.net")).graph["p"].op == "dropout"


def test_two_ways_to_one_file_read_it_once(tmp_path):
    main = 'import "a.net" as a\nimport "b.net" as b\n' \
           'net t {\n  input x: f32[N, 3, 8, 8]\n  output p = x -> a.f -> b.f\n}\n'
    part = 'import "lib.net" as l\nblock f(x: tensor) -> y {\n  y = x -> l.f(l.k)\n}\n'
    assert len(load(write(tmp_path, main=main, a=part, b=part, lib=LIB)).sources) == 4


@pytest.mark.parametrize("files, code, text", [
    ({"main": MAIN % "main.net"}, "E0221", '"main.net"'),
    ({"main": MAIN % "a.net", "a": 'import "main.net" as m\n' + LIB}, "E0221", '"main.net"'),
    ({"main": MAIN % "a.net", "a": 'import "b.net" as b\n' + LIB, "b": 'import "a.net" as a\n'}, "E0221", '"a.net"'),
    ({"main": MAIN % "lib2.net", "lib": LIB}, "E0220", '"lib2.net"'),
    ({"main": MAIN % "", "lib": LIB}, "E0220", '""'),
    ({"main": MAIN % "lib.net", "lib": LIB.replace("block f", "block h")}, "E0203", "g.f"),
    ({"main": MAIN % "lib.net", "lib": LIB.replace("let k", "let q")}, "E0201", "g.k"),
    ({"main": MAIN % "lib.net", "lib": LIB.replace("conv(n)", "conv(m)")}, "E0201", "m"),
    ({"main": 'import "lib.net" as g\n' + MAIN % "lib.net", "lib": LIB}, "E0202", 'import "lib.net" as g'),
    ({"main": MAIN % "lib.net", "lib": LIB.replace("3 * 2", "1 / 0")}, "E0425", "1 / 0"),
])
def test_wrong_imports(tmp_path, files, code, text):
    assert wrong(write(tmp_path, **files)) == [(code, text)]


def test_the_cycle_is_shown(tmp_path):
    path = write(tmp_path, main=MAIN % "a.net", a='import "b.net" as b\n' + LIB, b='import "a.net" as a\n')
    error = next(d for d in check(path))
    assert [Path(part).name for part in error.message.split(": ")[1].split(" -> ")] == ["a.net", "b.net", "a.net"]


def test_errors_of_all_files_come_together(tmp_path):
    main = (MAIN % "lib.net").replace("g.f(g.k)", "g.f(g.k) -> relo")
    assert wrong(write(tmp_path, main=main, lib=LIB + "let z = = 3\nlet w = 1 / 0\n")) == [
        ("E0203", "relo"), ("E0101", "="), ("E0425", "1 / 0")]


def test_a_binary_import_is_refused(tmp_path):
    path = write(tmp_path, main=MAIN % "lib.net")
    (tmp_path / "lib.net").write_bytes(b"\x00\x01\xff")
    assert wrong(path) == [("E0124", '"lib.net"')]


def test_nets_and_data_of_an_imported_file(tmp_path):
    lib = 'net n {\n  input x: f32[N, 3]\n  label y: f32[N, 3]\n  output p = x -> dense(3)\n  loss mse(p, y)\n}\n' \
          'data d {\n  source = "csv:x.csv", batch = 8\n}\n'
    main = 'import "sub/lib.net" as g\ntrain fit {\n  net = g.n, data = g.d, optimizer = adam(), run = 3 epochs\n}\n'
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", lib=lib)
    program = load(write(tmp_path, main=main), train="fit")
    assert (program.net, program.train.data, program.data["root"]) == ("n", "d", str(tmp_path / "sub"))
