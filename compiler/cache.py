"""Compiled code kept from one compilation to the next: files named by a hash of what they were made from.

Several processes may use it at once: an entry appears whole (it is written beside and renamed) and is never changed.
Each begins with a hash of its content; one that does not match is dropped. The least recently used go first when the
whole grows over its bound. A cache that cannot be read or written is no error: things are compiled again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

DIGEST = hashlib.sha256().digest_size
LIMIT = 1 << 30


@dataclass(frozen=True)
class Cache:
    """Entries in files of `folder`, bytes by key; nothing is kept where `folder` is None. limit: bytes of all together."""

    folder: Path | None
    limit: int = LIMIT

    def get(self, key: str) -> bytes | None:
        """The entry of a key, which counts as used now."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
            content = data[DIGEST:]
            if hashlib.sha256(content).digest() == data[:DIGEST]:
                os.utime(path)
                return content
            path.unlink()
        except OSError:  # not there, dropped by another process, or not ours to read
            pass
        return None

    def put(self, key: str, content: bytes) -> None:
        """Keeps an entry, unless it would take more than a quarter of all. Call `trim` after the last of several."""
        if self.folder is None or len(content) > self.limit // 4:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(hashlib.sha256(content).digest() + content)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
        except OSError:  # a full disk, or a folder that is not ours to write
            pass

    def trim(self) -> None:
        """Drops the entries not used for longest, down to nine tenths of the limit, where all together exceed it."""
        if self.folder is None:
            return
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, path in files if total > self.limit else []:
            if total <= self.limit * 9 // 10:
                break
            try:
                os.unlink(path)
            except FileNotFoundError:  # another process was faster
                pass
            except OSError:
                continue
            total -= size

    def _files(self) -> list[tuple[int, int, str]]:
        """When each file was used, its bytes, and its path."""
        found = []
        try:
            for part in os.scandir(self.folder):
                if part.is_dir(follow_symlinks=False):
                    for file in os.scandir(part.path):
                        status = file.stat(follow_symlinks=False)
                        found.append((status.st_mtime_ns, status.st_size, file.path))
        except OSError:
            pass
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]


def default() -> Cache:
    """The user's cache: NETC_CACHE_DIR, else `netc` in XDG_CACHE_HOME or ~/.cache; none where NETC_CACHE=0.

    NETC_CACHE_LIMIT bounds it, in bytes (1 GiB by default).
    """
    if os.environ.get("NETC_CACHE") == "0":
        return Cache(None)
    place = os.environ.get("NETC_CACHE_DIR")
    if not place:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        place = os.path.join(base, "netc")
    limit = os.environ.get("NETC_CACHE_LIMIT", "")
    return Cache(Path(place), int(limit) if limit.isdecimal() else LIMIT)


def key(*parts: str | bytes) -> str:
    """A key made of everything that decides about an entry's content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
