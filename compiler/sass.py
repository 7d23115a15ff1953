"""The instructions of a cubin's kernels, counted: what share of them is arithmetic, how wide loads are.

NVIDIA's nvdisasm prints them. What counts is the main loop of a kernel: the innermost loop with most multiply-adds (or
tensor-core products), and others that have half as many at least, since kernels that share a launch have one each; or the
whole kernel where they stand in no loop.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler import toolkit
from runtime.errors import NetcError

TOOL = "nvdisasm"
INSTALL = "install it from PyPI: pip install nvidia-cuda-nvdisasm (or put the CUDA toolkit's nvdisasm on PATH)"

_LABEL = re.compile(r"(\.[\w.$]+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]\s+)?([A-Z][\w.]*)([^;]*);")
_TARGET = re.compile(r"`\((\.[\w.$]+)\)")
_TENSOR = ("HMMA", "IMMA", "DMMA", "HGMMA", "QGMMA", "UTCHMMA")


@dataclass(frozen=True)
class Mix:
    """Instructions of a kernel. ffma, lds, hmma: multiply-adds in f32, loads from shared memory (ldmatrix too) and products on
    tensor cores in the main loops, of `issued` instructions there; loads: from global memory in the whole kernel, `wide` of
    them 16 bytes a thread or more."""

    ffma: int
    lds: int
    hmma: int
    issued: int
    loads: int
    wide: int

    def numbers(self) -> dict[str, float | int | None]:
        """Counts and shares, None where there is nothing to take a share of."""
        return {"ffma": self.ffma, "lds": self.lds, "hmma": self.hmma, "issued": self.issued,
                "ffma_lds": self.ffma / self.lds if self.lds else None,
                "ffma_share": self.ffma / self.issued if self.issued else None,
                "wide_loads": self.wide / self.loads if self.loads else None}


def mixes(cubin: bytes) -> dict[str, Mix]:
    """The mix of each kernel of a cubin. Raises NetcError E0713 where nvdisasm is missing or fails."""
    return {name: _mix(lines) for name, lines in kernels(disassemble(cubin)).items()}


def available() -> bool:
    """Whether instructions can be read here."""
    return toolkit.find(TOOL) is not None


def disassemble(cubin: bytes) -> str:
    """What nvdisasm prints of a cubin's code. Raises NetcError E0713."""
    tool = toolkit.find(TOOL)
    if tool is None:
        raise NetcError("E0713", f"{TOOL} is not installed, so instructions cannot be counted", INSTALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernels.cubin")
        path.write_bytes(cubin)
        done = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise NetcError("E0713", f"{TOOL} cannot read the machine code: {said[0]}", "a newer one may: " + INSTALL)
    return done.stdout


def kernels(text: str) -> dict[str, list[str]]:
    """For each kernel its lines: labels, and instructions with their operands."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(".text.") and line.endswith(":"):
            lines = found.setdefault(line[len(".text."):-1], [])
        elif _LABEL.fullmatch(line) or _INSTRUCTION.match(line):
            lines.append(line)
    return found


def _mix(lines: Sequence[str]) -> Mix:
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    for line in lines:
        if label := _LABEL.fullmatch(line):
            labels[label[1]] = len(opcodes)
        elif instruction := _INSTRUCTION.match(line):
            if instruction[1].startswith("BRA") and (target := _TARGET.search(instruction[2])):
                jumps.append((len(opcodes), target[1]))
            opcodes.append(instruction[1])
    while opcodes and opcodes[-1] == "NOP":
        opcodes.pop()
    main = _main_loops(opcodes, [(labels[to], at + 1) for at, to in jumps if labels.get(to, at + 1) <= at])
    inside, whole = _count([opcode for start, stop in main for opcode in opcodes[start:stop]]), _count(opcodes)
    wide = sum(1 for name in opcodes if _is_load(name) and re.search(r"\.(128|256)\b", name))
    return Mix(inside["FFMA"] + inside["FFMA2"], inside["LDS"] + inside["LDSM"], sum(inside[name] for name in _TENSOR),
               sum(stop - start for start, stop in main), sum(whole[name] for name in ("LDG", "LDGSTS")), wide)


def _main_loops(opcodes: Sequence[str], loops: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The loops without another in them that have most products, or half as many; all instructions where no loop has any."""
    def products(loop: tuple[int, int]) -> int:
        counted = _count(opcodes[slice(*loop)])
        return sum(counted[name] for name in ("FFMA", "FFMA2", *_TENSOR))
    working = {loop: count for loop in loops if (count := products(loop))}
    innermost = {a: count for a, count in working.items()
                 if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in working)}
    return [loop for loop, count in innermost.items() if 2 * count >= max(innermost.values())] or [(0, len(opcodes))]


def _count(opcodes: Sequence[str]) -> Counter[str]:
    return Counter(name.partition(".")[0] for name in opcodes)


def _is_load(opcode: str) -> bool:
    return opcode.partition(".")[0] in ("LDG", "LDGSTS")
