"""Memory as kernels want it: 64-byte aligned numpy arrays."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64
LARGE = 4 << 20  # bytes from which on memory is asked for in huge pages, which fewer entries of the address cache serve


def aligned(shape: Sequence[int], dtype: Any = np.uint8) -> np.ndarray:
    """An uninitialized C-contiguous array whose data starts on a 64-byte boundary."""
    dtype = np.dtype(dtype)
    raw = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    return np.ndarray(tuple(shape), dtype, raw, -address(raw) % ALIGNMENT)


def address(array: np.ndarray) -> int:
    """Where the first element lies."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # five times as fast as `array.ctypes.data`
    except (BufferError, TypeError, ValueError):  # read-only, empty, or not contiguous
        return array.__array_interface__["data"][0]


class Block:
    """Zeroed bytes on a 64-byte boundary: an arena, or all parameters."""

    def __init__(self, bytes: int):
        self.bytes = max(bytes, 1)
        self._map = mmap.mmap(-1, self.bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if self.bytes >= LARGE:
            with contextlib.suppress(OSError):  # a system without them
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self._data = np.frombuffer(self._map, np.uint8)
        self.address = address(self._data)

    def read(self, start: int, count: int) -> np.ndarray:
        """uint8[count]: the memory itself."""
        return self._data[start:start + count]

    def write(self, start: int, raw: np.ndarray) -> None:
        self._data[start:start + len(raw)] = raw

    def release(self, start: int, count: int) -> None:
        """Gives memory back to the system, as far as it is whole pages; they are zeros when they are read again."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = (start + count) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if pages > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, pages)
