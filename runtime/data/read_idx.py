"""`idx:PREFIX`: the IDX files of MNIST and its relatives, plain or gzip.

Format: http://yann.lecun.com/exdb/mnist ; two zero bytes, a type, the number of axes, the sizes, then the values, all
big-endian.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, Mapping, Sequence

import numpy as np

from runtime.data.config import Field
from runtime.data.files import damaged, reading
from runtime.data.fit import ArrayExamples, Place, fit
from runtime.errors import NetcError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(prefix: Path, fields: Sequence[Field], feed: Mapping[str, str | tuple[str, ...]],
             known: Mapping[str, tuple[str, ...]]) -> ArrayExamples:
    """Read PREFIX-images-idx3-ubyte for the input and PREFIX-labels-idx1-ubyte for the label.

    `.idx3-ubyte` and `.gz` are found too. `feed` may name "images", "labels", or what follows the prefix in the name
    of any other IDX file. Raises NetcError E0552, E0553 (bad magic, truncated), E0554, E0555, E0556, E0557.
    """
    arrays = {}
    for field in fields:
        fed = feed.get(field.name)
        if fed is None:
            rivals = [other.name for other in fields if other.role == field.role and other.name not in feed]
            if len(rivals) > 1:
                raise NetcError("E0554", f"an idx source cannot tell which of {', '.join(rivals)} takes its file",
                                f"say so: feed = [{rivals[0]} = \"images\", …]")
            fed = "images" if field.role == "input" else "labels"
        if not isinstance(fed, str):
            raise NetcError("E0554", f"`{field.name}` takes one IDX file, `feed` gives {len(fed)} names")
        path = find_idx(prefix, fed)
        arrays[field.name] = fit(read_idx_file(path), field, Place(str(path), path.name))
    return ArrayExamples(str(prefix), arrays, {name: names for name, names in known.items() if name in arrays})


def find_idx(prefix: Path, what: str) -> Path:
    """The file of `what` ("images", "labels" or an ending) for the prefix; raises NetcError E0552."""
    axes = {"images": (3, 4), "labels": (1,)}.get(what, ())
    stems = [f"{prefix}{dash}{what}{dot}idx{n}-ubyte" for dash in "-." for dot in "-." for n in axes]
    stems = stems or [f"{prefix}{what}", f"{prefix}-{what}", os.path.join(prefix, what)]
    for stem in stems:
        for path in (stem, stem + ".gz"):
            if os.path.isfile(path):
                return Path(path)
    raise NetcError("E0552", f"there is no IDX file for `{what}`: looked for {stems[0]} (.gz)",
                    "`netc data list` shows the sets that `netc data` can fetch")


def read_idx_file(path: Path) -> np.ndarray:
    """One IDX file as an array in native byte order; raises NetcError E0552 or E0553."""
    with reading(path):
        try:
            if path.suffix == ".gz":
                with gzip.open(path, "rb") as file:
                    return _read_stream(path, file, None)
            with open(path, "rb") as file:
                return _read_stream(path, file, os.fstat(file.fileno()).st_size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise damaged(path, f"the gzip file is damaged: {error}", "fetch it again") from None


def _read_stream(path: Path, file: BinaryIO, size: int | None) -> np.ndarray:
    """size: of the whole file where it is known, so that a false header does not make us allocate."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or not 1 <= magic[3] <= 8:
        raise damaged(path, f"not an IDX file: it starts with {magic.hex() or 'nothing'}",
                      "an IDX file starts with 0000, a type and the number of axes (00000803 for images)")
    dtype, rank = np.dtype(IDX_TYPES[magic[2]]), magic[3]
    sizes = file.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise damaged(path, "the file is truncated inside its header", "fetch it again")
    shape = struct.unpack(f">{rank}I", sizes)
    expected = prod(shape) * dtype.itemsize
    got = size - 4 - 4 * rank if size is not None else None
    if got is None or got == expected:
        data = bytearray()
        # In pieces: a gzip file with a false header must not make us allocate what it claims.
        while len(data) <= expected and (piece := file.read(1 << 20)):
            data += piece
        got = len(data)
    if got != expected:
        state = "is truncated" if got < expected else "is longer than its header says"
        raise damaged(path, f"the file {state}: {list(shape)} needs {expected} bytes of values, "
                      f"there are {got}{' or more' if got > expected else ''}", "fetch it again")
    values = np.frombuffer(data, dtype, count=prod(shape)).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)
