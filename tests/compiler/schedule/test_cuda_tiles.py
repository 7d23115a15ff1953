"""Tiles of products on GPUs: never beyond the hardware, filling it where a product is small, faster on what is faster."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.gpus import GPUS, STATIC_SHARED, WARP
from compiler.schedule.cuda_tiles import BYTES, REGISTERS, Gemm, choose, rank, together

A100 = GPUS["sm_80"]
# GoogLeNet's modules (Szegedy et al., table 1): input channels, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
MODULES = {14: [(480, 192, 96, 208, 16, 48, 64), (512, 160, 112, 224, 24, 64, 64), (512, 128, 128, 256, 24, 64, 64),
                (512, 112, 144, 288, 32, 64, 64), (528, 256, 160, 320, 32, 128, 128)],
           7: [(832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128)]}


@st.composite
def gemms(draw):
    dtype = draw(st.sampled_from(sorted(BYTES)))
    taps, run = draw(st.sampled_from([1, 9, 25])), draw(st.integers(1, 600))
    groups = draw(st.sampled_from([1, 1, 2, 32]))
    return Gemm(draw(st.integers(1, 50000)), draw(st.integers(1, 3000)), taps * run, groups, dtype, run)


@settings(max_examples=60, deadline=None)
@given(gemms(), st.sampled_from(sorted(GPUS)), st.sampled_from([1, 20, None]))
def test_no_tile_is_beyond_the_hardware(gemm, arch, sms):
    gpu = GPUS[arch]
    if gemm.dtype != "f32" and gemm.dtype not in gpu.tensor:
        with pytest.raises(ValueError, match="no tensor cores"):
            choose(gemm, gpu, sms)
        return
    tiles = rank(gemm, gpu, sms)
    assert 1 <= len(tiles) <= 3 and list(tiles) == sorted(tiles, key=lambda tile: tile.seconds)
    for tile in tiles:
        registers = tile.registers
        assert registers <= (REGISTERS if gemm.dtype == "f32" else 255)
        assert tile.threads % WARP == 0 and tile.threads <= 256 and tile.shared <= STATIC_SHARED
        assert gpu.resident(tile.threads, registers, tile.shared) >= 1
        assert tile.m % tile.thread_m == 0 and tile.n % tile.thread_n == 0 and tile.k * BYTES[gemm.dtype] >= 32
        assert 1 <= tile.split <= max(1, tile.steps(gemm) * tile.split // 2)
        assert tile.seconds > 0
        if gemm.dtype == "f32":
            rows, columns = tile.warp
            assert rows * columns == WARP and tile.m % (rows * tile.thread_m) == tile.n % (columns * tile.thread_n) == 0
            loads = (tile.thread_m + tile.thread_n) / 4
            assert tile.thread_m * tile.thread_n / loads >= 6


@settings(max_examples=25, deadline=None)
@given(gemms(), st.sampled_from(sorted(GPUS)))
def test_no_product_is_predicted_faster_than_the_hardware(gemm, arch):
    gpu = GPUS[arch]
    rate = gpu.flops if gemm.dtype == "f32" else gpu.tensor.get(gemm.dtype)
    if rate:
        assert choose(gemm, gpu).seconds >= max(gemm.flops / rate, gemm.bytes / gpu.bandwidth) * 0.999


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 2000), st.sampled_from(sorted(GPUS)))
def test_more_work_is_not_faster(m, n, k, arch):
    seconds = choose(Gemm(m, n, k), GPUS[arch]).seconds
    for more in (Gemm(4 * m, n, k), Gemm(m, 4 * n, k), Gemm(m, n, 4 * k), Gemm(m, n, k, 4)):
        assert choose(more, GPUS[arch]).seconds >= 0.99 * seconds


def test_large_products_come_near_the_peak():
    for gemm, gpu in ((Gemm(4096, 4096, 4096), A100), (Gemm(64 * 56 * 56, 64, 576, run=64, first=64 * 56 * 56 * 64 * 4), A100)):
        assert gemm.flops / choose(gemm, gpu).seconds > 0.75 * gpu.flops
    assert Gemm(4096, 4096, 4096).flops / choose(Gemm(4096, 4096, 4096, dtype="f16"), A100).seconds > 0.6 * A100.tensor["f16"]


def test_larger_products_take_larger_tiles_and_no_split():
    small, large = choose(Gemm(49, 128, 1200), A100), choose(Gemm(4096, 4096, 4096), A100)
    assert small.split > 1 and large.split == 1
    assert small.m * small.n < large.m * large.n and small.threads < large.threads


@pytest.mark.parametrize(("size", "module"), [(size, module) for size, modules in MODULES.items() for module in modules])
def test_launches_of_inception_modules_fill_an_a100(size, module):
    channels, one, reduce3, three, reduce5, five, project = module
    m = size * size
    first = [Gemm(m, one + reduce3 + reduce5, channels), Gemm(m, project, channels)]
    second = [Gemm(m, three, 9 * reduce3, run=reduce3, first=4 * m * reduce3),
              Gemm(m, five, 25 * reduce5, run=reduce5, first=4 * m * reduce5)]
    for launch in (first, second):
        tiles = together(launch, A100)
        assert sum(tile.blocks(gemm) for tile, gemm in zip(tiles, launch)) >= A100.sms
        slowest = max(tile.seconds for tile in tiles)
        assert slowest < sum(choose(gemm, A100).seconds for gemm in launch)


def test_a_choice_takes_no_time():
    rank.cache_clear()
    choose(Gemm(1, 1, 1), A100)
    start = time.process_time()
    choose(Gemm(784, 128, 864, run=96), A100)
    assert time.process_time() - start < 0.2
