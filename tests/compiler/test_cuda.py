"""CUDA: the generic schedule, machine code for each architecture, loading and running, and what goes wrong."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler import cuda, dims, lower, toolkit
from compiler.build import Builder
from compiler.ir import Graph, Node, TensorType
from compiler.kernels import with_kernels
from compiler.schedule.cuda import emit
from runtime import cuda as loading
from runtime.errors import NetcError
from runtime.format import size
from tests.compiler import emulator

ROOT = Path(__file__).parents[2]
N = dims.symbol("N")


def program():
    """Kernels through an arena, both forms of reductions, every kind: conv + bias + relu read by five others."""
    graph = Graph()
    b = Builder(graph)
    x = b.input("x", TensorType("f32", (N, 3, 9, 9)), "input")
    for name, shape in (("w", (8, 3, 3, 3)), ("bias", (8,))):
        graph.add(Node(name, "parameter", (), TensorType("f32", shape), {}))
    y = b.op("relu", b.op("conv", x, b.value("w"), b.value("bias"), kernel=(3, 3), stride=(2, 1), dilation=(1, 1),
                          groups=1, pad=((1, 1), (0, 1))))
    flat = b.op("reshape", y, shape=(N, 8 * 5 * 8))
    graph.outputs |= {
        "channels": b.op("sum", y, axes=(0, 2, 3), keepdims=False).name,
        "rows": b.op("max", flat, axes=(1,), keepdims=False).name,
        "best": b.op("argmax", flat, axes=(1,), keepdims=False).name,
        "width": b.op("sum", y, axes=(3,), keepdims=False).name,
        "total": b.op("mean", b.op("mul", y, y), axes=(0, 1, 2, 3), keepdims=False).name,
    }
    return graph


def expected(x, w, bias):
    n = len(x)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2]
    y = np.maximum(np.einsum("nchwij,ocij->nohw", windows, w) + bias[:, None, None], 0)
    return {"channels": y.sum((0, 2, 3)), "rows": y.reshape(n, -1).max(1), "best": y.reshape(n, -1).argmax(1),
            "width": y.sum(3), "total": (y * y).mean()}


@pytest.fixture(scope="module")
def built():
    emulator.compiler_or_skip()
    graph = with_kernels(program())
    lowering = lower.Lowering(emit, lower.layout([graph]))
    entry = lowering.program("run", graph, batch=64)
    return entry, lowering.slots, cuda.build(lowering.module, ["sm_80", "sm_90"])


@pytest.fixture(scope="module")
def machine(built, tmp_path_factory):
    """A folder with the program and the environment of a machine with an sm_86 GPU."""
    emulator.gpu_or_skip()
    folder = tmp_path_factory.mktemp("machine")
    module = built[2]
    (folder / "host.o").write_bytes(module.host_object)
    (folder / "kernels.json").write_text(json.dumps(module.functions))
    for arch, binary in module.binaries.items():
        (folder / f"kernels.{arch}.cubin").write_bytes(binary)
    return folder, emulator.build(folder, module.source, "sm_86")


def start(machine, call, arrays, arch="sm_86"):
    folder, environment = machine
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "call.json").write_text(json.dumps(call | {"arrays": list(arrays)}))
    environment = environment | {"EMULATED_ARCH": arch.removeprefix("sm_")}
    done = subprocess.run([sys.executable, "-P", str(Path(emulator.__file__).parent / "run.py"), str(folder)],
                          env=environment, capture_output=True, text=True, check=False)
    return done, lambda name: np.load(folder / f"{name}.npy")


def arguments(entry, slots, n):
    """Arrays for a call with batch n, and what the program must make of them."""
    rng = np.random.default_rng(n)
    # Small whole numbers: many equal maxima, of which the first must be found.
    x, w, bias = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((n, 3, 9, 9), (8, 3, 3, 3), (8,)))
    arrays = {a["name"]: np.full([size(d, {"N": n}) for d in a["shape"]] or [1], 77, a["dtype"])
              for a in entry["arguments"]}
    arrays["x"] = x
    arrays["parameters"] = np.zeros(max(s.offset + s.bytes for s in slots.values()), np.uint8)
    for name, value in (("w", w), ("bias", bias)):
        slot = slots[name]
        arrays["parameters"][slot.offset:slot.offset + slot.bytes] = value.ravel().view(np.uint8)
    return arrays, expected(x, w, bias)


@pytest.mark.parametrize("n", [1, 5, 70])
def test_any_batch_computes_what_numpy_does(built, machine, n):
    entry, slots, _ = built
    arrays, want = arguments(entry, slots, n)
    arena = size(entry["arena"], {"N": n})
    assert arena >= n * 8 * 5 * 8 * 4
    done, read = start(machine, {"program": entry, "arena": arena, "range": [0, len(entry["kernels"])]}, arrays)
    assert done.returncode == 0, done.stderr
    for name, value in want.items():
        np.testing.assert_allclose(read(name).reshape(value.shape), value, rtol=1e-6)


def test_results_of_a_part_of_the_kernels_can_be_seen(built, machine):
    entry, slots, _ = built
    arrays, want = arguments(entry, slots, 2)
    done, read = start(machine, {"program": entry, "arena": size(entry["arena"], {"N": 2}), "range": [0, 1]}, arrays)
    assert done.returncode == 0, done.stderr
    result = entry["kernels"][0]["results"][0]
    start_of = size(result["offset"], {"N": 2})
    y = read("arena")[start_of:start_of + 2 * 8 * 5 * 8 * 4].view(np.float32).reshape(2, 8, 5, 8)
    np.testing.assert_array_equal(y.sum(3), want["width"])
    assert (read("width") == 77).all()


def test_too_large_for_the_gpu(built, machine):
    entry, slots, _ = built
    arrays, _ = arguments(entry, slots, 1)
    environment = machine[1] | {"EMULATED_MEMORY": "1000"}
    arena = size(entry["arena"], {"N": 1})
    done, _ = start((machine[0], environment), {"program": entry, "arena": arena, "range": [0, 1]}, arrays)
    assert done.stderr.startswith("error[E0723]: `run` of test needs 3,736 bytes on the GPU for N = 1"), done.stderr


def test_a_gpu_that_no_binary_fits(built, machine):
    entry, slots, _ = built
    arrays, _ = arguments(entry, slots, 1)
    done, _ = start(machine, {"program": entry, "arena": 1, "range": [0, 1]}, arrays, arch="sm_120")
    assert done.stderr.startswith(
        "error[E0721]: this artifact holds CUDA code for sm_80, sm_90; this machine's GPU is sm_120"), done.stderr


def test_machine_code_for_each_architecture(built):
    _, _, module = built
    assert set(module.binaries) == {"sm_80", "sm_90"}
    assert set(module.functions) == {f"kernel{i}" for i in range(len(module.functions))} and len(module.functions) >= 5
    for arch, binary in module.binaries.items():
        assert binary[:4] == b"\x7fELF" and int.from_bytes(binary[18:20], "little") == 190  # EM_CUDA
        assert f"sm_{binary[49]}" == arch  # ELF flags, second byte
        for name in module.functions:
            assert f".text.{name}\0".encode() in binary


def test_cuobjdump_reads_the_machine_code(built, tmp_path):
    tool = toolkit.find("cuobjdump") or next(iter(Path("/usr/local").glob("cuda*/bin/cuobjdump")), None)
    if tool is None:
        pytest.skip("cuobjdump is not installed")
    for arch, binary in built[2].binaries.items():
        (tmp_path / f"k.{arch}.cubin").write_bytes(binary)
        out = subprocess.run([tool, "-res-usage", str(tmp_path / f"k.{arch}.cubin")], capture_output=True, text=True, check=True)
        assert all(name in out.stdout + out.stderr for name in built[2].functions)


def test_one_block_an_output_for_long_reductions_only(built):
    _, _, module = built
    kernels = module.source.split('extern "C" __global__')[1 + len(module.functions):]
    assert sum("__shared__" in k for k in kernels) == 5  # channels, rows, best, total, and the tiles of conv; not width


def test_functions_say_how_kernels_are_launched(built):
    for function in built[2].functions.values():
        assert function["launch"] == ["blockIdx.x", "threadIdx.x"]
        assert function["args"][-1] == "int64" and set(function["args"][:-1]) == {"handle"}


def test_unknown_and_old_architectures_are_named(built):
    module = lower.Lowering(emit, {}).module
    for arch, message in (("sm_20", "too old"), ("sm_999", "does not know"), ("ampere", "not a GPU architecture")):
        with pytest.raises(NetcError) as caught:
            cuda.build(module, ["sm_90", arch])
        assert caught.value.code == "E0711" and message in caught.value.message and "sm_90" in caught.value.hint


def test_no_compiler_says_how_to_install_one(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": "/nonexistent"})
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(NetcError) as caught:
        cuda.find_compiler()
    assert caught.value.code == "E0710" and "pip install -e '.[cuda]'" in caught.value.hint


def test_a_refused_kernel_is_named_with_its_layers():
    compiler = emulator.compiler_or_skip()
    good = 'extern "C" __global__ void one(float* x) {\n  x[0] = 1;\n}\n'
    for bad in ('extern "C" __global__ void two(float* x) {\n  x[0] = undefined_name;\n}\n',
                'extern "C" __global__ void two(float* x) {\n  __shared__ float s[99999];\n  s[threadIdx.x] = x[0];\n'
                '  __syncthreads();\n  x[threadIdx.x] = s[threadIdx.x + 1];\n}\n'):
        with pytest.raises(NetcError) as caught:
            compiler.compile(good + bad, compiler.architectures[0], {"two": "conv1, relu1"})
        assert caught.value.code == "E0712" and "kernel `two` (made of conv1, relu1)" in caught.value.message


def test_nvrtc_makes_the_same_kernels(built):
    libraries = [lib for folder in toolkit.packages() for lib in folder.glob("lib/libnvrtc.so.*")]
    if not libraries:
        pytest.skip("NVRTC from PyPI is not installed (the extra `cuda`)")
    nvrtc = cuda.Nvrtc(libraries[0])
    assert "sm_90" in nvrtc.architectures
    binary = nvrtc.compile(built[2].source, "sm_90", {})
    assert all(f".text.{name}\0".encode() in binary for name in built[2].functions)
    with pytest.raises(NetcError, match="kernel `two` \\(made of fc\\)"):
        nvrtc.compile('extern "C" __global__ void two(float* x) {\n  x[0] = y;\n}\n', "sm_90", {"two": "fc"})


def test_binary_is_chosen_by_compatibility():
    held = ["sm_80", "sm_86", "sm_90", "sm_100"]
    assert [loading.choose_binary(held, gpu) for gpu in ("sm_80", "sm_89", "sm_90", "sm_103")] == [
        "sm_80", "sm_86", "sm_90", "sm_100"]
    for gpu in ("sm_75", "sm_120"):
        with pytest.raises(NetcError, match="this machine's GPU is " + gpu):
            loading.choose_binary(held, gpu)


def test_a_machine_without_gpu_says_so_in_one_line(monkeypatch):
    def no_driver(name, *_):
        raise OSError(name)
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    with pytest.raises(NetcError) as caught:
        loading.gpu_arch(["sm_80", "sm_90"])
    assert caught.value.code == "E0720" and "\n" not in caught.value.message
    assert "sm_80, sm_90" in caught.value.message and "no NVIDIA GPU" in caught.value.message


def test_a_missing_runtime_library_says_how_to_install_it(monkeypatch):
    def missing(name, *_):
        raise OSError(name)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(NetcError) as caught:
        loading.load_runtime()
    assert caught.value.code == "E0722" and "libcudart.so.13" in caught.value.message
