"""What the machine code of a GPU takes: registers, shared and local memory of each kernel, read from the cubin itself.

A cubin is an ELF file; its sections `.nv.info` hold attributes (format, kind, value), of the whole file and of each
kernel. Their numbers are those that `cuobjdump -elf` prints as EIATTR_…. No CUDA toolkit is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runtime.object_file import NOBITS, read

MACHINE = 190  # EM_CUDA
_MAX_THREADS, _REQUIRED_THREADS, _FRAME, _MIN_STACK, _REGISTERS = 0x05, 0x10, 0x11, 0x12, 0x2F


@dataclass(frozen=True)
class Usage:
    """What a kernel takes. registers: of a thread; shared: bytes of a block that it declares; local: bytes of a thread
    that lie in memory instead of registers, which are spills and arrays whose index is not known; threads: the most a
    block may have, None where the kernel does not say."""

    registers: int = 0
    shared: int = 0
    local: int = 0
    threads: int | None = None


def usage(cubin: bytes) -> dict[str, Usage]:
    """Each kernel of a cubin, by name. Raises ValueError for bytes that are no cubin."""
    file = read(cubin)
    if file.machine != MACHINE:
        raise ValueError("no machine code for NVIDIA GPUs")
    try:
        sections = {section.name: section for section in file.sections}
        # From sm_90 on, what the system keeps of a block's shared memory is part of each kernel's section.
        reserved = 1024 if ".nv.shared.reserved.0" in sections else 0
        found = {name.removeprefix(".text."): Usage() for name in sections if name.startswith(".text.")}
        for name, section in sections.items():
            kernel = name.removeprefix(".nv.shared.")
            if kernel in found and section.type == NOBITS:
                found[kernel] = replace(found[kernel], shared=max(0, section.size - reserved))
        for attribute, value in _attributes(sections[".nv.info"].data):
            if len(value) == 8:
                symbol, number = struct.unpack("<II", value)
                kernel = file.symbols[symbol].name
                if kernel in found and attribute == _REGISTERS:
                    found[kernel] = replace(found[kernel], registers=number)
                elif kernel in found and attribute in (_FRAME, _MIN_STACK):
                    found[kernel] = replace(found[kernel], local=max(number, found[kernel].local))
        for kernel in found:
            own = sections.get(f".nv.info.{kernel}")
            for attribute, value in _attributes(own.data if own else b""):
                if attribute in (_MAX_THREADS, _REQUIRED_THREADS) and len(value) == 12:
                    x, y, z = struct.unpack("<III", value)
                    found[kernel] = replace(found[kernel], threads=x * y * z)
    except (struct.error, LookupError) as problem:
        raise ValueError("the machine code is damaged") from problem
    return found


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute; only those of format 4 have values of a length of their own."""
    at = 0
    while at + 4 <= len(data):
        form, kind, length = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == 4:
            yield kind, data[at:at + length]
            at += length
