"""From a module of kernels and one driver to what a CUDA artifact holds: host code and machine code for each GPU.

TVM writes CUDA C; nvcc, or NVRTC from PyPI, makes the machine code here and now, without a GPU. Nothing is left to be
compiled where the artifact runs. Fast-math stays off unless it is asked for: results must not depend on the target more
than rounding does.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import IRModule
from tvm.target import Target
from tvm.tirx.build import split_host_device_mods

from compiler import toolkit
from compiler.cubin import usage
from runtime.errors import NetcError

INSTALL = "install one from PyPI, inside the clone: pip install -e '.[cuda]' (or put the CUDA toolkit's nvcc on PATH)"


@dataclass(frozen=True)
class CudaModule:
    """A compiled program for NVIDIA GPUs.

    host_object: the driver as an x86-64 ELF object file for the ORC JIT; source: the CUDA C of all kernels;
    binaries: a cubin for each architecture, by its name ("sm_90"); functions: for each kernel what its launch needs,
    {"args": dtype words in order ("handle" for pointers), "launch": tags of the extents that follow the arguments}.
    """

    host_object: bytes
    source: str
    binaries: dict[str, bytes]
    functions: dict[str, dict[str, list[str]]]


def build(mod: IRModule, archs: Sequence[str], host: Mapping[str, Any] | None = None,
          layers: Mapping[str, str] | None = None, fast_math: bool = False) -> CudaModule:
    """Compile a module of private kernels (thread-bound PrimFuncs over pointers) and exported drivers that call them.

    archs: GPU architectures, e.g. ["sm_80", "sm_90"]; without any (for the emulator) no CUDA compiler is needed.
    host: TVM's llvm target for the drivers, by default any x86-64. layers: for each kernel the user's layers it
    computes, for error messages. fast_math: quicker and less exact division, square roots and functions.
    Raises NetcError E0710 (no CUDA compiler), E0711 (unknown architecture), E0712 (the compiler refuses a kernel).
    """
    compiler = find_compiler() if archs else None
    archs = [check_arch(arch, compiler) for arch in dict.fromkeys(archs)]
    host_target = Target(dict(host or {"kind": "llvm", "mcpu": "x86-64"}))
    # What TVM generates for these kernels is the same for every architecture; the oldest is named to be safe.
    device = Target({"kind": "cuda", "arch": min(archs, key=_generation, default="sm_80")})
    host_mod, device_mod = _split(mod, device, host_target)
    functions = {str(f.attrs["global_symbol"]): _signature(f) for f in device_mod.functions.values()}
    source = _source(device_mod, device)
    with ThreadPoolExecutor(max(1, min(len(archs), os.cpu_count() or 1))) as pool:
        made = pool.map(lambda arch: _fitted(compiler, source, arch, layers or {}, fast_math), archs)
        binaries = dict(zip(archs, made))
    return CudaModule(_object(host_mod, host_target), source, binaries, functions)


def source(mod: IRModule) -> str:
    """The CUDA C of all kernels of such a module. Needs neither a GPU nor a CUDA compiler."""
    device = Target({"kind": "cuda", "arch": "sm_80"})
    return _source(_split(mod, device, Target({"kind": "llvm", "mcpu": "x86-64"}))[1], device)


def _split(mod: IRModule, device: Target, host: Target) -> tuple[IRModule, IRModule]:
    """TVM's own lowering (`tirx.build`) up to code generation: host functions and device kernels."""
    # A private function with a device target of its own is a kernel: calls to it from the host become launches.
    kernels = {gv: f.with_attr("target", device) for gv, f in mod.functions.items() if "global_symbol" not in f.attrs}
    mod = IRModule({**dict(mod.functions.items()), **kernels})
    pipeline, finish_host, finish_device = tirx.get_tir_pipeline("s_tir")
    # The CUDA compiler finds common subexpressions itself; TVM's analyzer fails on some comparisons that its own search
    # binds. It unrolls loops too, where it is told to. Schedules write their barriers: TVM would add some of its own
    # between the halves of a double buffer. Buffers are as large as they need to be.
    with tvm.transform.PassContext(config={"tirx.disable_cse_tir": True, "tirx.UnrollLoop": {"explicit_unroll": False}},
                                   disabled_pass=["s_tir.ThreadSync", "s_tir.CompactBufferAllocation"]):
        mod = pipeline(tirx.transform.BindTarget(device.with_host(host))(mod))
    host_mod, device_mods = split_host_device_mods(mod)
    if len(device_mods) != 1:
        raise ValueError("the module has no kernels")
    return finish_host()(host_mod), finish_device()(next(iter(device_mods.values())))


def _source(device_mod: IRModule, device: Target) -> str:
    with _environment("TVM_COMPILE_FORCE_FALLBACK", "1"):  # else TVM compiles by itself where it finds a GPU
        text = tvm.get_global_func("target.build.cuda")(device_mod, device).inspect_source()
    if not re.search(r"\bnetc_\w+\(", text):
        return text
    start = text.index('extern "C" __global__')
    return text[:start] + (Path(__file__).parent / "cuda_instructions.h").read_text() + text[start:]


def _fitted(compiler: Nvcc | Nvrtc, source: str, arch: str, layers: Mapping[str, str], fast_math: bool) -> bytes:
    """Machine code in which no kernel spills or takes more than its registers, where it can be had. How many it takes ptxas
    decides by rules of its own, which leave a kernel with a few bytes spilled now and then: those are tried with other bounds,
    alone, and compiled with the best."""
    def excess(text: str, binary: bytes) -> dict[str, int]:
        most = {kernel.name: kernel.registers for kernel in _kernels(text)}
        return {name: taken.local + max(0, taken.registers - most[name]) for name, taken in usage(binary).items()}

    plain = compiler.compile(source, arch, layers, fast_math)
    least = {name: count for name, count in excess(source, plain).items() if count}
    over = [kernel for kernel in _kernels(source) if kernel.name in least]
    part = _only(source, [kernel.name for kernel in over])
    chosen: dict[str, str] = {}
    for number in range(len(BOUNDS)):
        told = {kernel.name: BOUNDS[number](kernel) for kernel in over if least[kernel.name]}
        if not told:
            break
        found = excess(part, compiler.compile(_bounded(part, told), arch, layers, fast_math))
        better = {name: bounds for name, bounds in told.items() if found[name] < least[name]}
        chosen |= better
        least |= {name: found[name] for name in better}
    return compiler.compile(_bounded(source, chosen), arch, layers, fast_math) if chosen else plain


def _bounded(source: str, told: Mapping[str, str]) -> str:
    """The source with other bounds before the names of some kernels."""
    for kernel in _kernels(source):
        if kernel.name in told:
            plain = f"__launch_bounds__({kernel.threads}) {kernel.name}("
            source = source.replace(plain, f"{told[kernel.name]}{kernel.name}(")
    return source


def _only(source: str, names: Collection[str]) -> str:
    """The source without other kernels."""
    head, *parts = re.split(r'(?=^extern "C" __global__ void)', source, flags=re.MULTILINE)
    return head + "".join(part for part in parts if re.search(r"(\w+)\(", part.partition(") ")[2])[1] in names)


@dataclass(frozen=True)
class _Kernel:
    """A kernel of a source: its threads in a block, and how many registers each may have."""

    name: str
    threads: int
    registers: int

    @property
    def blocks(self) -> int:
        """How many an SM has registers for, of which threads get multiples of 8."""
        return 65536 // (self.registers + 1 & ~7) // self.threads


# What else ptxas may be told: how many blocks an SM has room for, more threads than there are, or nothing.
BOUNDS = (lambda kernel: f"__launch_bounds__({kernel.threads}, {max(1, kernel.blocks)}) ",
          lambda kernel: f"__launch_bounds__({2 * kernel.threads}) ", lambda kernel: "")


def _kernels(source: str) -> list[_Kernel]:
    found = re.finditer(r"__launch_bounds__\((\d+)\) (\w+)\([^()]*\) \{(.*?)^\}", source, re.DOTALL | re.MULTILINE)
    return [_Kernel(kernel[2], int(kernel[1]), 255 if "netc_mma" in kernel[3] else 128) for kernel in found]


def _object(host_mod: IRModule, host: Target) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "host.o")
        tvm.get_global_func("target.build.llvm")(host_mod, host).write_to_file(str(path))
        return path.read_bytes()


def _signature(kernel: tirx.PrimFunc) -> dict[str, list[str]]:
    args = [str(p.ty.dtype) if isinstance(p.ty, tvm.ir.PrimType) else "handle" for p in kernel.params]
    return {"args": args, "launch": [str(tag) for tag in kernel.attrs["tirx.kernel_launch_params"]]}


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# --- compilers -------------------------------------------------------------------------------------------------------


def available() -> bool:
    """Whether there is a CUDA compiler here."""
    try:
        find_compiler()
    except NetcError:
        return False
    return True


def find_compiler() -> Nvcc | Nvrtc:
    """nvcc on PATH or under CUDA_HOME or CUDA_PATH (with the C++ compiler it needs), else NVRTC from PyPI.

    Raises NetcError E0710 when there is neither.
    """
    folders = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvcc = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if nvcc and shutil.which("gcc"):
        return Nvcc(nvcc)
    for folder in toolkit.packages():
        for library in sorted(folder.glob("lib/libnvrtc.so.*")):
            return Nvrtc(library)
    raise NetcError("E0710", "no CUDA compiler was found, neither nvcc nor NVRTC", INSTALL)


def check_arch(arch: str, compiler: Nvcc | Nvrtc) -> str:
    """`arch` itself. Raises NetcError E0711, with what there is, for one that the compiler does not know."""
    known = compiler.architectures
    if arch in known:
        return arch
    listing = f"{compiler.name} compiles for {', '.join(known)}"
    if not re.fullmatch(r"sm_\d+", arch):
        raise NetcError("E0711", f"`{arch}` is not a GPU architecture", f"write it as in cuda:sm_90; {listing}")
    if _generation(arch) < _generation(known[0]):
        raise NetcError("E0711", f"`{arch}` is too old for {compiler.name}", listing)
    raise NetcError("E0711", f"{compiler.name} does not know `{arch}`", listing)


def _generation(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))


@dataclass(frozen=True)
class Nvcc:
    """The CUDA toolkit's compiler driver."""

    path: str

    @cached_property
    def name(self) -> str:
        release = re.search(r"release ([\d.]+)", self._run("--version").stdout)
        return f"nvcc {release[1]}" if release else "nvcc"

    @cached_property
    def architectures(self) -> list[str]:
        """The architectures it makes machine code for, oldest first."""
        done = self._run("--list-gpu-code")
        if found := sorted(set(re.findall(r"sm_\d+\b", done.stdout)), key=_generation):
            return found
        said = (done.stderr + done.stdout).strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise NetcError("E0710", f"{self.path} names no architectures: {said[0]}", INSTALL)

    def compile(self, source: str, arch: str, layers: Mapping[str, str], fast_math: bool = False) -> bytes:
        """A cubin of `source`. Raises NetcError E0712 with the kernel at fault."""
        fast = ["-use_fast_math"] if fast_math else []
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kernels.cu").write_text(source)
            done = self._run("-cubin", f"-arch={arch}", "-O3", *fast, "-o", "kernels.cubin", "kernels.cu", cwd=folder)
            if done.returncode:
                code = done.returncode
                ended = f"it was ended by signal {-code}, for lack of memory perhaps" if code < 0 else f"it ended with status {code}"
                raise _refused(self.name, arch, source, done.stderr + done.stdout or ended, layers)
            return Path(folder, "kernels.cubin").read_bytes()

    def _run(self, *arguments: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run([self.path, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
        except OSError as problem:
            raise NetcError("E0710", f"{self.path} cannot be run: {problem.strerror}", INSTALL) from problem


@dataclass(frozen=True)
class Nvrtc:
    """NVIDIA's runtime compiler, a library; used through its C interface. PyPI: nvidia-cuda-nvrtc.

    It needs the headers of nvidia-cuda-runtime and nvidia-cuda-cccl in the same folder.
    """

    library: Path

    @cached_property
    def name(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"NVRTC {major.value}.{minor.value}"

    @cached_property
    def architectures(self) -> list[str]:
        """The architectures it makes machine code for, oldest first."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        return [f"sm_{number}" for number in sorted(numbers)]

    def compile(self, source: str, arch: str, layers: Mapping[str, str], fast_math: bool = False) -> bytes:
        """A cubin of `source`. Raises NetcError E0712 with the kernel at fault, E0710 where headers are missing."""
        include = self.library.parents[1] / "include"
        headers = {"cuda_runtime.h": "nvidia-cuda-runtime", "cccl": "nvidia-cuda-cccl"}
        missing = [package for file, package in headers.items() if not (include / file).exists()]
        if missing:
            raise NetcError("E0710", f"{self.name} lacks the headers of {' and '.join(missing)}", INSTALL)
        options = [f"--gpu-architecture={arch}", f"--include-path={include}", f"--include-path={include / 'cccl'}"]
        options += ["--use_fast_math"] if fast_math else []
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            if self._library.nvrtcCompileProgram(program, len(options), array):
                log = self._bytes(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
                raise _refused(self.name, arch, source, log, layers)
            return self._bytes(program, "nvrtcGetCUBIN")
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, getter: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(getter + "Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._call(getter, program, data)
        return data.raw

    @cached_property
    def _library(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.library))

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            reason = self._library.nvrtcGetErrorString(status).decode()
            raise NetcError("E0710", f"{function} failed: {reason}", INSTALL)


def _refused(compiler: str, arch: str, source: str, log: str, layers: Mapping[str, str]) -> NetcError:
    """The error for a compiler's refusal: its first complaint, the kernel it is about and the layers of that kernel."""
    complaints = [line for line in log.splitlines() if re.search(r"\berror\b|fatal", line)] or log.splitlines() or [""]
    kernel = None
    if named := re.search(r"[Ee]ntry function '(\w+)'", log):
        kernel = named[1]
    elif place := re.search(r"\((\d+)\): (?:catastrophic )?error", log):
        above = "\n".join(source.splitlines()[:int(place[1])])
        kernels = re.findall(r"__global__[^;{]*?(\w+)\([^()]*\) \{", above)
        kernel = kernels[-1] if kernels else None
    about = f"kernel `{kernel}`" if kernel else "the program"
    made_of = f" (made of {layers[kernel]})" if kernel in layers else ""
    return NetcError("E0712", f"{compiler} refuses {about}{made_of} for {arch}: {complaints[0].strip()}",
                     "this is a limit or a mistake of the generated code, not of your network; "
                     "another --target may work")
