"""`npz:PATH`: arrays saved by numpy.savez, one for each field. Never unpickles."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from runtime.data.config import Field
from runtime.data.files import damaged, reading
from runtime.data.fit import ArrayExamples, Place, encode_labels, fit
from runtime.errors import NetcError


def read_npz(path: Path, fields: Sequence[Field], feed: Mapping[str, str | tuple[str, ...]],
             known: Mapping[str, tuple[str, ...]]) -> ArrayExamples:
    """Read the array that `feed` names for each field, else the array of the field's name.

    A class label may be an array of text (see `encode_labels`).
    Raises NetcError E0552, E0553 (not an npz file, holds Python objects), E0554, E0555, E0556, E0557.
    """
    arrays, names = {}, {}
    with reading(path):
        try:
            with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
                for field in fields:
                    array, found = _read_field(path, archive, field, feed, known.get(field.name))
                    arrays[field.name] = array
                    if found is not None:
                        names[field.name] = found
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise damaged(path, f"not an npz file: {error}", "write it with numpy.savez") from None
    return ArrayExamples(str(path), arrays, names)


def _read_field(path: Path, archive, field: Field, feed: Mapping[str, str | tuple[str, ...]],
                known: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...] | None]:
    name = feed.get(field.name, field.name)
    if not isinstance(name, str):
        raise NetcError("E0554", f"`{field.name}` takes one array, `feed` gives {len(name)} names", None, str(path))
    if name not in archive.files:
        raise NetcError("E0554", f"`{field.name}` needs an array `{name}`, which is not there",
                        f"the arrays are {', '.join(archive.files[:12]) or 'none'}; "
                        f"choose with feed = [{field.name} = \"…\"]", str(path))
    try:
        values = archive[name]
    except (ValueError, SyntaxError, MemoryError) as error:
        raise damaged(path, f"the array `{name}` cannot be read: {error}",
                      "store plain arrays of numbers; Python objects are never unpickled") from None
    if not isinstance(values, np.ndarray):
        raise damaged(path, f"`{name}` is not an array", "write the file with numpy.savez")
    place = Place(str(path), name)
    if field.classes is not None and values.dtype.kind in "US":
        cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
                 for cell in values.ravel().tolist()]
        numbers, known = encode_labels(cells, field, place, known)
        values = numbers.reshape(values.shape)
    return fit(values, field, place), known
