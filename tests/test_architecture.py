"""The shape of the project: which room imports which, what a start-up loads, and what must not stand in any source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("dsl", "compiler", "runtime", "netc")
FORMAT = ("runtime.format", "runtime.object_file", "runtime.errors")
ALLOWED = {"dsl": ("dsl",), "runtime": ("runtime",), "compiler": ("compiler", "dsl", *FORMAT), "netc": ROOMS}
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """The modules a file imports, wherever in the file; `from a import b` counts as a.b too where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {m for m in inner if (ROOT / m.replace(".", "/")).with_suffix(".py").exists()
                       or (ROOT / m.replace(".", "/")).is_dir()}
            found |= modules or {node.module}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_design_allows(room):
    allowed = ALLOWED[room]
    wrong = [f"{path.relative_to(ROOT)} imports {module}" for path in SOURCES if path.is_relative_to(ROOT / room)
             for module in sorted(imports(path)) if module.split(".")[0] in (*ROOMS, "tests")
             and not any(module == a or module.startswith(f"{a}.") for a in allowed)]
    assert not wrong


def test_the_artifact_format_needs_the_standard_library_only():
    for module in FORMAT:
        path = ROOT / f"{module.replace('.', '/')}.py"
        outside = {m.split(".")[0] for m in imports(path)} - {"runtime"} - sys.stdlib_module_names
        assert not outside


def test_nothing_is_evaluated_and_nothing_is_unpickled():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert not imports(path) & {"pickle", "cPickle", "dill", "marshal", "shelve"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}:{node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"


def test_files_say_what_they_are_for_and_stay_small():
    for path in SOURCES:
        text = path.read_text()
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path} opens without a docstring"
        assert text.count("\n") <= 550, f"{path} is really two files"
        assert "TODO" not in text and "FIXME" not in text, path


def loaded(*arguments: str) -> tuple[set[str], subprocess.CompletedProcess]:
    """The modules that a command line has loaded when it ends."""
    code = ("import atexit, sys; atexit.register(lambda: print('\\n'.join(['MODULES', *sys.modules]), file=sys.stderr)); "
            "from netc.cli import main; sys.argv = ['netc', *sys.argv[1:]]; main()")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    return set(done.stderr.partition("MODULES\n")[2].split()), done


def test_help_loads_neither_compiler_nor_runtime():
    modules, done = loaded("--help")
    assert done.returncode == 0 and "Verbs" in done.stdout
    assert not modules & {"lark", "networkx", "compiler", "dsl", "tvm", "tvm_ffi", "numpy", "rich", "PIL"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "logistic.netb"
    subprocess.run([sys.executable, "-m", "netc", "compile", "specs/logistic.net", "-o", str(path)], check=True, cwd=ROOT,
                   capture_output=True)
    np.save(path.with_suffix(".npy"), np.zeros((2, 4), "f4"))
    return path


def test_run_loads_neither_parser_nor_compiler(artifact):
    modules, done = loaded("run", str(artifact), "--input", f"x={artifact.with_suffix('.npy')}")
    assert done.returncode == 0, done.stderr
    assert "p: float32[2, 3]" in done.stdout
    assert not {m for m in modules if m.split(".")[0] in ("lark", "networkx", "compiler", "dsl", "tvm", "tvm_ffi",
                                                        "tvm_ffi_orcjit", "rich", "PIL", "jax")}


def test_the_runtime_works_where_the_other_rooms_are_not_installed(artifact):
    code = ("import sys\n"
            "for room in ('dsl', 'compiler', 'netc', 'lark', 'networkx'): sys.modules[room] = None\n"
            "import numpy as np\nfrom runtime.execute import Executable\n"
            "print(Executable.load(sys.argv[1])(x=np.zeros((2, 4), 'f4'))['p'])")
    done = subprocess.run([sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("0.333") == 6


def test_every_error_code_has_a_page_and_every_page_a_code():
    used = {code for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            for code in re.findall(r"\bE0\d{3}\b", node.value) if len(node.value) == 5}
    pages = re.findall(r"^## (E\d{4}) ", "".join(p.read_text() for p in (ROOT / "netc/errors.d").glob("*.md")), re.MULTILINE)
    assert len(pages) == len(set(pages)), "a code is explained twice"
    assert used - set(pages) == set(), "codes without a page in netc/errors.d"
    assert set(pages) - used == set(), "pages of codes that no source uses"
    assert len(used) > 50
