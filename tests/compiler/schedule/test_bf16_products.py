"""Instructions that multiply bf16, which few machines have: the code is looked at, and its values are those of a
build in which the instructions are emulated."""

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tvm.script.ir_builder import tirx as T

import netc
from compiler import backend, cost, programs, target
from compiler.backend import choose
from compiler.initialize import initialize
from compiler.schedule import cpu_bf16_dot, cpu_bf16_tiles
from compiler.schedule.cpu_bf16_dot import emit_dot_conv
from compiler.schedule.cpu_bf16_tiles import emit_tiled_conv
from compiler.target import CPUS
from runtime.execute import Executable
from tests.compiler.passes.test_choose_precision import computed
from tests.compiler.schedule.blocked import HOST, N, PLAIN, Case, Compiled, Layout, assert_matches, bf16, f32
from tests.compiler.schedule.test_blocked import convolutions

LANES = 16
FEW = settings(max_examples=5, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture])

# c + a[even] * b[even] + a[odd] * b[odd] in each lane, without the instruction.
EMULATED_DOT = """
define linkonce_odr <16 x float> @netc_dot(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %p = shl <16 x i32> %a, splat (i32 16)
  %q = shl <16 x i32> %b, splat (i32 16)
  %r = and <16 x i32> %a, splat (i32 -65536)
  %s = and <16 x i32> %b, splat (i32 -65536)
  %pf = bitcast <16 x i32> %p to <16 x float>
  %qf = bitcast <16 x i32> %q to <16 x float>
  %rf = bitcast <16 x i32> %r to <16 x float>
  %sf = bitcast <16 x i32> %s to <16 x float>
  %low = fmul <16 x float> %pf, %qf
  %high = fmul <16 x float> %rf, %sf
  %both = fadd <16 x float> %low, %high
  %sum = fadd <16 x float> %c, %both
  ret <16 x float> %sum
}
"""

# Tile registers as the SDM describes them: what is configured bounds every load, product and store; else `faults` counts.
TILES = r"""
#include <stdint.h>
#include <string.h>
static uint16_t width[8]; static uint8_t height[8]; static int configured;
static uint8_t tile[8][16][64];
int emulated_faults, emulated_products;
static void check(int holds) { if (!holds) emulated_faults++; }
void emulated_ldtilecfg(const uint8_t *c) {
  check(c[0] == 1);
  for (int i = 1; i < 16; i++) check(c[i] == 0);
  for (int i = 0; i < 8; i++) {
    width[i] = c[16 + 2 * i] | c[17 + 2 * i] << 8; height[i] = c[48 + i];
    check(width[i] > 0 && width[i] <= 64 && width[i] % 4 == 0 && height[i] > 0 && height[i] <= 16);
  }
  memset(tile, 0xff, sizeof tile);
  configured = 1;
}
void emulated_tilerelease(void) { check(configured); configured = 0; }
void emulated_tilezero(int8_t t) { check(configured); memset(tile[t], 0, sizeof tile[t]); }
void emulated_tileloadd64(int8_t t, const char *from, int64_t stride) {
  check(configured);
  memset(tile[t], 0xff, sizeof tile[t]);
  for (int i = 0; i < height[t]; i++) memcpy(tile[t][i], from + i * stride, width[t]);
}
void emulated_tilestored64(int8_t t, char *to, int64_t stride) {
  check(configured);
  for (int i = 0; i < height[t]; i++) memcpy(to + i * stride, tile[t][i], width[t]);
}
static float wide(const uint8_t *p) { uint32_t b = (p[0] | p[1] << 8u); b <<= 16; float f; memcpy(&f, &b, 4); return f; }
void emulated_tdpbf16ps(int8_t c, int8_t a, int8_t b) {
  check(configured && height[c] == height[a] && width[c] == width[b] && height[b] * 4 == width[a]);
  for (int m = 0; m < height[c]; m++)
    for (int n = 0; n < width[c] / 4; n++) {
      float sum; memcpy(&sum, &tile[c][m][4 * n], 4);
      for (int k = 0; k < width[a] / 4; k++)
        sum += wide(&tile[a][m][4 * k]) * wide(&tile[b][k][4 * n]) + wide(&tile[a][m][4 * k + 2]) * wide(&tile[b][k][4 * n + 2]);
      memcpy(&tile[c][m][4 * n], &sum, 4);
    }
  emulated_products++;
}
"""


def cpu(kind: str, **changes):
    """A CPU with lanes and registers of one that multiplies bf16, and the instructions of this machine."""
    return replace(CPUS["sapphirerapids"], llvm=HOST.llvm, bf16=kind, **changes)


def by_pairs(case: Case) -> Case:
    """The same case with operands and result in bf16, and pairs of inputs together."""
    return replace(case, types=(bf16(*case.types[0].shape), bf16(*case.types[1].shape), *case.types[2:]),
                   layouts=(case.layouts[0], Layout(LANES, 0, pair=2), *case.layouts[2:]))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """The emulated tile registers, whose functions code may call."""
    if not shutil.which("gcc"):
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "tiles.c").write_text(TILES)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", folder / "tiles.so", folder / "tiles.c"], check=True)
    return ctypes.CDLL(str(folder / "tiles.so"), ctypes.RTLD_GLOBAL)


@pytest.fixture
def calls(emulator, monkeypatch):
    monkeypatch.setattr(cpu_bf16_tiles, "instruction", lambda name, *arguments: T.evaluate(
        T.call_extern("void", f"emulated_{name}", *arguments)))
    yield emulator
    assert ctypes.c_int.in_dll(emulator, "emulated_faults").value == 0
    assert ctypes.c_int.in_dll(emulator, "emulated_products").value > 0


@pytest.fixture
def dots(monkeypatch):
    monkeypatch.setattr(cpu_bf16_dot, "DOT", EMULATED_DOT)


def fits(case: Case) -> None:
    assume(case.attrs["groups"] == 1 and case.types[1].shape[1] % 2 == 0)


@FEW
@given(case=convolutions(lanes=LANES), batch=st.sampled_from([1, 16]))
def test_sums_of_two_products(dots, case, batch):
    fits(case)
    assert_matches(by_pairs(case), emit_dot_conv, cpu("dot"), batch, 1e-4)


@FEW
@given(case=convolutions(lanes=LANES), batch=st.sampled_from([1, 16]), cores=st.sampled_from([2, 3]))
def test_products_of_tiles(calls, case, batch, cores):
    fits(case)
    machine = replace(cpu("tiles"), llvm={**HOST.llvm, "num-cores": cores})
    assert_matches(by_pairs(case), emit_tiled_conv, machine, batch, 1e-4)


SHAPES = [  # inputs, outputs, height, width, window, stride
    (32, 64, 14, 14, 3, 1), (480, 16, 14, 14, 1, 1), (48, 48, 7, 7, 1, 1), (24, 80, 7, 7, 3, 1), (2, 16, 9, 40, 3, 2),
    (112, 32, 28, 28, 1, 1), (16, 32, 6, 56, 5, 1), (30, 16, 5, 33, 1, 2),
]


@pytest.mark.parametrize("inputs, outputs, height, width, k, stride", SHAPES)
def test_shapes_of_networks(calls, inputs, outputs, height, width, k, stride):
    """Odd numbers of blocks and of tiles, bands of rows, inputs that are no multiple of 32, several lanes of a
    block."""
    pad = k // 2
    attrs = dict(kernel=(k, k), stride=(stride, stride), dilation=(1, 1), pad=((pad, pad),) * 2, groups=1)
    blocked = Layout(LANES, 1, (pad,) * 4) if inputs % LANES == 0 else PLAIN
    case = Case("conv", attrs, (bf16(N, inputs, height, width), bf16(outputs, inputs, k, k), f32(outputs)),
                (blocked, Layout(LANES, 0, pair=2), PLAIN), Layout(LANES), relu=True)
    assert_matches(case, emit_tiled_conv, cpu("tiles", l2=1 << 14), tolerance=1e-4)


def test_the_emulator_notices_a_wrong_configuration(calls, monkeypatch):
    right = cpu_bf16_tiles._Tiles._configure
    monkeypatch.setattr(cpu_bf16_tiles._Tiles, "_configure", lambda self, settings, slot, positions: right(
        replace(self, chunk=self.chunk * 2), settings, slot, positions))
    faults = ctypes.c_int.in_dll(calls, "emulated_faults")
    case = Case("conv", dict(kernel=(1, 1), stride=(1, 1), dilation=(1, 1), pad=((0, 0),) * 2, groups=1),
                (bf16(N, 32, 5, 5), bf16(16, 32, 1, 1)), (Layout(LANES), Layout(LANES, 0, pair=2)), Layout(LANES))
    compiled = Compiled(case, emit_tiled_conv, cpu("tiles"))
    compiled.run([np.ones((1, 32, 5, 5)), np.ones((16, 32, 1, 1))])
    assert faults.value > 0
    faults.value = 0


# --- the code ---------------------------------------------------------------------------------------------------------

def assembly(kind: str, name: str, template) -> str:
    case = Case("conv", dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pad=((1, 1),) * 2, groups=1),
                (bf16(N, 64, 14, 14), bf16(64, 64, 3, 3), f32(64)),
                (Layout(LANES, 1, (1, 1, 1, 1)), Layout(LANES, 0, pair=2), PLAIN), Layout(LANES))
    return Compiled(case, template, CPUS[name]).source("asm")


def test_pairs_are_broadcast_from_memory_and_sums_stay_in_registers():
    text = assembly("dot", "cooperlake", emit_dot_conv)
    products = re.findall(r"\tvdpbf16ps\t.*", text)
    assert len(products) >= 24 and "netc_dot" not in re.sub(r"\.\w+.*netc_dot.*", "", text)
    assert not any("%rsp" in product for product in products), "a spilled sum"


def test_two_tiles_of_positions_times_two_of_outputs():
    text = assembly("tiles", "sapphirerapids", emit_tiled_conv)
    for word, least in (("ldtilecfg", 1), ("tileloadd", 4), ("tdpbf16ps", 4), ("tilestored", 4), ("tilerelease", 1)):
        assert len(re.findall(rf"\t{word}\t?", text)) >= least, word


# --- whole nets -------------------------------------------------------------------------------------------------------

NET = """lang 1

net x() {
  input x: f32[N, 3, 22, 22]
  a = x -> conv(32, 3x3) -> relu
  b = a -> conv(32, 3x3, pad = 1) -> relu -> max_pool(2x2)
  c = b -> conv(16) -> relu
  d = b -> max_pool(3x3, stride = 1, pad = 1) -> conv(48) -> relu
  output y = concat(c, d) -> conv(16, 3x3, stride = 2) -> relu -> flatten -> dense(10) -> softmax
}
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "x.net").write_text(NET)
    return netc.load(tmp_path / "x.net")


@pytest.mark.parametrize("name, feature", [("cpu:sapphirerapids", "amx_bf16"), ("cpu:cooperlake", "avx512_bf16")])
def test_a_net_is_compiled_for_cpus_that_multiply_bf16(net, name, feature):
    """Weights in pairs, no convolution by other algorithms, and the features a machine must have in the manifest."""
    options = replace(choose(name).options(1), precision="bf16", check=True)
    graph = programs.build(net.program, ["run"], options)["run"]
    assert [graph.layouts[n.inputs[1]].pair for n in graph.sorted() if n.op == "conv"] == [1, 2, 2, 2, 2]
    assert feature in net.build(target=name, precision="bf16").manifest["target"]["features"]


@pytest.mark.parametrize("kind", ["dot", "tiles"])
def test_a_whole_net_computes_what_the_interpreter_does(net, kind, monkeypatch, request):
    request.getfixturevalue({"dot": "dots", "tiles": "calls"}[kind])
    monkeypatch.setitem(target.BF16, kind, set())  # nothing is asked of this machine
    monkeypatch.setattr(backend, "parse_cpu", lambda text: cpu(kind))
    monkeypatch.setenv("NETC_CACHE", "0")
    values, x = initialize(net.graph, 0), np.random.default_rng(0).standard_normal((3, 3, 22, 22)).astype("f4")
    options = replace(choose("cpu").options(1), precision="bf16")
    want = computed(programs.build(net.program, ["run"], options), {"x": x}, values)["y"]
    artifact = net.build(params=values, precision="bf16")
    exe = Executable(artifact)
    for batch in (1, 3):
        np.testing.assert_allclose(exe(x=x[:batch])["y"], want[:batch], rtol=0, atol=2e-3)


def test_the_cost_model_knows_what_is_faster(net):
    graph = programs.run(net.graph, programs.Options(precision="bf16", block=LANES, low=8.0))
    convs = [n for n in graph.sorted() if n.op == "conv"]
    conv = max(convs, key=lambda n: cost.seconds(graph, [n], cost.MACHINES["cpu"], 64))
    slow, fast = (cost.seconds(graph, [conv], replace(cost.MACHINES["cpu"], low=low), 64) for low in (1.0, 8.0))
    assert fast < slow / 2


def test_a_convolution_by_pairs_is_no_other_algorithm(tmp_path):
    (tmp_path / "x.net").write_text("lang 1\n\nnet x() {\n  input x: f32[N, 32, 56, 56]\n"
                                    "  output y = x -> conv(32, 3x3, pad = 1) -> relu -> conv(32, 3x3)\n}\n")
    source = netc.load(tmp_path / "x.net").graph
    for low, algorithm in ((1.0, "winograd_conv"), (2.0, "conv")):
        graph = programs.run(source, programs.Options(precision="bf16", block=LANES, low=low, check=True))
        assert algorithm in {n.op for n in graph.nodes()}
        assert (low == 1.0) == any(n.op == "winograd_conv" for n in graph.nodes())
