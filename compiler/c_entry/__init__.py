"""A compiled net as a C library: a header, a shared library without Python or TVM, and a file of weights beside it.

The library is the net's object file and a few lines of C around it (`entry.h`, `threads.h`), put together by the machine's C compiler.
Weights are stored as kernels read them: what the program `prepare` makes of them is made before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime import object_file
from runtime.errors import NetcError
from runtime.format import Artifact, atomic

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-O2", "-fPIC", "-pthread", "-shared", "-s", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-function")
PROVIDED = {"__TVMBackendParallelLaunch"}  # what `threads.h` defines of the runtime that kernels may call
MAGIC = b"netcw001"
TYPES = {  # dtype of the manifest → C type, DLPack's code and bits
    "float32": ("float", 2, 32), "float64": ("double", 2, 64), "float16": ("uint16_t", 2, 16),
    "bfloat16": ("uint16_t", 4, 16), "bool": ("uint8_t", 6, 8), **{
        f"{sign}int{bits}": (f"{sign}int{bits}_t", code, bits) for sign, code in (("", 0), ("u", 1)) for bits in (8, 16, 32, 64)},
}
KEYWORDS = frozenset(
    "alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double else enum "
    "explicit export extern false final float for friend goto if inline int long mutable namespace new noexcept not nullptr "
    "operator or override private protected public register restrict return short signed sizeof static struct switch template "
    "this throw true try typedef typename union unsigned using virtual void volatile while xor main".split())
OURS = frozenset(  # what `entry.h` and the generated functions call their own
    "weights workspace path aligned arena arena_bytes arena_shape arena_tensor arguments fill identity larger launch load "
    "kernels number padded placed pointing result self spare tensor values weights_shape weights_tensor OK BAD_ARGUMENT NO_FILE "
    "WRONG_FILE DAMAGED FAILED ALIGNMENT Tensor Value Group Head".split())


@dataclass(frozen=True)
class Deployed:
    """The files that were written."""

    header: Path
    library: Path
    weights: Path


@dataclass(frozen=True)
class Argument:
    """An input or a result of `run`, as C sees it. sizes: C expressions of its extents, in order."""

    name: str
    kind: str
    type: str
    code: int
    bits: int
    sizes: tuple[str, ...]
    shape: str

    @property
    def bytes(self) -> str:
        return " * ".join([str(self.bits // 8), *self.sizes])


@dataclass(frozen=True)
class Entry:
    """The program `run` as C sees it. forms: what runs for which sizes, (condition in C, arena, kernels, symbol), the last for
    all that no other is for. identity: which weights belong to it."""

    net: str
    arguments: tuple[Argument, ...]
    symbols: tuple[str, ...]
    forms: tuple[tuple[str, str, int, str], ...]
    parameter_bytes: int
    weight_bytes: int
    identity: bytes
    target: str
    tiles: bool

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Entry:
        """What a manifest says of the deployed program."""
        program = manifest["programs"]["run"]
        net = identifier(manifest["net"], set())
        taken = {*OURS, *(f"{what}_{i}" for what in ("shape", "place", "tensor") for i in range(len(program["arguments"])))}
        names = {symbol: identifier(symbol, taken) for symbol in program["symbols"]}
        arguments = []
        for a in program["arguments"]:
            type, code, bits = TYPES[a["dtype"]]
            shape = ", ".join(s if isinstance(s, str) else expression(s, names) for s in a["shape"])
            arguments.append(Argument(identifier(a["name"], taken), a["kind"], type, code, bits,
                                      tuple(expression(s, names) for s in a["shape"]) or ("1",), f"[{shape}]"))
        batches = program.get("batches", {"programs": {}})
        forms = [(f"{names[batches['symbol']]} == {batch}", manifest["programs"][name]) for batch, name in batches["programs"].items()]
        forms.append(("1", program))
        used = max(form["parameter_bytes"] for _, form in forms)
        told = json.dumps([manifest["net"], manifest["parameters"], manifest["target"], program["kernels"]], sort_keys=True)
        return cls(net, tuple(arguments), tuple(names.values()),
                   tuple((condition, expression(form["arena"], names), len(form["kernels"]), form["symbol"])
                         for condition, form in forms), manifest["parameter_bytes"], -(-used // 64) * 64,
                   hashlib.sha256(told.encode()).digest()[:16], f"{manifest['target']['name']} ({manifest['target']['mcpu']})",
                   "amx_tile" in manifest["target"]["features"])


def write(folder: str | os.PathLike, artifact: Artifact, parameters: np.ndarray) -> Deployed:
    """Writes NET.h, libNET.so and NET.weights into `folder`.

    artifact: for a CPU, with the program `run`. parameters: its flat buffer with all weights in place, after `prepare`.
    Raises NetcError E0730 (no C compiler), E0731 (it refuses), E0605 (the folder cannot be written).
    """
    entry = Entry.of(artifact.manifest)
    needed = {s.name for s in object_file.read(artifact.members["host.o"]).symbols if s.name.startswith("__TVM")} - PROVIDED
    if needed:
        raise ValueError(f"kernels call {', '.join(sorted(needed))}, which the C library does not provide")
    library = link(entry, artifact.members["host.o"])
    folder = Path(folder)
    deployed = Deployed(folder / f"{entry.net}.h", folder / f"lib{entry.net}.so", folder / f"{entry.net}.weights")
    for path, data in ((deployed.header, header(entry).encode()), (deployed.library, library),
                       (deployed.weights, weights_file(entry, parameters))):
        with atomic(path) as stream:
            stream.write(data)
    return deployed


def link(entry: Entry, code: bytes) -> bytes:
    """The shared library of an object file."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "host.o").write_bytes(code)
        (here / "entry.c").write_text(source(entry))
        (here / "names.map").write_text(f"{{ global: {entry.net}_*; local: *; }};\n")
        library = here / "out.so"
        command = [*compiler(), *FLAGS, f"-Wl,-soname,lib{entry.net}.so",
                   f"-Wl,--version-script={here / 'names.map'}", "-Wl,-z,defs", str(here / "entry.c"), str(here / "host.o"),
                   "-lm", "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or not library.exists():
            first = next((line for line in done.stderr.splitlines() if "error" in line or "cannot" in line), done.stderr[:300])
            raise NetcError("E0731", f"the C compiler `{command[0]}` refuses: {first.strip()}",
                            "it must make shared libraries for Linux on the net's processor; the variable CC names another")
        return library.read_bytes()


def compiler() -> list[str]:
    """The command of the C compiler: CC, else the first of cc, gcc and clang that is there. Raises NetcError E0730."""
    chosen = shlex.split(os.environ.get("CC", ""))
    found = next((c for c in ([chosen[0]] if chosen else ["cc", "gcc", "clang"]) if shutil.which(c)), None)
    if found is None:
        what = f"there is no program `{chosen[0]}`, which CC names" if chosen else "there is no C compiler on this machine"
        raise NetcError("E0730", what, "install gcc or clang; or from PyPI: pip install ziglang, "
                        "then CC='python -m ziglang cc'")
    return [found, *chosen[1:]]


def header(entry: Entry) -> str:
    """The text of NET.h."""
    net, big = entry.net, entry.net.upper()
    lines = [f" *   {a.name}: {a.type} {a.shape}, {'read' if a.kind == 'input' else 'written'}" for a in entry.arguments]
    return f"""/* {net}: a network compiled by netc for {entry.target}.
 *
 * {net}_run computes the results of one batch:
{chr(10).join(lines)}
 * Arrays are dense, in row-major order; those aligned to 64 bytes are used where they are, others are copied.
 *
 *   weights: at least {net}_weights_size() bytes that {net}_load has filled, or the file {net}.weights mapped into
 *   memory, from its byte 64 on. They are only read: threads and processes may share them.
 *   workspace: at least {net}_workspace_size(…) bytes for the same sizes, any content; each call at a time needs its own.
 *
 *   count: how many threads {net}_run computes on, 1 to 256; 1 until this is called. It makes and ends threads, and
 *   waits for a computation on them; results do not depend on it. Set 1 before the library is unloaded.
 *
 * Nothing is allocated by {net}_run, and nothing remembered from call to call: any number of threads may run at once.
 * All functions return {big}_OK or one of the codes below.
 */
#ifndef {big}_H
#define {big}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

enum {{
  {big}_OK = 0,
  {big}_BAD_ARGUMENT = 1, /* a null pointer, or a size below 1 */
  {big}_NO_FILE = 2,      /* the file of weights cannot be opened */
  {big}_WRONG_FILE = 3,   /* it holds no weights, or those of another net or compilation */
  {big}_DAMAGED = 4,      /* it is cut short or changed */
  {big}_FAILED = 5        /* a kernel failed, a thread cannot be made, or the system denies tile registers (AMX) */
}};

size_t {net}_weights_size(void);
int {net}_load(const char *path, void *weights);
size_t {net}_workspace_size({', '.join(f'int64_t {s}' for s in entry.symbols) or 'void'});
int {net}_run({parameters_of(entry)});
int {net}_set_threads(int count);

#ifdef __cplusplus
}}
#endif
#endif
"""


def parameters_of(entry: Entry) -> str:
    """The parameters of NET_run."""
    arrays = [f"{'const ' if a.kind == 'input' else ''}{a.type} *{a.name}" for a in entry.arguments]
    return ", ".join([*arrays, *(f"int64_t {s}" for s in entry.symbols), "const void *weights", "void *workspace"])


def source(entry: Entry) -> str:
    """The C around the object file, in one file: `entry.h`, `threads.h`, `tiles.h` where tile registers are used, `NET.h`, and
    the functions it declares."""
    net, arguments = entry.net, entry.arguments
    sizes = ", ".join(f"int64_t {s}" for s in entry.symbols) or "void"
    given = ", ".join(entry.symbols)
    missing = " || ".join([*(f"!{a.name}" for a in arguments), "!weights", "!workspace", *(f"{s} < 1" for s in entry.symbols)])
    spare = " + ".join(f"padded({a.bytes})" for a in arguments)
    bind, copy_in, copy_out = [], [], []
    for i, a in enumerate(arguments):
        bind.append(f"  int64_t shape_{i}[] = {{{', '.join(a.sizes)}}};\n"
                    f"  void *place_{i} = placed({a.name}, {a.bytes}, &spare);\n"
                    f"  Tensor tensor_{i} = tensor(place_{i}, {a.code}, {a.bits}, {len(a.sizes)}, shape_{i});")
        if a.kind == "input":
            copy_in.append(f"  if (place_{i} != (const void *){a.name}) memcpy(place_{i}, {a.name}, (size_t)({a.bytes}));")
        else:
            copy_out.append(f"  if (place_{i} != (void *){a.name}) memcpy({a.name}, place_{i}, (size_t)({a.bytes}));")
    values = ", ".join([*(f"pointing(&tensor_{i})" for i in range(len(arguments))), "pointing(&weights_tensor)",
                        "pointing(&arena_tensor)", "number(0)", "number(kernels)"])
    arena, kernels, driver = (" : ".join([*(f"{form[0]} ? {text(form)}" for form in entry.forms[:-1]), text(entry.forms[-1])])
                              for text in (lambda form: form[1], lambda form: str(form[2]),
                                           lambda form: f"__tvm_ffi_{form[3]}"))
    drivers = "\n".join(f"int __tvm_ffi_{symbol}(void *self, const Value *arguments, int32_t count, Value *result);"
                        for *_, symbol in entry.forms)
    exported = '__attribute__((visibility("default"))) '
    newline = "\n"
    return f"""{(HERE / "entry.h").read_text()}
{(HERE / "threads.h").read_text()}
{(HERE / "tiles.h").read_text() if entry.tiles else ""}
{header(entry)}
{drivers}

static const unsigned char identity[16] = {{{', '.join(map(str, entry.identity))}}};

static int64_t arena_bytes({sizes}) {{ return larger({arena}, 1); }}

{exported}size_t {net}_weights_size(void) {{ return {entry.weight_bytes} + ALIGNMENT - 1; }}

{exported}int {net}_load(const char *path, void *weights) {{
  if (!path || !weights) return BAD_ARGUMENT;
  return load(path, identity, {entry.weight_bytes}, aligned(weights));
}}

{exported}int {net}_set_threads(int count) {{ return set_threads(count); }}

{exported}size_t {net}_workspace_size({sizes}) {{
  return (size_t)(padded(arena_bytes({given})) + {spare} + ALIGNMENT - 1);
}}

{exported}int {net}_run({parameters_of(entry)}) {{
  if ({missing}) return BAD_ARGUMENT;{f"{newline}  if (!tiles_granted) return FAILED;" if entry.tiles else ""}
  int kernels = {kernels};
  int64_t arena_shape[] = {{arena_bytes({given})}}, weights_shape[] = {{{max(entry.parameter_bytes, 1)}}};
  unsigned char *arena = aligned(workspace), *spare = arena + padded(arena_shape[0]);
{newline.join(bind)}
  Tensor weights_tensor = tensor(aligned(weights), 1, 8, 1, weights_shape);
  Tensor arena_tensor = tensor(arena, 1, 8, 1, arena_shape);
  Value values[] = {{{values}}}, result = number(0);
{newline.join(copy_in)}
  if (({driver})(NULL, values, {len(arguments) + 4}, &result)) return FAILED;
{newline.join(copy_out)}
  return OK;
}}
"""


def weights_file(entry: Entry, parameters: np.ndarray) -> bytes:
    """The content of NET.weights: see Head in `entry.h`."""
    data = np.zeros(entry.weight_bytes, np.uint8)
    used = parameters[:entry.weight_bytes]
    data[:len(used)] = used
    words = data.view("<u8")
    with np.errstate(over="ignore"):
        first = int(words.sum(dtype=np.uint64))
        second = int((words * np.arange(len(words), 0, -1, dtype=np.uint64)).sum(dtype=np.uint64))
    return MAGIC + entry.identity + struct.pack("<5Q", len(data), first, second, 0, 0) + data.tobytes()


def expression(size: int | str | Sequence, names: Mapping[str, str]) -> str:
    """A size of the manifest (`runtime.format.size`) in C."""
    if isinstance(size, int):
        return f"INT64_C({size})" if size > 0x7FFFFFFF else str(size)
    if isinstance(size, str):
        return names[size]
    operator, *operands = size
    texts = [expression(operand, names) for operand in operands]
    if operator == "max":
        whole = texts[0]
        for text in texts[1:]:
            whole = f"larger({whole}, {text})"
        return whole
    return f"({f' {operator[0]} '.join(texts)})"


def identifier(name: str, taken: set[str]) -> str:
    """A C identifier like `name` that is not taken; it is taken then."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    text = f"_{text}" if text[:1].isdigit() else text
    while text in taken or text in KEYWORDS:
        text += "_"
    taken.add(text)
    return text
