"""Joins relocatable ELF objects to one, as `ld -r` does, where no linker is installed.

Only what the format itself says is used (System V ABI, 64-bit little-endian, relocations with addends), so it serves
every processor that compiled code is made for. Debug sections and unwind tables are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runtime.object_file import (
    ABSOLUTE,
    ALLOC,
    FILE,
    GLOBAL,
    HEADER,
    LOCAL,
    MERGE,
    NOBITS,
    PROGBITS,
    RELA,
    RELOCATABLE,
    RELOCATION,
    SECTION,
    SECTION_HEADER,
    STRINGS,
    STRTAB,
    SYMBOL,
    SYMTAB,
    UNDEFINED,
    WEAK,
    ObjectFile,
    Section,
    Symbol,
    read,
)


@dataclass
class Joined:
    """A section of the result: what sections of one name, kind and flags hold, one after the other."""

    like: Section
    symbol: int  # that of its start
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    align: int = 1
    relocations: list[tuple[int, int, int, int]] = field(default_factory=list)  # offset, kind, symbol, addend

    def append(self, section: Section) -> int:
        """Where the section starts in this one."""
        start = -(-self.size // max(section.align, 1)) * max(section.align, 1)
        if self.like.type != NOBITS:
            self.data += bytes(start - self.size) + section.data
        self.size = start + section.size
        self.align = max(self.align, section.align)
        return start


def join(objects: Sequence[bytes], rename: Mapping[str, str]) -> bytes:
    """One object of several. Where a weak symbol is defined more than once the first definition serves.

    rename: symbols that only these objects share; each becomes a local symbol of the name it maps to. Raises ValueError.
    """
    return _Joiner(rename).join([read(data) for data in objects])


class _Joiner:
    def __init__(self, rename: Mapping[str, str]):
        self.rename = rename
        self.sections: dict[tuple, Joined] = {}
        self.symbols: list[Symbol] = [Symbol("", LOCAL, 0, 0, UNDEFINED, 0, 0)]
        self.by_name: dict[str, int] = {}  # non-local symbols

    def join(self, objects: list[ObjectFile]) -> bytes:
        if any(o.kind != RELOCATABLE for o in objects):
            raise ValueError("no relocatable object")
        if len({(o.ident, o.machine, o.flags) for o in objects}) != 1:
            raise ValueError("objects of several machines")
        for each in objects:
            self.add(each)
        return self.write(objects[0])

    def add(self, o: ObjectFile) -> None:
        places: dict[int, tuple[Joined, int]] = {}  # section → the joined one and where it starts there
        dropped = {i for i in range(len(o.sections)) if self.known(o, i)}
        for index, section in enumerate(o.sections):
            if section.flags & ALLOC and section.size and index not in dropped and section.name != ".eh_frame":
                # Constants need not be merged: then no reference has to say which of them it means.
                like = replace(section, flags=section.flags & ~(MERGE | STRINGS), entry=0)
                key = like.name, like.type, like.flags
                if key not in self.sections:
                    self.sections[key] = Joined(like, len(self.symbols))
                    self.symbols.append(Symbol("", LOCAL, SECTION, 0, len(self.sections), 0, 0))
                places[index] = self.sections[key], self.sections[key].append(section)
        symbols = [(0, 0), *(self.symbol(s, places) for s in o.symbols[1:])]
        for section in o.sections:
            if section.type == RELA and section.info in places:
                joined, start = places[section.info]
                for offset, info, addend in RELOCATION.iter_unpack(section.data):
                    symbol, shift = symbols[info >> 32]
                    if symbol is None:
                        raise ValueError(f"a relocation of {section.name} refers to what is left out")
                    joined.relocations.append((start + offset, info & 0xFFFFFFFF, symbol, addend + shift))

    def known(self, o: ObjectFile, index: int) -> bool:
        """Whether all that a section holds are weak definitions which an earlier object has too."""
        inside = [s for s in o.symbols if s.section == index and s.type != SECTION]
        return bool(inside) and all(s.binding == WEAK and s.name in self.by_name
                                    and self.symbols[self.by_name[s.name]].section != UNDEFINED for s in inside)

    def symbol(self, s: Symbol, places: Mapping[int, tuple[Joined, int]]) -> tuple[int | None, int]:
        """The index of an object's symbol in the result, and what to add to its value there; None for what is left out."""
        section, value = s.section, s.value
        if s.type == FILE:
            return None, 0
        if section not in (UNDEFINED, ABSOLUTE):
            if section not in places:
                return (self.by_name.get(s.name) if s.binding == WEAK else None), 0
            joined, start = places[section]
            if s.type == SECTION:
                return joined.symbol, start
            section, value = self.symbols[joined.symbol].section, start + value
        placed = Symbol(s.name, s.binding, s.type, s.visibility, section, value, s.size)
        if s.binding == LOCAL:
            self.symbols.append(placed)
            return len(self.symbols) - 1, 0
        index = self.by_name.setdefault(s.name, len(self.symbols))
        if index == len(self.symbols):
            self.symbols.append(placed)
        elif section != UNDEFINED:
            before = self.symbols[index]
            if before.section == UNDEFINED or before.binding == WEAK and s.binding == GLOBAL:
                self.symbols[index] = placed
            elif s.binding == GLOBAL and before.binding == GLOBAL:
                raise ValueError(f"{s.name} is defined twice")
        return index, 0

    def write(self, like: ObjectFile) -> bytes:
        """The result, for the same machine as `like`."""
        order, symbols, first_global = self.ordered()
        names = Strings()
        table = b"".join(SYMBOL.pack(names.add(s.name), s.binding << 4 | s.type, s.visibility, s.section, s.value, s.size)
                         for s in symbols)
        parts: list[tuple[tuple, bytes]] = []  # header fields behind the name, data
        count = len(self.sections)
        symtab = count + sum(bool(j.relocations) for j in self.sections.values()) + 1
        titles: list[str] = []
        for joined in self.sections.values():
            one = joined.like
            titles.append(one.name)
            parts.append(((one.type, one.flags, joined.size, 0, 0, joined.align, one.entry), bytes(joined.data)))
        for number, joined in enumerate(self.sections.values(), 1):
            if joined.relocations:
                data = b"".join(RELOCATION.pack(offset, order[symbol] << 32 | kind, addend)
                                for offset, kind, symbol, addend in joined.relocations)
                titles.append(f".rela{joined.like.name}")
                parts.append(((RELA, 0x40, len(data), symtab, number, 8, RELOCATION.size), data))
        titles.append(".symtab")
        parts.append(((SYMTAB, 0, len(table), symtab + 1, first_global, 8, SYMBOL.size), table))
        titles += [".strtab", ".note.GNU-stack"]
        offsets = [names.add(title) for title in titles]
        parts += [((STRTAB, 0, len(names.data), 0, 0, 1, 0), bytes(names.data)), ((PROGBITS, 0, 0, 0, 0, 1, 0), b"")]
        out = bytearray(HEADER.size)
        headers = [SECTION_HEADER.pack(*[0] * 10)]
        for name, ((kind, flags, size, link, info, align, entry), data) in zip(offsets, parts):
            out += bytes(-len(out) % max(align, 1))
            headers.append(SECTION_HEADER.pack(name, kind, flags, 0, len(out), size, link, info, align, entry))
            out += data
        out += bytes(-len(out) % 8)
        out[:HEADER.size] = HEADER.pack(like.ident, RELOCATABLE, like.machine, 1, 0, 0, len(out), like.flags, HEADER.size,
                                        0, 0, SECTION_HEADER.size, len(headers), symtab + 1)
        return bytes(out + b"".join(headers))

    def ordered(self) -> tuple[dict[int, int], list[Symbol], int]:
        """Symbols with the local ones first, as the format wants it; where each went; how many are local."""
        final = [self.localized(s) for s in self.symbols]
        indices = sorted(range(len(final)), key=lambda i: final[i].binding != LOCAL)
        symbols = [final[i] for i in indices]
        return {old: new for new, old in enumerate(indices)}, symbols, sum(s.binding == LOCAL for s in symbols)

    def localized(self, s: Symbol) -> Symbol:
        if s.binding == LOCAL or s.name not in self.rename:
            return s
        if s.section == UNDEFINED:
            raise ValueError(f"{s.name} is defined nowhere")
        return Symbol(self.rename[s.name], LOCAL, s.type, 0, s.section, s.value, s.size)


class Strings:
    """A string table."""

    def __init__(self):
        self.data = bytearray(1)
        self.offsets = {"": 0}

    def add(self, text: str) -> int:
        if text not in self.offsets:
            self.offsets[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.offsets[text]
