"""GPUs as a table: what a kernel may take of a streaming multiprocessor (SM), and how fast each kind of work goes.

Limits are those of the CUDA C++ Programming Guide, "Compute Capabilities" (technical specifications of each);
SMs, clocks, tensor rates, memory and L2 those of one well-known card per architecture, from NVIDIA's data sheets and
architecture whitepapers (boost clock, dense rates, half types accumulated in f32).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

WARP = 32  # threads
LINE = 128  # bytes of a cache line; a warp that reads 32 consecutive floats takes one
BANKS = 32  # of shared memory, 4 bytes wide
REGISTERS_THREAD = 255  # at most; `REGISTERS_BLOCK` for one block
REGISTERS_BLOCK = 65536
THREADS_BLOCK = 1024
STATIC_SHARED = 48 << 10  # bytes that a block may declare; more must be asked for at the launch


@dataclass(frozen=True)
class Gpu:
    """One architecture, as the card `card`.

    threads, blocks, registers, shared: of an SM at once, shared in bytes; shared_block: bytes a block may have, opted in.
    fma: f32 multiply-adds of an SM in a clock; tensor: FLOP/s of tensor cores by type, where they have it. bandwidth:
    bytes/s of memory; l2: its cache in bytes. launch: seconds from one kernel's end to the next one's work, in a stream.
    """

    arch: str
    card: str
    sms: int
    clock: float
    fma: int
    threads: int
    blocks: int
    shared: int
    shared_block: int
    l2: int
    bandwidth: float
    tensor: Mapping[str, float] = field(hash=False)
    registers: int = 65536
    launch: float = 4e-6

    @cached_property
    def flops(self) -> float:
        """f32 FLOP/s without tensor cores."""
        return 2.0 * self.sms * self.fma * self.clock

    @cached_property
    def l2_bandwidth(self) -> float:
        """Bytes/s from L2: an SM takes 64 bytes a clock at most, and about half of it when all of them do."""
        return 32.0 * self.sms * self.clock

    @property
    def async_copy(self) -> bool:
        """Whether `cp.async` copies from global to shared memory, past the registers."""
        return generation(self.arch) >= 80

    def time(self, flops: float, bytes: float, dtype: str = "f32") -> float:
        """Predicted seconds of a kernel, by roofline (`compiler.cost.Machine.time`). dtype: what it multiplies, on tensor
        cores if it is a key of `tensor`."""
        return max(flops / self.tensor.get(dtype, self.flops), bytes / self.bandwidth) + self.launch

    def resident(self, threads: int, registers: int, shared: int) -> int:
        """How many blocks are on an SM at once, by the rules of the occupancy calculator: registers are given to warps 256
        at a time and to four warps at once, shared memory to blocks in units of 128 bytes (from sm_80 on with 1 KiB for the
        system). registers: of a thread; shared: bytes of a block. 0 where a block does not fit at all."""
        warps = -(-threads // WARP)
        own = -(-(shared + (1024 if self.async_copy else 0)) // 128) * 128
        each = -(-registers * WARP // 256) * 256
        if threads > THREADS_BLOCK or registers > REGISTERS_THREAD or shared > self.shared_block:
            return 0
        return min(self.blocks, self.threads // WARP // warps, self.shared // max(own, 1),
                   self.registers // max(each, 1) // 4 * 4 // warps)

    def occupancy(self, threads: int, registers: int, shared: int) -> float:
        """Warps on an SM as a share of the most it takes."""
        return self.resident(threads, registers, shared) * -(-threads // WARP) / (self.threads // WARP)


_KIB, _MIB = 1 << 10, 1 << 20
GPUS = {gpu.arch: gpu for gpu in (
    Gpu("sm_75", "T4", 40, 1.59e9, 64, 1024, 16, 64 * _KIB, 64 * _KIB, 4 * _MIB, 3.2e11, {"f16": 6.5e13}),
    Gpu("sm_80", "A100 SXM 40 GB", 108, 1.41e9, 64, 2048, 32, 164 * _KIB, 163 * _KIB, 40 * _MIB, 1.555e12,
        {"f16": 3.12e14, "bf16": 3.12e14, "tf32": 1.56e14}),
    Gpu("sm_86", "GeForce RTX 3090", 82, 1.695e9, 128, 1536, 16, 100 * _KIB, 99 * _KIB, 6 * _MIB, 9.36e11,
        {"f16": 7.1e13, "bf16": 7.1e13, "tf32": 3.56e13}),
    Gpu("sm_89", "GeForce RTX 4090", 128, 2.52e9, 128, 1536, 24, 100 * _KIB, 99 * _KIB, 72 * _MIB, 1.008e12,
        {"f16": 1.652e14, "bf16": 1.652e14, "tf32": 8.26e13}),
    Gpu("sm_90", "H100 SXM", 132, 1.98e9, 128, 2048, 32, 228 * _KIB, 227 * _KIB, 50 * _MIB, 3.35e12,
        {"f16": 9.89e14, "bf16": 9.89e14, "tf32": 4.94e14}),
    Gpu("sm_100", "B200", 148, 1.965e9, 128, 2048, 32, 228 * _KIB, 227 * _KIB, 126 * _MIB, 8e12,
        {"f16": 2.25e15, "bf16": 2.25e15, "tf32": 1.1e15}),
    Gpu("sm_120", "GeForce RTX 5090", 170, 2.407e9, 128, 1536, 24, 100 * _KIB, 99 * _KIB, 96 * _MIB, 1.792e12,
        {"f16": 2.095e14, "bf16": 2.095e14, "tf32": 1.048e14}),
)}
USUAL = "sm_80"  # what is predicted for where no architecture is named


def generation(arch: str) -> int:
    """"sm_90" → 90."""
    return int(re.sub(r"\D", "", arch))


def nearest(arch: str) -> Gpu | None:
    """The row of an architecture, or of the newest one that is older: sm_87 counts as sm_86, sm_103 as sm_100. None for
    what is no architecture, or older than all rows."""
    if not re.fullmatch(r"sm_\d{2,3}", arch):
        return None
    older = [gpu for name, gpu in GPUS.items() if generation(name) <= generation(arch)]
    return older[-1] if older else None
