"""Fast-math is off unless it is asked for, recorded where it was, and nothing for CPUs; what registers kernels are told."""

import json

import pytest

from compiler import cuda, toolkit
from compiler.artifact import code
from compiler.cubin import Usage
from netc.api import load
from tests.compiler.emulator import compiler_or_skip
from tests.netc.command import netc

NET = "net soft {\n  input x: f32[N, 40]\n  output y = x -> sigmoid -> softmax\n}\n"
DIVIDES = 'extern "C" __global__ void k(float* x, float y) { x[threadIdx.x] = __expf(x[threadIdx.x]) / y; }'


@pytest.fixture
def net(tmp_path):
    (tmp_path / "soft.net").write_text(NET)
    return tmp_path / "soft.net"


def test_the_switch_reaches_the_compiler(net):
    compiler_or_skip()
    program = load(net).program
    exact, fast = (code(program, "cuda:sm_90", **choice) for choice in ({}, {"fast_math": True}))
    assert exact[0]["target"]["fast_math"] is False and fast[0]["target"]["fast_math"] is True
    assert exact[1]["kernels.cu"] == fast[1]["kernels.cu"]
    assert exact[1]["kernels.sm_90.cubin"] != fast[1]["kernels.sm_90.cubin"]


def test_both_compilers_take_it():
    found = [compiler_or_skip()]
    found += [cuda.Nvrtc(library) for folder in toolkit.packages() for library in folder.glob("lib/libnvrtc.so.*")]
    for compiler in found:
        exact, fast = (compiler.compile(DIVIDES, "sm_80", {}, fast_math) for fast_math in (False, True))
        assert len(fast) < len(exact)  # a division of its own is a subroutine


def test_the_command_line(net, tmp_path):
    done = netc("compile", net, "--fast-math", "-o", tmp_path / "x.netb")
    assert done.code == 1 and done.err.startswith("error[E0705]") and "for GPUs" in done.err
    done = netc("compile", net, "--fast-math", "--target", "cuda-emulator", "-o", tmp_path / "x.netb")
    assert done.code == 0, done.err
    assert json.loads(netc("inspect", tmp_path / "x.netb", "--json").out)["target"]["fast_math"] is True
    assert "--fast-math" in netc("inspect", tmp_path / "x.netb").out


def test_a_fat_artifact_computes_exactly_on_the_cpu(net):
    compiler_or_skip()
    made = load(net).build("run", "cuda:sm_90", fast_math=True).manifest
    assert made["target"]["fast_math"] and "fast_math" not in made["halves"]["cpu"]["target"]


KERNEL = 'extern "C" __global__ void __launch_bounds__({}) {}(float* x)'
WITHOUT = {"large": Usage(134), "spills": Usage(64, 0, 8), "small": Usage(20)}


@pytest.mark.parametrize(("told", "bounds", "compilations"), [
    ({"256, 2": {"large": Usage(128), "spills": Usage(86)}}, {"large": "256, 2", "spills": "256, 2"}, 3),
    ({"256, 2": {"large": Usage(128, 0, 80), "spills": Usage(86)}}, {"spills": "256, 2"}, 5),
    ({"256, 2": {"large": Usage(128, 0, 2)}, "512": {"large": Usage(128), "spills": Usage(60)}},
     {"large": "512", "spills": "512"}, 4),
    ({}, {}, 4),
])
def test_bounds_are_kept_where_they_help(monkeypatch, told, bounds, compilations):
    source = "#define ONE 1\n" + "".join(KERNEL.format(256, name) + ";\n" for name in WITHOUT)
    source += "".join(KERNEL.format(256, name) + " {\n  x[0] = ONE;\n}\n" for name in WITHOUT)
    asked = []

    class Compiler:
        def compile(self, source, arch, layers, fast_math):
            asked.append(source)
            return source.encode()

    def taken(binary):
        text = binary.decode()
        held = {name: next((word for word in told if f"({word}) {name}(" in text), None)
                for name in WITHOUT if f"{name}(float* x) {{" in text}
        return {name: told[word].get(name, WITHOUT[name]) if word else WITHOUT[name] for name, word in held.items()}

    monkeypatch.setattr(cuda, "usage", taken)
    made = cuda._fitted(Compiler(), source, "sm_80", {}, False).decode()
    assert len(asked) == compilations
    assert all(text.startswith("#define ONE") and "small(" not in text for text in asked[1:len(asked) - bool(bounds)])
    for name in WITHOUT:
        assert made.count(f"__launch_bounds__({bounds.get(name, 256)}) {name}(") == 2


def test_registers_and_threads_are_read_from_the_source():
    bodies = {"tiled": (128, "  __shared__ float s[9];\n"), "tensor": (64, "  netc_mma_m16n8k16_f16(x);\n")}
    source = "".join(KERNEL.format(threads, name) + " {\n" + body + "}\n" for name, (threads, body) in bodies.items())
    assert [(k.name, k.threads, k.registers) for k in cuda._kernels(source)] == [("tiled", 128, 128), ("tensor", 64, 255)]
    told = [cuda.BOUNDS[0](kernel) for kernel in cuda._kernels(source)]
    assert told == ["__launch_bounds__(128, 4) ", "__launch_bounds__(64, 4) "]
