"""The tensors of a safetensors member, read one at a time: a library would have them all in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from runtime.errors import NetcError
from runtime.format import Members

DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class Stored(Mapping[str, np.ndarray]):
    """Arrays by name: from a file each time they are asked for, or views of a member that is in memory."""

    def __init__(self, members: Mapping[str, bytes], member: str, name: str):
        """name: what the artifact is called."""
        self._members, self._member, self._name = members, member, name
        size = int.from_bytes(self._bytes(0, 8), "little")
        self._start = 8 + size
        self._entries = {key: entry for key, entry in json.loads(bytes(self._bytes(8, size))).items() if key != "__metadata__"}

    def _bytes(self, start: int, count: int) -> np.ndarray:
        if not isinstance(self._members, Members):
            return np.frombuffer(self._members[self._member], np.uint8, count, start)
        content = np.empty(count, np.uint8)
        if count:
            self._members.read_into(content, self._member, start)
        return content

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {key: entry["shape"] for key, entry in self._entries.items()}

    def __getitem__(self, key: str) -> np.ndarray:
        entry = self._entries[key]
        first, end = entry["data_offsets"]
        return self._bytes(self._start + first, end - first).view(DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self) -> None:
        """Raises NetcError E0603 where the file holds something else by now."""
        if isinstance(self._members, Members) and not self._members.verify(self._member):
            raise NetcError("E0603", f"{self._name} was changed while it was in use: its member `{self._member}`",
                            "load it again")
