"""Memory as kernels want it: 64-byte aligned numpy arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64


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
        raw = np.zeros(self.bytes + ALIGNMENT, np.uint8)
        start = -address(raw) % ALIGNMENT
        self._data = raw[start:start + self.bytes]
        self.address = address(self._data)

    def read(self, start: int, count: int) -> np.ndarray:
        """uint8[count]: the memory itself."""
        return self._data[start:start + count]

    def write(self, start: int, raw: np.ndarray) -> None:
        self._data[start:start + len(raw)] = raw
