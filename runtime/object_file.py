"""ELF files of machine code, for CPUs and for NVIDIA's GPUs: their sections and symbols.

The format is that of the System V ABI, 64-bit and little-endian, with relocations that have addends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

PROGBITS, SYMTAB, STRTAB, RELA, NOBITS = 1, 2, 3, 4, 8
WRITE, ALLOC, EXECUTE, MERGE, STRINGS = 1, 2, 4, 0x10, 0x20
LOCAL, GLOBAL, WEAK = 0, 1, 2
SECTION, FILE = 3, 4
UNDEFINED, ABSOLUTE = 0, 0xFFF1
RELOCATABLE = 1

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")


@dataclass(frozen=True)
class Section:
    """A section of a file. size counts bytes in memory; `data` is empty where they are all zero."""

    name: str
    type: int
    flags: int
    size: int
    link: int
    info: int
    align: int
    entry: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Symbol:
    """A symbol; `section` is an index into the file's sections, UNDEFINED or ABSOLUTE."""

    name: str
    binding: int
    type: int
    visibility: int
    section: int
    value: int
    size: int


@dataclass(frozen=True)
class ObjectFile:
    """A file, read. kind: RELOCATABLE, or of a program or a library."""

    ident: bytes
    kind: int
    machine: int
    flags: int
    sections: Sequence[Section]
    symbols: Sequence[Symbol]


def read(data: bytes) -> ObjectFile:
    """The sections and symbols of a file. Raises ValueError for what is none, or damaged."""
    if len(data) < HEADER.size or data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit little-endian ELF file")
    ident, kind, machine, _, _, _, headers, flags, _, _, _, _, count, names = HEADER.unpack_from(data)

    def text(table: int, offset: int) -> str:
        start = raw[table][4] + offset
        return data[start:data.index(b"\0", start)].decode()

    try:
        raw = [SECTION_HEADER.unpack_from(data, headers + i * SECTION_HEADER.size) for i in range(count)]
        sections = [Section(text(names, name), type, flags, size, link, info, align, entry,
                            b"" if type == NOBITS else data[offset:offset + size])
                    for name, type, flags, _, offset, size, link, info, align, entry in raw]
        symbols = [Symbol(text(section.link, name), info >> 4, info & 15, other & 3, index, value, size)
                   for section in sections if section.type == SYMTAB
                   for name, info, other, index, value, size in SYMBOL.iter_unpack(section.data)]
    except (struct.error, IndexError, OverflowError) as problem:
        raise ValueError("a damaged ELF file") from problem
    return ObjectFile(ident, kind, machine, flags, sections, symbols)
