"""What the machine code of a GPU takes: registers, shared and local memory of each kernel, read from the cubin itself.

A cubin is an ELF file; its sections `.nv.info` hold attributes (format, kind, value), of the whole file and of each kernel.
Their numbers are those that `cuobjdump -elf` prints as EIATTR_…. No CUDA toolkit is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

MACHINE = 190  # EM_CUDA
_SYMBOLS, _NOBITS = 2, 8  # section types
_MAX_THREADS, _REQUIRED_THREADS, _FRAME, _MIN_STACK, _REGISTERS = 0x05, 0x10, 0x11, 0x12, 0x2F


@dataclass(frozen=True)
class Usage:
    """What a kernel takes. registers: of a thread; shared: bytes of a block that it declares; local: bytes of a thread that
    lie in memory instead of registers, which are spills and arrays whose index is not known; threads: the most a block may
    have, None where the kernel does not say."""

    registers: int = 0
    shared: int = 0
    local: int = 0
    threads: int | None = None


def usage(cubin: bytes) -> dict[str, Usage]:
    """Each kernel of a cubin, by name. Raises ValueError for bytes that are no cubin."""
    if len(cubin) < 64 or cubin[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", cubin, 18)[0] != MACHINE:
        raise ValueError("no machine code for NVIDIA GPUs")
    try:
        sections = {name: section for name, section in _sections(cubin)}
        symbols = _symbols(cubin, sections)
        # From sm_90 on, what the system keeps of a block's shared memory is part of each kernel's section.
        reserved = 1024 if ".nv.shared.reserved.0" in sections else 0
        found = {name.removeprefix(".text."): Usage() for name in sections if name.startswith(".text.")}
        for name, (kind, _, size, _) in sections.items():
            kernel = name.removeprefix(".nv.shared.")
            if kernel in found and kind == _NOBITS:
                found[kernel] = replace(found[kernel], shared=size - min(size, reserved))
        for attribute, value in _attributes(cubin, sections[".nv.info"]):
            if len(value) == 8:
                symbol, number = struct.unpack("<II", value)
                kernel = symbols[symbol]
                if kernel in found and attribute == _REGISTERS:
                    found[kernel] = replace(found[kernel], registers=number)
                elif kernel in found and attribute in (_FRAME, _MIN_STACK):
                    found[kernel] = replace(found[kernel], local=max(number, found[kernel].local))
        for kernel in found:
            for attribute, value in _attributes(cubin, sections.get(f".nv.info.{kernel}")):
                if attribute in (_MAX_THREADS, _REQUIRED_THREADS) and len(value) == 12:
                    x, y, z = struct.unpack("<III", value)
                    found[kernel] = replace(found[kernel], threads=x * y * z)
    except (struct.error, LookupError, OverflowError, UnicodeDecodeError) as problem:
        raise ValueError("the machine code is damaged") from problem
    return found


def _sections(elf: bytes) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """(name, (type, offset, size, link)) of each section."""
    table, = struct.unpack_from("<Q", elf, 40)
    width, count, names = struct.unpack_from("<HHH", elf, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", elf, table + width * i) for i in range(count)]
    for name, kind, _, _, offset, size, link, *_ in rows:
        yield _text(elf, rows[names][4] + name), (kind, offset, size, link)


def _symbols(elf: bytes, sections: dict[str, tuple[int, int, int, int]]) -> list[str]:
    strings = sections[".strtab"][1]
    _, offset, size, _ = [section for section in sections.values() if section[0] == _SYMBOLS][0]
    return [_text(elf, strings + struct.unpack_from("<I", elf, at)[0]) for at in range(offset, offset + size, 24)]


def _text(elf: bytes, start: int) -> str:
    return elf[start:elf.index(b"\0", start)].decode()


def _attributes(elf: bytes, section: tuple[int, int, int, int] | None) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute; only those of format 4 have values of a length of their own."""
    if section is None:
        return
    _, at, size, _ = section
    end = at + size
    while at + 4 <= end:
        form, kind, length = struct.unpack_from("<BBH", elf, at)
        at += 4
        if form == 4:
            yield kind, elf[at:at + length]
            at += length
