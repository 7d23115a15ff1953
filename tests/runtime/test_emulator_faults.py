"""Faults planted in kernels that use tensor cores, asynchronous copies, dynamic shared memory, and order between blocks."""

import re
import shutil

import numpy as np
import pytest

from tests.runtime.emulated import Kernels, needs_emulator

pytestmark = needs_emulator

# c[16, 16] = a[16, 64] · b[64, 16] in steps of 16 with two buffers: the first warp brings a, the second b.
PRODUCT = """void product(float* c, half* a, half* b) {
  extern __shared__ __align__(16) uchar memory[];
  half* tile = (half*)memory;
  float d[4];
  half x[8];
  half y[4];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = 0; i < 4; ++i) d[i] = 0.0f;
  for (int step = -1; step < 4; ++step) {
    if (step + 1 < 4) {
      half* to = tile + (step + 1) % 2 * 512 + warp * 256 + lane * 8;
      half* from = warp ? b + ((step + 1) * 16 + lane / 2) * 16 + lane % 2 * 8 : a + lane / 2 * 64 + (step + 1) * 16 + lane % 2 * 8;
      netc_cp_async_16(to, from, 16);
    }
    netc_cp_async_commit();
    if (step < 0) continue;
    netc_cp_async_wait(1);
    __syncthreads();
    half* now = tile + step % 2 * 512;
    netc_ldmatrix_x4(x, now + lane % 16 * 16 + lane / 16 * 8);
    netc_ldmatrix_x2_trans(y, now + 256 + lane % 16 * 16 + warp * 8);
    netc_mma_m16n8k16_f16(d, x, y);
    if (step < 3) __syncthreads();
  }
  float* out = c + lane / 4 * 16 + warp * 8 + lane % 4 * 2;
  *(float2*)(out + 0) = make_float2(d[0], d[1]);
  *(float2*)(out + 128) = make_float2(d[2], d[3]);
}"""
A_COPY = "netc_cp_async_16(to, from, 16)"
A_ROW = "now + lane % 16 * 16 + lane / 16 * 8"
IN_PRODUCT = {  # name: (what is replaced, by what, what the fault says)
    "no wait": ("netc_cp_async_wait(1);", "", "a cp.async of thread .* has not been waited for"),
    "a wait for too few": ("netc_cp_async_wait(1)", "netc_cp_async_wait(2)", "has not been waited for"),
    "no commit": ("netc_cp_async_commit();", "", "has not been waited for"),
    "no barrier behind the wait": ("wait(1);\n    __syncthreads();", "wait(1);",
                                   "race in shared memory|nobody wrote|has not been waited for"),
    "only the own warp waits": ("wait(1);\n    __syncthreads();", "wait(1);\n    __syncwarp();",
                                "race in shared memory|nobody wrote|has not been waited for"),
    "no barrier before the next copy": ("    if (step < 3) __syncthreads();\n", "",
                                         "race in shared memory|has not been waited for"),
    "one buffer instead of two": ("(step + 1) % 2 * 512", "0", "race in shared memory|has not been waited for"),
    "a copy is read at once": (A_COPY, A_COPY + "; d[0] += (float)to[0]", "has not been waited for"),
    "a store where a copy is on its way": (A_COPY, A_COPY + "; to[3] = (half)0.0f",
                                           "writes shared memory that a cp.async of thread"),
    "two copies to one place": ("warp * 256 + lane * 8;", "warp * 256 + lane / 2 * 8;", "has not been waited for|race in shared memory"),
    "a copy to a misaligned place": (A_COPY, "netc_cp_async_16(to + 4, from, 16)", "misaligned address, 8 behind"),
    "a copy from a misaligned place": (A_COPY, "netc_cp_async_16(to, from + 1, 16)", "misaligned address by cp.async"),
    "a copy from behind the tensor": ("a + lane / 2 * 64", "a + (lane / 2 + 1) * 64",
                                      "reads global memory out of bounds: .* of 2048"),
    "a copy behind the dynamic memory": ("(step + 1) % 2 * 512", "(step + 1) * 512",
                                         "writes shared memory out of bounds: .* of 2048"),
    "a copy to global memory": (A_COPY, "netc_cp_async_16(c + threadIdx.x * 4, from, 16)", "memory that is not shared"),
    "a copy of more than there is": (A_COPY, "netc_cp_async_16(to, from, 32)", "copies 32 of 16 bytes"),
    "a misaligned row": (A_ROW, A_ROW + " + 4", "reads 16 bytes at a misaligned address, 8 behind"),
    "a row behind the dynamic memory": (A_ROW, A_ROW + " + 512", "reads shared memory out of bounds|nobody wrote|been waited for"),
    "a row in global memory": (A_ROW, "a + lane * 8", "reads a row of a matrix that is not in shared memory"),
    "half of a warp loads a matrix": ("    netc_ldmatrix_x4", "    if (lane < 16) netc_ldmatrix_x4", "deadlock"),
    "half of a warp multiplies": ("    netc_mma", "    if (lane < 16) netc_mma", "deadlock|divergent"),
    "lanes do different things": ("    netc_mma_m16n8k16_f16(d", "    if (lane < 16) netc_mma_m16n8k16_bf16(d, x, y); else "
                                  "netc_mma_m16n8k16_f16(d", "deadlock"),
    "a barrier in one warp": ("    netc_mma", "    if (warp) __syncthreads();\n    netc_mma", "divergent barrier"),
    "a misaligned pair": ("lane % 4 * 2;", "lane % 4 * 2 + 1;", "a vector at a misaligned address, 4 behind a multiple of 8"),
    "a result behind the tensor": ("(out + 128)", "(out + 144)", "writes global memory out of bounds|race in global memory"),
    "a misaligned vector": ("  float* out", "  netc_copy_16(c + threadIdx.x * 4 + 1, d);\n  float* out",
                            "writes 16 bytes at a misaligned address, 4 behind"),
}
# What computes something else without touching anything that it may not.
WRONG = {
    "rows of a in another order": (A_ROW, "now + lane / 2 * 16 + lane % 2 * 8"),
    "b not transposed": ("ldmatrix_x2_trans", "ldmatrix_x2"),
    "the other type": ("netc_mma_m16n8k16_f16", "netc_mma_m16n8k16_bf16"),
    "fragments exchanged": ("(d, x, y)", "(d, y, x)"),
    "a part of each copy is cut off": (A_COPY, "netc_cp_async_16(to, from, 12)"),
}

# Each block writes its part; the last one to come adds them all.
PARTS = """void parts(float* out, float* parts, unsigned* counter) {
  __shared__ unsigned came[1];
  parts[blockIdx.x * 64 + threadIdx.x] = (float)(blockIdx.x * 64 + threadIdx.x);
  __syncthreads();  // before
  if (threadIdx.x == 0) {
    __threadfence();  // before
    came[0] = atomicAdd(counter, 1u);
    __threadfence();  // behind
  }
  __syncthreads();  // behind
  if (came[0] == gridDim.x - 1) {
    float sum = 0.0f;
    for (int i = 0; i < gridDim.x; ++i) sum += parts[i * 64 + 63 - threadIdx.x];
    out[threadIdx.x] = sum;
  }
}"""
IN_PARTS = {
    "no fence before": ("    __threadfence();  // before\n", "", "race in global memory"),
    "no fence behind": ("    __threadfence();  // behind\n", "", "race in global memory"),
    "no barrier before": ("  __syncthreads();  // before\n", "", "race in global memory"),
    "no barrier behind": ("  __syncthreads();  // behind\n", "", "race in shared memory|nobody wrote"),
    "a block too early": ("gridDim.x - 1)", "gridDim.x - 2)", "race in global memory"),
    "no atomic": ("atomicAdd(counter, 1u)", "(*counter)++", "race in global memory"),
    "all threads count": ("  if (threadIdx.x == 0) {", "  {", "race in shared memory"),
    "the counter out of bounds": ("atomicAdd(counter, 1u)", "atomicAdd(counter + 1, 1u)", "out of bounds"),
}
ORDERS = ("forward", "reverse", "random", "random:5")


def variants(right, *tables):
    """The kernel, and one for each entry of the tables: `what` replaced in it, by name."""
    name = re.match(r"void (\w+)", right)[1]
    found = [right]
    for number, (what, by, *_) in enumerate((entry for table in tables for entry in table.values()), 1):
        assert right.count(what) == 1, what
        found.append(right.replace(what, by).replace(f"void {name}(", f"void {name}{number}("))
    return found


@pytest.fixture(scope="module")
def kernels():
    return Kernels(*variants(PRODUCT, IN_PRODUCT, WRONG), *variants(PARTS, IN_PARTS))


RNG = np.random.default_rng(0)
A, B = (RNG.integers(-4, 5, shape).astype("f2") for shape in ((16, 64), (64, 16)))


def product(kernels, name):
    found = kernels.run(name, np.zeros((16, 16), "f4"), A, B, block=64, dynamic=2048)
    return found if isinstance(found, str) else found[0]


def parts(kernels, name):
    found = kernels.run(name, np.zeros(64, "f4"), np.zeros(320, "f4"), np.zeros(1, "u4"), grid=5, block=64)
    return found if isinstance(found, str) else found[0]


@pytest.mark.parametrize("order", ORDERS)
def test_right_kernels_compute_the_same_in_every_order(kernels, order):
    kernels.order(order)
    np.testing.assert_array_equal(product(kernels, "product"), A.astype("f4") @ B.astype("f4"))
    np.testing.assert_array_equal(parts(kernels, "parts"), np.arange(320).reshape(5, 64).sum(0)[::-1])


@pytest.mark.parametrize("run, table, name", [
    *((product, IN_PRODUCT, name) for name in IN_PRODUCT), *((parts, IN_PARTS, name) for name in IN_PARTS)])
def test_a_planted_fault_is_found(kernels, run, table, name):
    kernel = f"{run.__name__}{1 + list(table).index(name)}"
    for order in ORDERS:
        kernels.order(order)
        found = run(kernels, kernel)
        assert isinstance(found, str), (order, found)
        assert found.startswith(f"kernel `{kernel}`: ") and re.search(table[name][2], found), (order, found)
        assert re.search(r"thread \(\d+, 0, 0\) of block \(\d, 0, 0\)", found), found
    if shutil.which("addr2line"):
        right = PRODUCT if run is product else PARTS
        line = kernels.line(found).strip()
        assert line in right or table[name][1].strip() in line or line in table[name][1], line


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_fragment_is_a_wrong_result(kernels, name):
    kernels.order("forward")
    found = product(kernels, f"product{1 + len(IN_PRODUCT) + list(WRONG).index(name)}")
    assert isinstance(found, np.ndarray), found
    assert not np.array_equal(found, A.astype("f4") @ B.astype("f4"))


def test_a_warp_that_is_not_whole_has_no_tensor_core():
    whole = "void whole(float* d) { float r[4]; float a[4]; float b[2]; netc_mma_m16n8k8_tf32(r, a, b); d[0] = r[0]; }"
    assert "less than 32 threads" in Kernels(whole).run("whole", np.zeros(4, "f4"), block=16)


def test_neighbours_in_a_word_are_no_race():
    text = """void {}(half* out) {{
  __shared__ half held[64];
  held[threadIdx.x {}] = (half)1.0f;
  __syncthreads();
  out[threadIdx.x] = held[threadIdx.x{}];
}}"""
    kernels = Kernels(text.format("right", "", ""), text.format("wrong", "/ 2", " / 2"))
    np.testing.assert_array_equal(kernels.run("right", np.zeros(64, "f2"), block=64)[0], 1)
    assert "race in shared memory" in kernels.run("wrong", np.zeros(64, "f2"), block=64)


def test_processes_share_the_blocks_of_a_long_launch():
    text = """void {}(float* out, float* in) {{
  float sum = 0.0f;
  for (int i = 0; i < 20000; ++i) sum += in[(i + threadIdx.x) % 64];
  out[{} + threadIdx.x] = sum;
}}"""
    kernels = Kernels(text.format("long_right", "blockIdx.x * 64"), text.format("long_wrong", "blockIdx.x % 63 * 64"))
    kernels.library.emulator_processes(2)
    numbers = np.arange(64).astype("f4")
    out, _ = kernels.run("long_right", np.zeros((64, 64), "f4"), numbers, grid=64, block=64)
    assert (out == out[0]).all() and abs(out[0, 0] - 20000 * 31.5) < 1000
    assert "race in global memory" in kernels.run("long_wrong", np.zeros((64, 64), "f4"), numbers, grid=64, block=64)
