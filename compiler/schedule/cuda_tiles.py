"""How a matrix product is cut into blocks and threads of a GPU: candidates that fit the hardware, ranked by a model of
time.

The manner is Roller's (Zhu et al., OSDI 2022): tiles are aligned to what the hardware moves and computes at once
(warps, sectors and lines of memory, banks of shared memory, registers), so there are few, and the best is found by a
formula of traffic, waves and occupancy instead of by running them. Nothing is measured.

A convolution is a product too (implicit GEMM): m counts pixels of the batch, n output channels, k taps times channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

from compiler.gpus import REGISTERS_THREAD, STATIC_SHARED, WARP, Gpu, generation

REGISTERS = 128  # of a thread, at most; those of tensor cores may take all there are
WORD = 4  # bytes of an element in shared memory
VECTOR = 16  # bytes that a thread loads at once
LATENCY = 500.0  # clocks from a load of global memory to its data
BARRIER = 40.0  # clocks of a step's barrier and its waits
COPY = 14.0  # instructions of a thread that bring one vector from global to shared memory, addresses and bounds included
FRAGMENT = 15.0  # clocks of a load of shared memory that the unrolled loop does not hide from a lone warp
EXPOSED = 0.1  # of what should overlap does not

# Thread tiles of at least 6 multiply-adds a load of 16 bytes of shared memory; tiles of a warp for tensor cores.
_THREAD = ((4, 4), (4, 8), (8, 4), (8, 8))
_MMA_WARP = ((16, 16), (16, 32), (32, 16), (32, 32), (32, 64), (64, 32), (64, 64))
_M, _N, _SPLIT = (16, 32, 64, 128), (32, 64, 128), (1, 2, 3, 4, 6, 8, 12, 16)
_K = 8, 16, 32  # a sector of 32 bytes, up to a line of 128


@dataclass(frozen=True)
class Gemm:
    """`count` independent products [m, k] × [k, n] (the groups of a convolution).

    run: how many steps of k lie together in the first operand (channels of a tap), all of them by default. dtype: f32, or
    tf32 for tensor cores.
    """

    m: int
    n: int
    k: int
    count: int = 1
    dtype: str = "f32"
    run: int | None = None

    @property
    def bytes(self) -> int:
        """Of operands and result in memory, each once."""
        return self.count * (self.m * self.k + self.n * self.k + self.m * self.n) * WORD

    @property
    def flops(self) -> int:
        return 2 * self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Tile:
    """m, n, k: of a block and its step along k. thread_m, thread_n: of a thread, for tensor cores of a warp. split:
    blocks that share the sum of one tile of the result. seconds: predicted, without the launch."""

    m: int
    n: int
    k: int
    thread_m: int
    thread_n: int
    split: int = 1
    dtype: str = "f32"
    seconds: float = field(default=0.0, compare=False)

    @property
    def threads(self) -> int:
        return self.m * self.n // (self.thread_m * self.thread_n) * (1 if self.dtype == "f32" else WARP)

    @property
    def pad(self) -> int:
        """Words behind each row of a tile in shared memory. With 4, what is transposed on the way hits 32 different banks;
        with 8, so do a fragment's 8 rows of 4 k."""
        return 4 if self.dtype == "f32" else 8

    @property
    def words(self) -> int:
        """Of shared memory: the step that is multiplied, and the one that is loaded meanwhile."""
        return 2 * self.k * (self.m + self.n + 2 * self.pad)

    def blocks(self, gemm: Gemm) -> int:
        return gemm.count * -(-gemm.m // self.m) * -(-gemm.n // self.n) * self.split

    def steps(self, gemm: Gemm) -> int:
        """Steps of one block along k."""
        run = gemm.run or gemm.k
        return -(-(gemm.k // run * -(-run // self.k)) // self.split)

    @property
    def registers(self) -> int:
        """A bound on the registers of a thread: accumulators, two sets of fragments, what is on its way from global to
        shared memory, and addresses, of which a convolution has many."""
        moving = -(-(self.m + self.n) * self.k // self.threads)
        if self.dtype == "f32":
            return self.thread_m * self.thread_n + 2 * (self.thread_m + self.thread_n) + moving + 40
        return self.thread_m * self.thread_n // WARP + (self.thread_m + self.thread_n) // 2 + moving + 50


@lru_cache(maxsize=4096)
def rank(gemm: Gemm, gpu: Gpu, sms: int | None = None, count: int = 3) -> tuple[Tile, ...]:
    """The `count` best tiles, the one that is predicted to be the fastest first. sms: how many SMs the product has to
    itself, all by default. Sizes are numbers: symbols have to be replaced by the design batch's."""
    if gemm.dtype != "f32" and gemm.dtype not in gpu.tensor:
        raise ValueError(f"{gpu.arch} has no tensor cores for {gemm.dtype}")
    sms = sms or gpu.sms
    order = sorted((seconds, split, tile.blocks(gemm), -tile.k, number, tile)
                   for number, tile in enumerate(_candidates(gemm, gpu))
                   for split, seconds in _times(tile, gemm, gpu, sms))
    best: dict[tuple[int, ...], Tile] = {}
    for seconds, split, *_, tile in order:  # variants differ in more than their step or split
        shape = tile.m, tile.n, tile.thread_m, tile.thread_n
        if len(best) < count and shape not in best:
            best[shape] = replace(tile, split=split, seconds=seconds)
    return tuple(best.values())


def _candidates(gemm: Gemm, gpu: Gpu) -> Iterator[Tile]:
    """What fits the hardware: whole warps, whole vectors for each thread, banks, shared memory, registers."""
    tensor = gemm.dtype != "f32"
    most = REGISTERS_THREAD if tensor else REGISTERS
    least = WARP if gemm.m <= _M[0] and gemm.n <= _N[0] else 2 * WARP
    for m, n, (thread_m, thread_n) in product(_M, _N, _MMA_WARP if tensor else _THREAD):
        if m >= 2 * max(gemm.m, 16) or n >= 2 * max(gemm.n, 32) or m % thread_m or n % thread_n:
            continue
        rows, columns = m // thread_m, n // thread_n
        threads = rows * columns * (WARP if tensor else 1)
        if not least <= threads <= 256 or threads % WARP or not tensor and (rows % 4 or columns % 4):
            continue
        for k in _K:
            if any(v % threads and threads % v for v in (m * k * WORD // VECTOR, n * k * WORD // VECTOR)):
                continue
            tile = Tile(m, n, k, thread_m, thread_n, dtype=gemm.dtype)
            if tile.words * WORD <= STATIC_SHARED and tile.registers <= most and _fitting(tile, gpu):
                yield tile


def _fitting(tile: Tile, gpu: Gpu) -> int:
    """How many blocks are on an SM at once."""
    return gpu.resident(tile.threads, tile.registers, tile.words * WORD)


def _times(tile: Tile, gemm: Gemm, gpu: Gpu, sms: int) -> Iterator[tuple[int, float]]:
    """(parts, predicted seconds) for each sensible number of parts of the sum. The time is that of the slowest of memory,
    L2, and the SM that has most blocks; the two others overlap with it for the most part only."""
    tiles, all_steps = tile.blocks(gemm), tile.steps(gemm)
    fitting = _fitting(tile, gpu)
    result, part = tile.m * tile.n * WORD, sms / gpu.sms
    for split in _SPLIT:
        # Parts cost a second pass over the result: only where SMs would be idle, and each has a few steps.
        if split > 1 and (all_steps < 2 * split or tiles * split > 4 * sms):
            return
        blocks, steps = tiles * split, -(-all_steps // split)
        most = -(-blocks // sms)
        resident = min(fitting, most)
        step = max(tile.k * _clocks(tile, gpu, resident * tile.threads / WARP),
                   resident * (tile.m + tile.n) * tile.k * WORD / 32.0, LATENCY + BARRIER)
        last = LATENCY + resident * result / 32.0
        if split > 1:  # partial sums go to memory, the last block of a tile reads all of them
            last += 2 * LATENCY + resident * result / 32.0 + split * result / 64.0
        sm = -(-most // resident) * (LATENCY + steps * step + last) / gpu.clock
        partial = 2 * split * gemm.count * gemm.m * gemm.n * WORD if split > 1 and gemm.bytes > gpu.l2 else 0
        read = blocks * ((tile.m + tile.n) * tile.k * steps * WORD + result * (2 if split > 1 else 1))
        times = sm, (gemm.bytes + partial) / (gpu.bandwidth * part), read / (gpu.l2_bandwidth * part)
        yield split, max(times) + EXPOSED * (sum(times) - max(times))


def _clocks(tile: Tile, gpu: Gpu, warps: float) -> float:
    """Clocks of an SM for one step of k (of 1) of all its warps: arithmetic and issue, reads of shared memory, and at
    least what one warp needs by itself."""
    copies = COPY * (tile.m + tile.n) * WORD / VECTOR / tile.threads
    if tile.dtype == "f32":
        products, loads = tile.thread_m * tile.thread_n, (tile.thread_m + tile.thread_n) / 4
        # Half of the copies' instructions are integer products, which take the pipe of multiply-adds.
        alone = max((products + copies / 2) * 4 * WARP / gpu.fma, products + loads + 1 + copies)
        shared = loads * 2.0
    else:
        # Hopper's and Blackwell's full rate takes other instructions than mma.sync.
        rate = gpu.tensor[tile.dtype] / (2 * gpu.sms * gpu.clock) * (0.6 if generation(gpu.arch) in (90, 100) else 0.9)
        alone = max(tile.thread_m * tile.thread_n * 4 / rate, copies)
        shared = (tile.thread_m + tile.thread_n) * WORD / 128.0
    issue, reads = warps / 4 * alone, warps * shared
    return max(issue, reads, alone + FRAGMENT) + 2 * EXPOSED * min(issue, reads)
