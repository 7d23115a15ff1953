"""How a matrix product is cut into blocks and threads of a GPU: candidates that fit the hardware, ranked by a model of time.

The manner is Roller's (Zhu et al., OSDI 2022): tiles are aligned to what the hardware moves and computes at once (warps,
sectors and lines of memory, banks of shared memory, registers), so there are few, and the best is found by a formula of
traffic, waves and occupancy instead of by running them. Nothing is measured.

A convolution is a product too (implicit GEMM): m counts pixels of the batch, n output channels, k taps times channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

from compiler.gpus import STATIC_SHARED, WARP, Gpu, generation

REGISTERS = 128  # of a thread, at most; tensor-core kernels may take 255
VECTOR = 16  # bytes that a thread loads at once
PAD = 16  # bytes behind each row of a tile in shared memory, so that its columns lie in different banks
LATENCY = 500.0  # clocks from a load of global memory to its data
BARRIER = 40.0  # clocks of a step's barrier and its waits
COPY = 14.0  # instructions of a thread that bring one vector from global to shared memory, addresses and bounds included
FRAGMENT = 15.0  # clocks of a load of shared memory that the unrolled loop does not hide from a lone warp
EXPOSED = 0.1  # of what should overlap does not
MMA_K = {"f16": 16, "bf16": 16, "tf32": 8}  # mma.sync.m16n8k16, m16n8k8
BYTES = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2}

# Thread tiles of at least 6 multiply-adds a load of 16 bytes of shared memory; tiles of a warp for tensor cores.
_THREAD = ((4, 4), (4, 8), (8, 4), (8, 8))
_MMA_WARP = ((16, 16), (16, 32), (32, 16), (32, 32), (32, 64), (64, 32), (64, 64))
_M, _N, _SPLIT = (16, 32, 64, 128), (32, 64, 128), (1, 2, 3, 4, 6, 8, 12, 16)
_K = {4: (8, 16, 32), 2: (16, 32, 64)}  # by bytes of an element: a sector of 32 bytes, up to a line of 128


@dataclass(frozen=True)
class Gemm:
    """`count` independent products [m, k] × [k, n] (the groups of a convolution).

    run: how many steps of k lie together in the first operand (channels of a tap), all of them by default. dtype: of the
    operands, a key of BYTES; all but f32 run on tensor cores. first: bytes of the first operand in memory, where that is
    less than count·m·k elements (the taps of a convolution overlap).
    """

    m: int
    n: int
    k: int
    count: int = 1
    dtype: str = "f32"
    run: int | None = None
    first: int | None = None

    @property
    def bytes(self) -> int:
        """Of operands and result in memory, each once."""
        each = BYTES[self.dtype]
        first = self.count * self.m * self.k * each if self.first is None else self.first
        return first + self.count * self.n * (self.k + self.m) * each

    @property
    def flops(self) -> int:
        return 2 * self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Tile:
    """m, n, k: of a block and its step along k. thread_m, thread_n: of a thread, for tensor cores of a warp. split: blocks
    that share the sum of one tile of the result. stages: tiles of operands in shared memory at once. seconds: predicted,
    without the launch."""

    m: int
    n: int
    k: int
    thread_m: int
    thread_n: int
    split: int = 1
    stages: int = 2
    dtype: str = "f32"
    seconds: float = field(default=0.0, compare=False)

    @property
    def threads(self) -> int:
        return self.m * self.n // (self.thread_m * self.thread_n) * (1 if self.dtype == "f32" else WARP)

    @property
    def warp(self) -> tuple[int, int]:
        """How the threads of a warp lie over the tile: 4 × 8 or 8 × 4, so that they read at most 8 neighbouring vectors of
        each operand and never two of one bank. For tensor cores a warp is one."""
        if self.dtype != "f32":
            return 1, 1
        return (4, 8) if (self.n // self.thread_n) % 8 == 0 else (8, 4)

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.stages * self.k * ((self.m + self.n) * BYTES[self.dtype] + 2 * PAD)

    def blocks(self, gemm: Gemm) -> int:
        return gemm.count * -(-gemm.m // self.m) * -(-gemm.n // self.n) * self.split

    def steps(self, gemm: Gemm) -> int:
        """Steps of one block along k."""
        run = gemm.run or gemm.k
        return -(-(gemm.k // run * -(-run // self.k)) // self.split)

    @property
    def registers(self) -> int:
        """A bound on the registers of a thread: accumulators, two sets of fragments, what is on its way from global to shared
        memory (nothing for tensor cores, whose tiles are copied past the registers), and addresses, of which a convolution
        has many."""
        if self.dtype == "f32":
            moving = -(-(self.m + self.n) * self.k // self.threads)
            return self.thread_m * self.thread_n + 2 * (self.thread_m + self.thread_n) + moving + 40
        return self.thread_m * self.thread_n // WARP + (self.thread_m + self.thread_n) // 2 + 50


def choose(gemm: Gemm, gpu: Gpu, sms: int | None = None, shared: int = STATIC_SHARED) -> Tile:
    """The tile that is predicted to be the fastest. See `rank`."""
    return rank(gemm, gpu, sms, shared)[0]


@lru_cache(maxsize=4096)
def rank(gemm: Gemm, gpu: Gpu, sms: int | None = None, shared: int = STATIC_SHARED, count: int = 3) -> tuple[Tile, ...]:
    """The `count` best tiles, the fastest first. sms: how many SMs the product has to itself, all by default. shared: bytes
    of shared memory that a block may take. Sizes are numbers: symbols have to be replaced by the design batch's."""
    if gemm.dtype != "f32" and gemm.dtype not in gpu.tensor:
        raise ValueError(f"{gpu.arch} has no tensor cores for {gemm.dtype}")
    sms = sms or gpu.sms
    order = sorted((seconds, split, tile.blocks(gemm), -tile.k, number, tile)
                   for number, tile in enumerate(_candidates(gemm, gpu, min(shared, gpu.shared_block)))
                   for split, seconds in _times(tile, gemm, gpu, sms))
    best: dict[tuple[int, ...], Tile] = {}
    for seconds, split, *_, tile in order:  # variants differ in more than their step or split
        shape = tile.m, tile.n, tile.thread_m, tile.thread_n
        if len(best) < count and shape not in best:
            best[shape] = replace(tile, split=split, seconds=seconds)
    return tuple(best.values())


def together(gemms: Sequence[Gemm], gpu: Gpu, shared: int = STATIC_SHARED) -> list[Tile]:
    """Tiles of products that share one launch, each made for its part of the SMs. Parts begin in proportion to predicted
    time and are shifted twice to where it takes longest."""
    best = tiles = [choose(gemm, gpu, None, shared) for gemm in gemms]
    parts = [1.0 for _ in gemms]
    for number in range(3):
        parts = [part * tile.seconds for part, tile in zip(parts, tiles)]
        tiles = [choose(gemm, gpu, max(1, round(gpu.sms * part / sum(parts))), shared) for gemm, part in zip(gemms, parts)]
        if number == 0 or max(tile.seconds for tile in tiles) < max(tile.seconds for tile in best):
            best = tiles
    return best


def _candidates(gemm: Gemm, gpu: Gpu, shared: int) -> Iterator[Tile]:
    """What fits the hardware: whole warps, whole vectors for each thread, banks, shared memory, registers."""
    tensor, each = gemm.dtype != "f32", BYTES[gemm.dtype]
    most = REGISTERS if not tensor else 255 if gpu.async_copy else 200
    least = WARP if gemm.m <= _M[0] and gemm.n <= _N[0] else 2 * WARP
    for m, n, (thread_m, thread_n) in product(_M, _N, _MMA_WARP if tensor else _THREAD):
        if m >= 2 * max(gemm.m, 16) or n >= 2 * max(gemm.n, 32) or m % thread_m or n % thread_n:
            continue
        rows, columns = m // thread_m, n // thread_n
        threads = rows * columns * (WARP if tensor else 1)
        if not least <= threads <= 256 or threads % WARP or not tensor and (rows % 4 or columns % 4):
            continue
        for k in _K[each]:
            if any(v % threads and threads % v for v in (m * k * each // VECTOR, n * k * each // VECTOR)):
                continue
            for stages in (3, 2) if gpu.async_copy else (2,):
                tile = Tile(m, n, k, thread_m, thread_n, 1, stages, gemm.dtype)
                if tile.shared <= shared:
                    registers = tile.registers
                    if registers <= most and gpu.resident(threads, registers, tile.shared):
                        yield tile
                    break


def _times(tile: Tile, gemm: Gemm, gpu: Gpu, sms: int) -> Iterator[tuple[int, float]]:
    """(parts, predicted seconds) for each sensible number of parts of the sum. The time is that of the slowest of memory, L2,
    and the SM that has most blocks; the two others overlap with it for the most part only."""
    each, tiles, all_steps = BYTES[gemm.dtype], tile.blocks(gemm), tile.steps(gemm)
    fitting = gpu.resident(tile.threads, tile.registers, tile.shared)
    result, part = tile.m * tile.n * 4, sms / gpu.sms
    for split in _SPLIT:
        # Parts cost a second pass over the result: only where SMs would be idle, and each has a few steps.
        if split > 1 and (all_steps < 2 * split or tiles * split > 4 * sms):
            return
        blocks, steps = tiles * split, -(-all_steps // split)
        most = -(-blocks // sms)
        resident = min(fitting, most)
        step = max(tile.k * _clocks(tile, gpu, resident * tile.threads / WARP),
                   resident * (tile.m + tile.n) * tile.k * each / 32.0, LATENCY / (tile.stages - 1) + BARRIER)
        last = LATENCY + resident * result / 32.0
        if split > 1:  # partial sums go to memory, the last block of a tile reads all of them
            last += 2 * LATENCY + resident * result / 32.0 + split * result / 64.0
        sm = -(-most // resident) * (LATENCY + steps * step + last) / gpu.clock
        partial = 2 * split * gemm.count * gemm.m * gemm.n * 4 if split > 1 and gemm.bytes > gpu.l2 else 0
        read = blocks * ((tile.m + tile.n) * tile.k * steps * each + result * (2 if split > 1 else 1))
        times = sm, (gemm.bytes + partial) / (gpu.bandwidth * part), read / (gpu.l2_bandwidth * part)
        yield split, max(times) + EXPOSED * (sum(times) - max(times))


def _clocks(tile: Tile, gpu: Gpu, warps: float) -> float:
    """Clocks of an SM for one step of k (of 1) of all its warps: arithmetic and issue, reads of shared memory, and at least
    what one warp needs by itself."""
    copies = COPY * (tile.m + tile.n) * BYTES[tile.dtype] / VECTOR / tile.threads
    if tile.dtype == "f32":
        products, loads = tile.thread_m * tile.thread_n, (tile.thread_m + tile.thread_n) / 4
        # Half of the copies' instructions are integer products, which take the pipe of multiply-adds.
        alone = max((products + copies / 2) * 4 * WARP / gpu.fma, products + loads + 1 + copies)
        shared = loads * 2.0
    else:
        # Hopper's and Blackwell's full rate takes other instructions than mma.sync.
        rate = gpu.tensor[tile.dtype] / (2 * gpu.sms * gpu.clock) * (0.6 if generation(gpu.arch) in (90, 100) else 0.9)
        alone = max(tile.thread_m * tile.thread_n * 4 / rate, copies)
        shared = (tile.thread_m + tile.thread_n) * BYTES[tile.dtype] / 128.0
    return max(warps / 4 * alone, warps * shared, alone + FRAGMENT) + 2 * EXPOSED * min(warps / 4 * alone, warps * shared)
