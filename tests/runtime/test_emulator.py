"""The emulated GPU: right kernels compute the same in every order of threads, and faults planted in them are found."""

import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from netc.cli import cli
from runtime.emulator import build
from runtime.emulator.device import Emulator, _order
from runtime.errors import NetcError
from runtime.execute import Executable
from runtime.format import Artifact, size, write
from tests.runtime.emulated import Kernels, needs_emulator
from tests.small import IMAGES, loaded, step_feeds

pytestmark = needs_emulator

# Each block sums 64 numbers: through shared memory, then over the lanes of a warp.
RIGHT = """{
  __shared__ float part[64];
  float local[2];
  part[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  local[0] = part[63 - (int)threadIdx.x];
  local[1] = threadIdx.x < 32 ? part[threadIdx.x + 32] : 0.0f;
  __syncthreads();
  part[threadIdx.x] = local[0];
  __syncthreads();
  float sum = part[threadIdx.x % 32] + part[threadIdx.x % 32 + 32];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
  if (threadIdx.x == 0) out[blockIdx.x] = sum + 0.0f * local[1];
}"""
BLOCKS = 3

PLANTED = {  # name: (what is replaced, by what, what the fault says)
    "first barrier dropped": ("  __syncthreads();\n  local[0]", "  local[0]", "race in shared memory|nobody wrote"),
    "second barrier dropped": ("  __syncthreads();\n  part[threadIdx.x] = local", "  part[threadIdx.x] = local",
                               "race in shared memory"),
    "third barrier dropped": ("  __syncthreads();\n  float sum", "  float sum", "race in shared memory"),
    "shared read one too far": ("part[63 - (int)threadIdx.x]", "part[64 - (int)threadIdx.x]",
                                "reads shared memory out of bounds: bytes 256 to 259 of 256"),
    "shared write one too early": ("part[threadIdx.x] = in", "part[(int)threadIdx.x - 1] = in",
                                   "writes shared memory out of bounds: bytes -4 to -1 of 256"),
    "global read one too far": ("in[blockIdx.x * 64 + threadIdx.x]", "in[blockIdx.x * 64 + threadIdx.x + 1]",
                                "reads global memory out of bounds: bytes 768 to 771 of 768"),
    "global read one too early": ("in[blockIdx.x * 64 + threadIdx.x]", "in[(int)(blockIdx.x * 64 + threadIdx.x) - 1]",
                                  "reads global memory out of bounds: bytes -4 to -1 of 768"),
    "global write one too far": ("out[blockIdx.x] =", "out[blockIdx.x + 1] =",
                                 "writes global memory out of bounds: bytes 12 to 15 of 12"),
    "a stride that leaves the array": ("in[blockIdx.x * 64", "in[blockIdx.x * 80", "reads global memory out of bounds"),
    "all threads write the result": ("if (threadIdx.x == 0) out", "out", "race in global memory"),
    "two threads write the result": ("if (threadIdx.x == 0) out", "if (threadIdx.x % 32 == 0) out",
                                     "race in global memory"),
    "all blocks write one result": ("out[blockIdx.x] =", "out[0] =", "race in global memory"),
    "a block reads what another writes": ("sum + 0.0f", "sum + out[(blockIdx.x + 1) % 3] + 0.0f",
                                          "race in global memory"),
    "two threads write one shared word": ("part[threadIdx.x] = in", "part[threadIdx.x / 2] = in",
                                          "race in shared memory"),
    "part of shared memory is not written": ("  part[threadIdx.x] = in",
                                             "  if (threadIdx.x != 7) part[threadIdx.x] = in",
                                             "reads shared memory that nobody wrote, byte 28 of 256"),
    "a barrier for half of the threads": ("  if (threadIdx.x == 0) out", "  if (threadIdx.x < 32) __syncthreads();\n"
                                          "  if (threadIdx.x == 0) out", "divergent barrier: .*has ended"),
    "different barriers": ("  __syncthreads();\n  float sum", "  if (threadIdx.x < 32)\n  __syncthreads();\n  else\n"
                           "  __syncthreads();\n  float sum", "divergent barrier: .* waits at line .* at line "),
    "a thread leaves before the barrier": ("  __syncthreads();\n  float sum", "  if (threadIdx.x == 9) return;\n"
                                           "  __syncthreads();\n  float sum", 
                                           "divergent barrier: .*thread .9, 0, 0. .*has ended"),
    "lanes miss a shuffle": ("  for (int lanes", "  if (threadIdx.x != 3) for (int lanes", "deadlock"),
    # Where it points to is chance: it may be called global, or shared where it lies near the stack's shared arrays.
    "a wild pointer": ("sum + 0.0f", "sum + ((float*)(3ull * blockDim.x))[5] + 0.0f", "reads (global|shared) memory out of bounds"),
    "a loop one too long": ("  local[1] =", "  for (int i = 0; i <= 64; ++i) local[1] = part[i];\n  local[1] +=",
                            "reads shared memory out of bounds"),
}


def library(*bodies, check=True):
    """Kernels k0, k1, … with these bodies, of (out, in)."""
    return Kernels(*(f"void k{i}(float* out, float* in) {body}" for i, body in enumerate(bodies)), check=check, header="")


def sums(kernels, number=0):
    """What a kernel makes of NUMBERS, or what the emulator found."""
    found = kernels.run(f"k{number}", np.zeros(BLOCKS, "f4"), NUMBERS, grid=BLOCKS, block=64)
    return found if isinstance(found, str) else found[0]


NUMBERS = np.random.default_rng(0).integers(-9, 10, BLOCKS * 64).astype(np.float32)
ORDERS = ("forward", "reverse", "random", "random:5")


@pytest.fixture(scope="module")
def planted():
    for what, _, _ in PLANTED.values():
        assert RIGHT.count(what) == 1, what
    return library(RIGHT, *(RIGHT.replace(what, by) for what, by, _ in PLANTED.values()))


@pytest.mark.parametrize("order", ORDERS)
def test_a_right_kernel_computes_the_same_in_every_order(planted, order):
    planted.order(order)
    np.testing.assert_array_equal(sums(planted), NUMBERS.reshape(BLOCKS, 64).sum(1))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(planted, name):
    kernel = 1 + list(PLANTED).index(name)
    for order in ORDERS:
        planted.order(order)
        found = sums(planted, kernel)
        assert isinstance(found, str), (order, found)
        assert found.startswith(f"kernel `k{kernel}`: ") and re.search(PLANTED[name][2], found), (order, found)
        assert re.search(r"thread \(\d+, 0, 0\) of block \(\d, 0, 0\)", found), found


def test_a_fault_does_not_disturb_the_next_launch(planted):
    planted.order("forward")
    assert isinstance(sums(planted, 2), str)
    np.testing.assert_array_equal(sums(planted), NUMBERS.reshape(BLOCKS, 64).sum(1))


def test_unwritten_memory_is_nan():
    replaced = RIGHT.replace("  local[1] = threadIdx.x < 32 ? part[threadIdx.x + 32] : 0.0f;\n", "")
    assert np.isnan(sums(library(replaced))).all()
    unwritten = RIGHT.replace("  part[threadIdx.x] = in", "  if (threadIdx.x != 7) part[threadIdx.x] = in")
    unchecked = library(RIGHT, unwritten, check=False)
    right, wrong = (sums(unchecked, kernel) for kernel in (0, 1))
    np.testing.assert_array_equal(right, NUMBERS.reshape(BLOCKS, 64).sum(1))
    assert np.isnan(wrong).all()


def test_no_compiler_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NetcError) as caught:
        build.compiler()
    assert caught.value.code == "E0740" and "apt install g++" in caught.value.hint
    monkeypatch.setenv("CXX", "no-such-compiler -O0")
    with pytest.raises(NetcError, match="no-such-compiler"):
        build.compiler()


def test_what_the_compiler_refuses_is_said():
    with pytest.raises(NetcError) as caught:
        library(RIGHT.replace("local[0]", "no_such_name", 1))
    assert caught.value.code == "E0741" and "kernels.cu:7" in caught.value.message, caught.value.message


@pytest.mark.parametrize("text", ["backwards", "forward:3", "random:x", ""])
def test_no_order(text):
    with pytest.raises(NetcError) as caught:
        _order(text)
    assert caught.value.code == "E0743"


def test_a_net_trains_as_on_the_cpu_with_all_checks(tmp_path, monkeypatch):
    monkeypatch.setenv("NETC_EMULATOR_CHECK", "1")
    monkeypatch.setenv("NETC_EMULATOR_ORDER", "random:3")
    net = loaded(tmp_path, IMAGES)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (6, 1, 5, 5)).astype("u1"), "kind": rng.integers(0, 3, 6).astype("i4")}
    losses = {}
    for target in ("cpu", "cuda-emulator"):
        exe = net.compile("train", target, seed=1)
        assert isinstance(exe._memory, Emulator) == (target != "cpu")
        losses[target] = [float(exe.call("step", step_feeds(exe, step, 0.01, **batch))["loss"]) for step in range(6)]
    np.testing.assert_allclose(losses["cuda-emulator"], losses["cpu"], rtol=0, atol=1e-4)
    assert losses["cpu"][-1] < losses["cpu"][0]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("net"), IMAGES).build("run", "cuda-emulator")


def planted_in(artifact, number, statement):
    """The artifact with a statement at the beginning of a kernel of `run`, and the line where it stands."""
    source = artifact.members["kernels.cu"].decode()
    name = artifact.manifest["programs"]["run"]["kernels"][number]["function"]
    start = source.index(") {\n", source.rindex(f" {name}(")) + 4
    wrong = f"{source[:start]}  {statement}\n{source[start:]}"
    return Artifact(artifact.manifest, {**artifact.members, "kernels.cu": wrong.encode()}), source.count("\n", 0, start) + 1


ONCE = "if (blockIdx.x == 0 && threadIdx.x == 0)"


@pytest.mark.parametrize("statement, what", [
    (f"{ONCE} p0[-1] = 1.0f;", r"thread \(0, 0, 0\) of block \(0, 0, 0\) writes global memory out of bounds: bytes -4 to -1 of "
     r"\d+ of `logits/"),
    (f"{ONCE} p0[100000] = 1.0f;", "writes global memory out of bounds"),
    (f"{ONCE} p1[0] = p0[1 << 12];", "reads global memory out of bounds"),
])
def test_a_fault_in_a_net_names_layer_tensor_and_line(deployed, monkeypatch, statement, what):
    monkeypatch.setenv("NETC_EMULATOR_CHECK", "1")
    assert not any(name.endswith(".cubin") for name in deployed.members)
    wrong, line = planted_in(deployed, 1, statement)
    exe = Executable(wrong)
    with pytest.raises(NetcError) as caught:
        exe(image=np.zeros((2, 1, 5, 5), "u1"))
    message = caught.value.message
    layers = deployed.manifest["programs"]["run"]["kernels"][1]["layers"]
    assert caught.value.code == "E0742" and layers and f"(layers {', '.join(layers)}): " in message, message
    assert re.search(what, message), message
    if shutil.which("addr2line"):
        assert f"kernels.cu, line {line}" in message, message


def test_an_index_that_leaves_a_tensor_but_not_the_arena_is_a_fault(deployed, monkeypatch):
    monkeypatch.setenv("NETC_EMULATOR_CHECK", "1")
    image = np.zeros((2, 1, 5, 5), "u1")
    kernels = deployed.manifest["programs"]["run"]["kernels"]
    # The kernel reads what the first one wrote into the arena, and writes behind it.
    read, written = (next(m for m in kernels[1]["memory"] if m["write"] == write) for write in (False, True))
    assert read["in"] == written["in"] == "arena" and size(written["offset"], {"N": 2}) >= size(read["bytes"], {"N": 2}) > 64
    Executable(deployed)(image=image)
    source = deployed.members["kernels.cu"].decode()
    body = source[source.rindex(f" {kernels[1]['function']}("):]
    pointer = re.search(r"(p\d+)\[[^;]* = ", body)[1]
    wrong, _ = planted_in(deployed, 1, f"{ONCE} {pointer}[-8] = 2.0f;")
    with pytest.raises(NetcError, match=f"writes global memory out of bounds: bytes -32 to -29 of .*{written['tensor']}"):
        Executable(wrong)(image=image)


def test_an_artifact_for_the_cpu_has_nothing_to_emulate(tmp_path):
    with pytest.raises(NetcError) as caught:
        Executable(loaded(tmp_path, IMAGES).build("run"), "cuda-emulator")
    assert caught.value.code == "E0744"


def test_verbs_choose_the_emulator(deployed, tmp_path):
    place = str(tmp_path / "tiny.netb")
    write(place, deployed.manifest, deployed.members)
    np.save(tmp_path / "image.npy", np.ones((1, 1, 5, 5), "u1"))
    given = ["run", place, "--input", f"image={tmp_path}/image.npy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETC_EMULATOR_CHECK", "0")  # so that the option's setting ends with the test
        plain, checked = (CliRunner().invoke(cli, [*given, "--device", "cuda-emulator", *more], standalone_mode=False)
                          for more in ([], ["--check"]))
    assert plain.output == checked.output and plain.output.startswith("p: float32[1, 3]"), (plain, checked)
    refused = CliRunner().invoke(cli, [*given, "--check"])
    assert refused.exit_code == 2 and "--check needs --device cuda-emulator" in refused.output
