"""An object file in memory, ready to be called: what a linker and the system's loader do, for x86-64.

Code, constants and data go into one private mapping, so that they reach each other; functions of other libraries are
reached by jumps behind the code. The relocations are those that position-independent code has (System V ABI, x86-64).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator

from runtime.object_file import (
    ABSOLUTE,
    ALLOC,
    EXECUTE,
    GLOBAL,
    NOBITS,
    RELA,
    RELOCATABLE,
    RELOCATION,
    UNDEFINED,
    WEAK,
    WRITE,
    read,
)

_X86_64 = 62
_64, _PC32, _PLT32, _PC64, _GOTPCREL = 1, 2, 4, 24, (9, 41, 42)  # R_X86_64_…
_JUMP = b"\xff\x25"  # jmp [rip + four bytes]
_STEP = 8            # bytes from jump to jump, and from pointer to pointer
# int alone(task, data, count) { struct { void *sync; int count; } group = {NULL, 1}; return task(0, &group, data); }
_ALONE = bytes.fromhex("4883ec18 48c7042400000000 c744240801000000 4889f2 4889e6 4889f8 31ff ffd0 4883c418 c3")
ALONE = -1  # what `resolve` says for a function that shall be this one: a parallel region on the caller's thread


class Unsupported(Exception):
    """An object file of a kind that is not loaded here."""


class Code:
    """A loaded object file. It goes when nothing refers to it, so whoever calls its functions must."""

    def __init__(self, data: bytes, resolve: Callable[[str], int]):
        """resolve(name): where a function of another library is, or ALONE; raises LookupError where it is nowhere. A
        variable `__NAME` of the object that code refers to is set to what resolve has for NAME.

        Raises Unsupported.
        """
        try:
            image = _Image(data)
            self._memory, self._exported = image.load(resolve), image.exported
        except (struct.error, IndexError, ValueError, LookupError) as problem:
            raise Unsupported(str(problem)) from problem

    def address(self, name: str) -> int | None:
        """Where a function that others may call begins."""
        return self._exported.get(name)


class _Image:
    """What an object file says, and where it goes."""

    def __init__(self, data: bytes):
        found = read(data)
        if found.kind != RELOCATABLE or found.machine != _X86_64:
            raise Unsupported("no relocatable object for x86-64")
        self.sections, self.symbols = found.sections, found.symbols
        self.places: dict[int, int] = {}  # section → its address
        self.exported: dict[str, int] = {}

    def load(self, resolve: Callable[[str], int]) -> mmap.mmap:
        relocations = list(self.relocations())
        pointers: dict[int, int] = {}  # symbol → where its address is to be kept
        for _, _, kind, symbol, _ in relocations:
            if kind in _GOTPCREL or self.symbols[symbol].section == UNDEFINED:
                pointers.setdefault(symbol, len(pointers) * _STEP)
        # Code, then what is only read, then what is written; each begins on a page.
        jumps = -(-self.arrange(0, EXECUTE) // 16) * 16
        alone = jumps + len(pointers) * _STEP
        constants = _page(alone + len(_ALONE))
        table = -(-self.arrange(constants, 0) // _STEP) * _STEP
        variables = _page(table + len(pointers) * _STEP)
        end = _page(self.arrange(variables, WRITE))
        memory = mmap.mmap(-1, max(end, mmap.PAGESIZE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                           mmap.PROT_READ | mmap.PROT_WRITE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for index, place in self.places.items():
            section = self.sections[index]
            if section.type != NOBITS:
                memory[place:place + section.size] = section.data
        memory[alone:alone + len(_ALONE)] = _ALONE

        def elsewhere(name: str) -> int:
            found = resolve(name)
            return base + alone if found == ALONE else found

        def address(symbol: int) -> int:
            s = self.symbols[symbol]
            if s.section == UNDEFINED:
                return elsewhere(s.name)
            return s.value if s.section == ABSOLUTE else base + self.places[s.section] + s.value

        for symbol, place in pointers.items():
            struct.pack_into("<Q", memory, table + place, address(symbol))
            memory[jumps + place:jumps + place + 2] = _JUMP
            struct.pack_into("<i", memory, jumps + place + 2, table - jumps - 6)
        for symbol in {symbol for _, _, _, symbol, _ in relocations}:
            s = self.symbols[symbol]
            if s.name.startswith("__TVM") and s.section != UNDEFINED:
                struct.pack_into("<Q", memory, address(symbol) - base, elsewhere(s.name[2:]))
        for section, offset, kind, symbol, addend in relocations:
            place = self.places[section] + offset
            if kind in _GOTPCREL:
                target = base + table + pointers[symbol]
            elif self.symbols[symbol].section == UNDEFINED and kind in (_PC32, _PLT32):
                target = base + jumps + pointers[symbol]
            else:
                target = address(symbol)
            if kind == _64:
                struct.pack_into("<Q", memory, place, target + addend)
            elif kind == _PC64:
                struct.pack_into("<q", memory, place, target + addend - base - place)
            elif kind in (_PC32, _PLT32, *_GOTPCREL):
                struct.pack_into("<i", memory, place, target + addend - base - place)
            else:
                raise Unsupported(f"a relocation of kind {kind}")
        self.exported = {s.name: base + self.places[s.section] + s.value for s in self.symbols
                         if s.binding in (GLOBAL, WEAK) and s.section in self.places}
        _protect(base, constants, mmap.PROT_READ | mmap.PROT_EXEC)
        _protect(base + constants, variables - constants, mmap.PROT_READ)
        return memory

    def arrange(self, start: int, kind: int) -> int:
        """Places the sections of a kind (EXECUTE, WRITE, or neither) from `start` on; where they end."""
        for index, section in enumerate(self.sections):
            if section.flags & ALLOC and section.flags & (EXECUTE | WRITE) == kind:
                start = -(-start // max(section.align, 1)) * max(section.align, 1)
                self.places[index] = start
                start += section.size
        return start

    def relocations(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Of sections that are loaded: section, offset in it, kind, symbol, addend."""
        for section in self.sections:
            if section.type == RELA and self.sections[section.info].flags & ALLOC:
                for place, info, addend in RELOCATION.iter_unpack(section.data):
                    yield section.info, place, info & 0xFFFFFFFF, info >> 32, addend


def _page(bytes: int) -> int:
    return -(-bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _protect(address: int, bytes: int, rights: int) -> None:
    if bytes and ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(bytes), rights):
        raise Unsupported(f"memory cannot be made executable (error {ctypes.get_errno()})")
