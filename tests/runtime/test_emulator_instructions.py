"""Tensor-core and copy instructions (compiler/cuda_instructions.h) as the emulator runs them, against numpy."""


import numpy as np
import pytest

from tests.runtime.emulated import Kernels, needs_emulator

pytestmark = needs_emulator


def bfloat16(values):
    """float32 → the upper 16 bits of each, as uint16; for values that bfloat16 holds."""
    return (np.asarray(values, "f4").view("u4") >> 16).astype("u2")


# The lanes fetch their fragments as the PTX ISA's tables say (row and column of a_i, b_i and c_i), each by its own words.
MMA = """void {name}(float* d, {type}* a, {type}* b) {{
  float r[4];
  {type} x[{na}];
  {type} y[{nb}];
  int lane = threadIdx.x, group = lane >> 2, inside = lane % 4;
  for (int i = 0; i < 4; ++i) r[i] = d[(i < 2 ? group : group + 8) * 8 + inside * 2 + (i & 1)];
  for (int i = 0; i < {na}; ++i) {{
    int row = {row_of_a}, column = {column_of_a};
    x[i] = a[row * {k} + column];
  }}
  for (int i = 0; i < {nb}; ++i) {{
    int row = {row_of_b};
    y[i] = b[row * 8 + group];
  }}
  netc_{name}(r, x, y);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + inside * 2 + (i & 1)] = r[i];
}}"""
K16 = {"k": 16, "na": 8, "nb": 4,
       "row_of_a": "(i == 0 || i == 1 || i == 4 || i == 5) ? group : group + 8",
       "column_of_a": "i < 4 ? inside * 2 + (i & 1) : inside * 2 + (i & 1) + 8",
       "row_of_b": "i < 2 ? inside * 2 + (i & 1) : inside * 2 + (i & 1) + 8"}
SHAPES = {
    "mma_m16n8k16_f16": {"type": "half", **K16},
    "mma_m16n8k16_bf16": {"type": "nv_bfloat16", **K16},
    "mma_m16n8k8_f16": {"type": "half", "k": 8, "na": 4, "nb": 2, "row_of_a": "i < 2 ? group : group + 8",
                        "column_of_a": "inside * 2 + (i & 1)", "row_of_b": "inside * 2 + i"},
    "mma_m16n8k8_tf32": {"type": "float", "k": 8, "na": 4, "nb": 2,
                         "row_of_a": "(i == 0 || i == 2) ? group : group + 8",
                         "column_of_a": "i < 2 ? inside : inside + 4", "row_of_b": "i == 0 ? inside : inside + 4"},
}
LDMATRIX = """void ldmatrix_x{n}{trans}(half* out, half* in) {{
  __shared__ alignas(16) half tile[512];
  half got[8];
  for (int i = 0; i < 16; ++i) tile[threadIdx.x * 16 + i] = in[threadIdx.x * 16 + i];
  __syncthreads();
  // Rows in no order, to see that each lane's address counts.
  netc_ldmatrix_x{n}{trans}(got, &tile[(threadIdx.x * 13 + 5) % 32 * 16 + threadIdx.x % 2 * 8]);
  for (int i = 0; i < 2 * {n}; ++i) out[threadIdx.x * 8 + i] = got[i];
}}"""
COPIES = """void copies(float* out, float* in) {
  extern __shared__ __align__(64) uchar dynamic[];
  float* held = (float*)dynamic;
  for (int i = 0; i < 4; ++i) held[threadIdx.x * 4 + i] = -1.0f;
  netc_cp_async_16(held + threadIdx.x * 4, threadIdx.x == 9 ? nullptr : in + threadIdx.x * 4,
                   threadIdx.x == 9 ? 0 : threadIdx.x == 10 ? 8 : 16);
  netc_cp_async_commit();
  netc_cp_async_8(held + 128 + threadIdx.x * 2, in + threadIdx.x * 2, 8);
  netc_cp_async_commit();
  netc_cp_async_4(held + 192 + threadIdx.x, in + threadIdx.x, 4);
  netc_cp_async_wait(1);
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = held[(31 - threadIdx.x) * 4 + i];
  netc_cp_async_wait_all();
  __syncthreads();
  out[128 + threadIdx.x] = held[128 + 63 - threadIdx.x] + held[192 + 31 - threadIdx.x];
}"""
LATE = """void late(float* out, float* in) {
  __shared__ float held[32];
  held[threadIdx.x] = -1.0f;
  netc_cp_async_4(&held[threadIdx.x], &in[threadIdx.x], 4);
  netc_cp_async_commit();
  out[threadIdx.x] = held[threadIdx.x];
  netc_cp_async_wait(0);
  out[threadIdx.x + 32] = held[threadIdx.x];
}"""
TYPES = """void types(half* h, nv_bfloat16* b, float* f) {
  half4 four = *(half4*)(h + threadIdx.x * 4);
  nv_bfloat162 two = *(nv_bfloat162*)(b + threadIdx.x * 2);
  *(float4*)(f + threadIdx.x * 4) = make_float4((float)four.x + 1.0f, (float)four.y, (float)four.z, (float)four.w);
  four.x = four.x * four.y + four.z;
  four.y = ((half)(((float)four.y) + 0.1f));
  four.z = hexp(four.z) + max(four.w, four.x);
  *(half4*)(h + threadIdx.x * 4) = four;
  two.x = two.x * two.y;
  two.y = ((nv_bfloat16)(((float)two.y) + 0.1f));
  *(nv_bfloat162*)(b + threadIdx.x * 2) = two;
}"""
TF32 = "void tf32(float* values) { values[threadIdx.x] = netc_tf32(values[threadIdx.x]); }"
# Each block writes a part; the last of them to come adds all parts, in their order.
LAST = """void last(float* out, float* parts, unsigned* counter) {
  parts[blockIdx.x * 32 + threadIdx.x] = (float)(blockIdx.x * 32 + threadIdx.x);
  if (netc_last_block(counter, gridDim.x)) {
    float sum = 0.0f;
    for (int i = 0; i < gridDim.x; ++i) sum += parts[i * 32 + 31 - threadIdx.x];
    out[threadIdx.x] = sum;
  }
}"""
SHUFFLES = """void shuffles(float* out, float* in) {
  float mine = in[threadIdx.x];
  out[threadIdx.x] = __shfl_sync(0xffffffff, mine, 3);
  out[threadIdx.x + 32] = __shfl_xor_sync(0xffffffff, mine, 5, 32);
  out[threadIdx.x + 64] = __shfl_down_sync(0xffffffff, mine, 4, 16);
  out[threadIdx.x + 96] = __shfl_up_sync(0xffffffff, mine, 1, 8);
}"""


@pytest.fixture(scope="module")
def kernels():
    return Kernels(*(MMA.format(name=name, **shape) for name, shape in SHAPES.items()),
                   *(LDMATRIX.format(n=n, trans=trans) for n in (1, 2, 4) for trans in ("", "_trans")),
                   COPIES, TYPES, TF32, LAST, SHUFFLES)


@pytest.mark.parametrize("name", SHAPES)
def test_mma(kernels, name):
    k, kind = SHAPES[name]["k"], SHAPES[name]["type"]
    rng = np.random.default_rng(1)
    a, b, d = (rng.integers(-8, 9, shape).astype("f4") / 4 for shape in ((16, k), (k, 8), (16, 8)))
    pack = {"half": lambda x: x.astype("f2"), "nv_bfloat16": bfloat16, "float": lambda x: x}[kind]
    (out, *_) = kernels.run(name, d, pack(a), pack(b))
    np.testing.assert_array_equal(out, d + a @ b)


def test_tf32_multiplies_what_the_upper_bits_say(kernels):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(16, 8)).astype("f4"), rng.normal(size=(8, 8)).astype("f4")
    cut = [(x.view("u4") & 0xffffe000).view("f4").astype("f8") for x in (a, b)]
    (out, *_) = kernels.run("mma_m16n8k8_tf32", np.zeros((16, 8), "f4"), a, b)
    np.testing.assert_allclose(out, cut[0] @ cut[1], rtol=0, atol=1e-5)
    assert abs(out - a @ b).max() > 1e-4


@pytest.mark.parametrize("trans", ["", "_trans"])
@pytest.mark.parametrize("matrices", [1, 2, 4])
def test_ldmatrix(kernels, matrices, trans):
    tile = np.arange(512).astype("f2").reshape(32, 16)
    lanes = np.arange(32)
    rows = np.stack([tile[(lane * 13 + 5) % 32, lane % 2 * 8:][:8] for lane in lanes]).reshape(4, 8, 8)
    if trans:
        rows = rows.swapaxes(1, 2)
    (out, _) = kernels.run(f"ldmatrix_x{matrices}{trans}", np.full((32, 4, 2), -1, "f2"), tile)
    for m in range(4):
        wanted = rows[m][lanes // 4].reshape(32, 4, 2)[lanes, lanes % 4] if m < matrices else -1
        np.testing.assert_array_equal(out[:, m], wanted)


def test_copies_arrive_with_their_group(kernels):
    given = np.arange(1, 129).astype("f4")
    (out, _) = kernels.run("copies", np.zeros(160, "f4"), given, dynamic=1024)
    wanted = given.reshape(32, 4).copy()
    wanted[9], wanted[10, 2:] = 0, 0
    np.testing.assert_array_equal(out[:128].reshape(32, 4), wanted[::-1])
    np.testing.assert_array_equal(out[128:], given[63 - np.arange(32)] + given[31 - np.arange(32)])


def test_a_copy_that_nobody_waited_for_has_not_arrived():
    (out, _) = Kernels(LATE, check=False).run("late", np.zeros(64, "f4"), np.arange(32).astype("f4"))
    np.testing.assert_array_equal(out, [*[-1] * 32, *range(32)])


def test_sixteen_bit_floats(kernels):
    rng = np.random.default_rng(2)
    h = rng.normal(size=(32, 4)).astype("f2")
    b = (bfloat16(rng.normal(size=(32, 2)).astype("f4")).astype("u4") << 16).view("f4")
    (got_h, got_b, f) = kernels.run("types", h, bfloat16(b), np.zeros((32, 4), "f4"))
    x, y, z, w = h.T
    first = (x * y) + z
    np.testing.assert_array_equal(f, np.stack([x.astype("f4") + 1, y, z, w], 1))
    np.testing.assert_array_equal(got_h[:, 0], first)
    np.testing.assert_array_equal(got_h[:, 1], (y.astype("f4") + np.float32(0.1)).astype("f2"))
    np.testing.assert_allclose(got_h[:, 2], np.exp(z) + np.maximum(w, first), rtol=2e-3)
    for got, exact in zip(got_b.T, (b[:, 0] * b[:, 1], b[:, 1] + np.float32(0.1))):
        bits = exact.view("u4")
        np.testing.assert_array_equal(got, (bits + 0x7fff + (bits >> 16 & 1)) >> 16)


def test_tf32_rounds_to_nearest(kernels):
    bits = np.array([0x3f800fff, 0x3f801000, 0x3f801001, 0xbf801000, 0x00001000, 0x7f7fffff, 0x7f800000, 0x12345678] * 4,
                    "u4")
    (out,) = kernels.run("tf32", bits.view("f4"))
    wanted = [0x3f800000, 0x3f802000, 0x3f802000, 0xbf802000, 0x00002000, 0x7f800000, 0x7f800000, 0x12346000] * 4
    np.testing.assert_array_equal(out.view("u4"), np.array(wanted, "u4"))


@pytest.mark.parametrize("order", ["forward", "reverse", "random:1"])
def test_the_last_block_sees_all_others(kernels, order):
    kernels.order(order)
    (out, _, counter) = kernels.run("last", np.zeros(32, "f4"), np.zeros(160, "f4"), np.zeros(1, "u4"), grid=5)
    kernels.order("forward")
    np.testing.assert_array_equal(out, np.arange(160).reshape(5, 32).sum(0)[::-1])
    assert counter[0] == 0


def test_shuffles(kernels):
    (out, given) = kernels.run("shuffles", np.zeros((4, 32), "f4"), np.arange(32).astype("f4"))
    lane = np.arange(32)
    np.testing.assert_array_equal(out[0], 3)
    np.testing.assert_array_equal(out[1], lane ^ 5)
    np.testing.assert_array_equal(out[2], np.where(lane % 16 < 12, lane + 4, lane))
    np.testing.assert_array_equal(out[3], np.where(lane % 8 > 0, lane - 1, lane))
