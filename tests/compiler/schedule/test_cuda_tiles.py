"""Tiles of products on GPUs: never beyond the hardware, filling it where a product is small, faster on what is faster."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.gpus import GPUS, STATIC_SHARED, WARP
from compiler.schedule.cuda_tiles import REGISTERS, Gemm, rank

A100 = GPUS["sm_80"]


def choose(*product):
    return rank(*product)[0]


@st.composite
def gemms(draw):
    dtype = draw(st.sampled_from(["f32", "tf32"]))
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
        assert tile.threads % WARP == 0 and tile.threads <= 256 and 4 * tile.words <= STATIC_SHARED
        assert gpu.resident(tile.threads, registers, 4 * tile.words) >= 1
        assert tile.m % tile.thread_m == 0 and tile.n % tile.thread_n == 0 and tile.k >= 8
        assert 1 <= tile.split <= max(1, tile.steps(gemm) * tile.split // 2)
        assert tile.seconds > 0
        if gemm.dtype == "f32":
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
    for dtype, peak in (("f32", 0.75 * A100.flops), ("tf32", 0.6 * A100.tensor["tf32"])):
        gemm = Gemm(4096, 4096, 4096, dtype=dtype)
        assert gemm.flops / choose(gemm, A100).seconds > peak


def test_larger_products_take_larger_tiles_and_no_split():
    small, large = choose(Gemm(49, 128, 1200), A100), choose(Gemm(4096, 4096, 4096), A100)
    assert small.split > 1 and large.split == 1
    assert small.m * small.n < large.m * large.n and small.threads < large.threads


def test_a_choice_takes_no_time():
    rank.cache_clear()
    choose(Gemm(1, 1, 1), A100)
    start = time.process_time()
    choose(Gemm(784, 128, 864, run=96), A100)
    assert time.process_time() - start < 0.2
