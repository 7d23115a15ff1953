"""Memory as kernels want it: 64-byte aligned numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64


def aligned(shape: Sequence[int], dtype: Any = np.uint8) -> np.ndarray:
    """An uninitialized C-contiguous array whose data starts on a 64-byte boundary."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(count + ALIGNMENT, np.uint8)
    start = -address(raw) % ALIGNMENT
    return raw[start:start + count].view(dtype).reshape(shape)


def address(array: np.ndarray) -> int:
    """Where the first element lies. (`array.ctypes.data` is the same and takes three times as long.)"""
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
