"""Compiling generated CUDA C for the CPU: the source as it is, cuda_host.h in the place of CUDA's headers, engine.cc.

What a C++ compiler makes is kept in the user's cache, named by a hash of all that it depends on.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.errors import NetcError

HERE = Path(__file__).parent
_DECLARATION = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+(?:, \d+)?\) )?(\w+)\(([^()]*)\);')
_SHARED = re.compile(r"(?<!extern )__shared__ (?:alignas\(\d+\) |__align__\(\d+\) )?([\w ]+?) (\w+)\[(\d+)\];")
_DYNAMIC = re.compile(r'extern (?:"C" )?__shared__ (?:\w+\(\d+\) )?([\w ]+?) (\w+)\[\];')
_LOCAL = re.compile(r"^(\s+)(?:alignas\(\d+\) |__align__\(\d+\) )?(\w+) (\w+)(?:\[(\d+)\])?;", re.MULTILINE)
_VECTOR = re.compile(r"\*\((\w+)\*\)\(")
_TOGETHER = re.compile(r"\b(__sync\w+|__shfl\w+|netc_(?!copy_16|tf32)\w+)\(")  # where threads wait for others
INSTRUCTIONS = "// Instructions of NVIDIA GPUs"  # how compiler/cuda_instructions.h begins

_PRELUDE = """#include "cuda_host.h"
struct Any { int32_t kind; uint32_t padding; union { int64_t number; double real; void* pointer; }; };
extern "C" void TVMFFIErrorSetRaisedFromCStr(const char*, const char*);
extern "C" const char* emulator_fault();
// The driver asks for the GPU of a call; there is one.
extern "C" int __tvm_ffi___tvm_set_device(void*, const Any*, int32_t, Any*) { return 0; }
"""


def compiler() -> list[str]:
    """The command of the C++ compiler: CXX, else the first of g++ and clang++ that is there. Raises NetcError E0740."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    what = f"the C++ compiler `{named[0]}` (from CXX) is not on PATH" if named else "there is no C++ compiler on PATH"
    raise NetcError("E0740", f"{what}; the emulator compiles CUDA kernels for the CPU with it",
                    "install one (apt install g++), or set CXX; the CPU target needs none (--target cpu)")


def library(source: str, functions: Mapping[str, Mapping[str, Sequence[str]]], check: bool) -> Path:
    """A shared library with the kernels of `source`: `__tvm_ffi_NAME`, as TVM's drivers call them, and `emulate_NAME`.

    functions: of kernels.json. check: with a call before each access to memory. Raises NetcError E0740, E0741.
    """
    command = [*compiler(), "-std=c++17", "-g1", "-w", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]
    engine = _kept("emulator.o", command, ["-O2", "-c"], '#include "engine.cc"\n#include "checks.cc"\n')
    flags = [*(["-O1", "-fsanitize=thread"] if check else ["-O2"]), "-c"]  # faster code, or sooner
    kernels = _kept("kernels.o", command, flags, translate(source, functions, check))
    # Without -fsanitize here: the calls that it put in come to checks.cc, not to its own library.
    path = kernels.with_name(f"{kernels.stem}-{engine.stem[:16]}.so")
    if not path.exists():
        _made(path, [*command, "-shared", "-Wl,-Bsymbolic", str(kernels), str(engine)])
    return path


def _kept(name: str, command: Sequence[str], flags: Sequence[str], text: str) -> Path:
    """An object file of a C++ text, from the cache where it is there."""
    included = [path.read_text() for path in sorted(HERE.iterdir()) if path.suffix in (".h", ".cc")]
    digest = hashlib.sha256("\0".join([*command, *flags, *included, text]).encode())
    path = _folder() / f"{digest.hexdigest()}.o"
    if path.exists():
        os.utime(path)
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        source = Path(work, name).with_suffix(".cc")
        source.write_text(text)
        _made(path, [*command, *flags, f"-I{HERE}", str(source)])
    return path


def _made(path: Path, command: Sequence[str]) -> None:
    """Runs a compiler; its output appears whole at `path`. Raises NetcError E0741."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    try:
        _run(command, "-o", temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def translate(source: str, functions: Mapping[str, Mapping[str, Sequence[str]]], check: bool) -> str:
    """The C++ of a library: the CUDA C line by line, then a launcher for each kernel."""
    # CUDA's own headers and what TVM adds to them are left out, the header of instructions is not.
    kernels = source.index('extern "C" __global__')
    start = source.find(INSTRUCTIONS, 0, kernels) if INSTRUCTIONS in source else kernels
    line = source.count("\n", 0, start) + 1
    instructions, code = source[start:kernels], source[kernels:]
    launchers = [_launcher(name, parameters, functions[name], _body(code, name))
                 for name, parameters in _DECLARATION.findall(code)]
    if check:
        # The C++ compiler may make a vector's access one of each element, whose alignment is less.
        code = _VECTOR.sub(r"*emulator::Aligned<\1>(", _LOCAL.sub(_poisoned, code))
    numbers = itertools.count(1)
    code = _DYNAMIC.sub(lambda m: f"{m[1]}* {m[2]} = ({m[1]}*)emulator::DynamicShared({_granule(code, m[2], 'int')});",
                        code)
    code = _SHARED.sub(
        lambda m: "{0} (&{1})[{2}] = *({0}(*)[{2}])emulator::SharedArray({3}, sizeof({0}) * {2}, {4});".format(
            *m.groups(), next(numbers), _granule(code, m[2], m[1])), instructions + code)
    prelude = f"{_PRELUDE}const bool emulator::checks = {str(check).lower()};"
    return "\n".join([prelude, f'#line {line} "kernels.cu"', code, '#line 1 "launchers"', *launchers])


def _body(code: str, name: str) -> str:
    """The text of a kernel, or an empty one."""
    found = re.search(rf'void (?:__launch_bounds__\([^()]*\) )?{name}\([^()]*\) \{{.*?^\}}', code, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""


def _granule(code: str, name: str, kind: str) -> str:
    """The bytes of the smallest element that a shared array is looked at as, in C++."""
    kinds = {kind, *re.findall(rf"\((\w+)\*\)\(?{name}\b", code)} - {"void"}
    return "emulator::Smallest(" + ", ".join(f"sizeof({k})" for k in sorted(kinds)) + ")"


def _poisoned(declaration: re.Match[str]) -> str:
    """A local variable full of NaN. Element by element: an array whose address is taken counts as memory that is checked."""
    _, kind, name, extent = declaration.groups()
    if kind in ("return", "break", "continue", "goto"):
        return declaration[0]
    value = f"emulator::Unwritten<{kind}>()"
    fill = f"for (int i_ = 0; i_ < {extent}; ++i_) {name}[i_] = {value};" if extent else f"{name} = {value};"
    return f"{declaration[0]} {fill}"


def _launcher(name: str, parameters: str, function: Mapping[str, Sequence[str]], body: str) -> str:
    types = [p.replace("__restrict__", "").rsplit(None, 1)[0].strip() for p in parameters.split(",")]
    unpacked = ", ".join(f"*({kind}*)args[{i}]" for i, kind in enumerate(types))
    granules = ", ".join("1" if re.fullmatch(r"(const )?void\*", kind) else f"sizeof({kind.rstrip('*')})"
                         if kind.endswith("*") else "0" for kind in types)
    alone = str(bool(body) and not _TOGETHER.search(body)).lower()
    narrow = "".join(f"float real{i} = args[{i}].real; at[{i}] = &real{i}; "
                     for i, word in enumerate(function["args"]) if word == "float32")
    extents = {"blockIdx.": "grid", "threadIdx": "block"}
    launch = "".join(
        f"{extents[tag[:9]]}[{'xyz'.index(tag[-1])}] = args[{len(types) + i}].number; " if tag[:9] in extents
        else f"dynamic = args[{len(types) + i}].number; " for i, tag in enumerate(function["launch"]))
    return f"""
EMULATOR_PLAIN static void run_{name}(void** args) {{ {name}({unpacked}); }}
extern "C" EMULATOR_PLAIN int emulate_{name}(const unsigned* grid, const unsigned* block,
    size_t dynamic, void** args) {{
  const int granules[] = {{{granules}, -1}};
  return emulator::Launch("{name}", grid, block, dynamic, {alone}, granules, run_{name}, args);
}}
extern "C" EMULATOR_PLAIN int __tvm_ffi_{name}(void*, const Any* args, int32_t, Any* result) {{
  unsigned grid[3] = {{1, 1, 1}}, block[3] = {{1, 1, 1}};
  size_t dynamic = 0;
  void* at[{len(types)} + 1];
  for (int i = 0; i < {len(types)}; ++i) at[i] = (void*)&args[i].number;
  {narrow}{launch}
  *result = Any{{}};
  if (!emulate_{name}(grid, block, dynamic, at)) return 0;
  TVMFFIErrorSetRaisedFromCStr("EmulatorFault", emulator_fault());
  return -1;
}}"""


def _run(command: Sequence[str], *arguments: str) -> None:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else f"status {done.returncode}")
        raise NetcError("E0741", f"the C++ compiler `{command[0]}` refuses the kernels: {first.strip()}",
                        "set CXX to g++ 9 or clang++ 10, or a later one")


def _folder() -> Path:
    """A folder of the user's cache (NETC_CACHE_DIR, XDG_CACHE_HOME, ~/.cache/netc), else one of this user's in /tmp."""
    if os.environ.get("NETC_CACHE") == "0":
        return Path(tempfile.gettempdir(), f"netc-emulator-{os.getuid()}")
    place = os.environ.get("NETC_CACHE_DIR")
    base = Path(place) if place else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "netc")
    return base / "emulator"


def place_of(library_path: Path, offset: int) -> str | None:
    """The line of kernels.cu at a code offset of a library, e.g. "line 812", where binutils are there to tell."""
    if not offset or not shutil.which("addr2line"):
        return None
    # Of a function that was inlined, the line from which it is called.
    done = subprocess.run(["addr2line", "-i", "-e", str(library_path), hex(offset)], capture_output=True, text=True,
                          check=False)
    lines = re.findall(r"kernels\.cu:(\d+)", done.stdout)
    return f"line {lines[-1]}" if lines else None
