"""Making raw arrays fit the net's fields: shape, type, range, class numbers. Every refusal names the row."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Mapping, Sequence

import numpy as np

from runtime.data.config import Field
from runtime.errors import NetcError


@dataclass(frozen=True)
class Place:
    """Where rows come from, so that an error can point at one: a line of a text file, or a row of an array."""

    file: str
    array: str = ""
    lines: Sequence[int] | None = None

    def row(self, index: int) -> str:
        if self.lines is not None:
            return f"{self.file}:{self.lines[index]}"
        return f"{self.file}, row {index}" + (f" of `{self.array}`" if self.array else "")


@dataclass(frozen=True)
class ArrayExamples:
    """Examples that lie in memory: for each field an array [n, *field.shape] of the field's type.

    class_names: field -> names in the order of their numbers, for the labels that have names.
    """

    file: str
    arrays: Mapping[str, np.ndarray]
    class_names: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"`{name}` {count}" for name, count in lengths.items())
            raise NetcError("E0555", f"the fields have different numbers of examples: {counts}",
                            "each example needs one row in every array", self.file)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()), ()))

    def gather_into(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> None:
        """Write the examples `rows` into `out`: for each field an array [len(rows), *field.shape]."""
        for name, array in self.arrays.items():
            # mode="clip" writes straight into `out`; the default goes through a temporary. Part checks the rows.
            np.take(array, rows, axis=0, out=out[name], mode="clip")


def fit(values: np.ndarray, field: Field, place: Place) -> np.ndarray:
    """`values` [n, ...] as [n, *field.shape] of the field's type; raises NetcError E0555 (shape), E0556 (value) or
    E0557 (label out of range), naming the first row that does not fit.

    Axes of size 1 may be missing or too many (images [n, 28, 28] fit [1, 28, 28]), and rows may be flat where the
    other is not ([n, 64] fits [1, 8, 8], row by row), because nothing can be mistaken there. Nothing else is reshaped.
    """
    if values.dtype.kind not in "buif":
        raise NetcError("E0556", f"`{field.name}` needs numbers, `{place.array}` holds {values.dtype}",
                        "convert the array to numbers", place.file)
    values = _fit_shape(values, field, place)
    if field.classes is not None:
        check_classes(values, field, place)
    return _fit_type(values, field, place)


def _fit_shape(values: np.ndarray, field: Field, place: Place) -> np.ndarray:
    if values.ndim == 0:
        raise NetcError("E0555", f"`{place.array}` is one number, not a row for each example", None, place.file)
    have, want = values.shape[1:], field.shape
    squeezed = [size for size in have if size != 1] == [size for size in want if size != 1]
    flat = prod(have) == prod(want) and (len(have) <= 1 or len(want) <= 1)
    if not (squeezed or flat):
        hint = None
        if len(have) == len(want) == 3 and have[2:] + have[:2] == want:
            hint = "store images channels first: array.transpose(0, 3, 1, 2)"
        elif len(want) >= 2 and len(have) >= 2:
            hint = f"declare the field as {field.dtype}[{', '.join(['N', *map(str, have)])}], or change the data"
        raise NetcError("E0555", f"`{field.name}` needs rows of shape {list(want)}, `{place.array}` has {list(have)}",
                        hint, place.file)
    return values.reshape(len(values), *want)


def _first(bad: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """Row and full index of the first true element."""
    index = np.unravel_index(int(bad.argmax()), bad.shape)
    return int(index[0]), tuple(int(i) for i in index)


def _fit_type(values: np.ndarray, field: Field, place: Place) -> np.ndarray:
    target = field.numpy_dtype
    if values.dtype == target and target.kind in "biu":
        return np.ascontiguousarray(values)
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
        if bad.any():
            row, index = _first(bad)
            raise NetcError("E0556", f"`{field.name}` holds {values[index]}, which is no number to learn from",
                            "remove the example or fill in a value", place.row(row))
        if target.kind in "biu":
            values = values.astype(np.float64, copy=False)  # f16 and f32 cannot hold the bounds compared with below
    if target.kind == "b":
        low, high = 0, 1
    elif target.kind in "iu":
        low, high = np.iinfo(target).min, np.iinfo(target).max
    else:
        low, high = -np.finfo(target).max, np.finfo(target).max
    # numpy compares an integer array with a bound beyond its type exactly.
    bad = (values < low) | (values > high)
    if target.kind in "biu" and values.dtype.kind == "f":
        bad |= values != np.trunc(values)
    if bad.any():
        row, index = _first(bad)
        raise NetcError("E0556", f"`{field.name}` holds {values[index]}, which {field.dtype} cannot hold",
                        "declare the field with another type, or change the data", place.row(row))
    return np.ascontiguousarray(values, dtype=target)


def check_classes(values: np.ndarray, field: Field, place: Place) -> None:
    """Refuse a label outside 0 .. classes - 1 (NetcError E0557)."""
    bad = ~((values >= 0) & (values < field.classes))
    if bad.any():
        row, index = _first(bad)
        hint = f"`label {field.name}: … in {field.classes}` says that labels run from 0 to {field.classes - 1}"
        if values.min() == 1 and values.max() == field.classes:
            hint += "; these start at 1: subtract 1 from each"
        raise NetcError("E0557", f"`{field.name}` is {values[index]}, expected 0 to {field.classes - 1}", hint,
                        place.row(row))


def check_class_names(names: Sequence[str], field: Field, file: str) -> None:
    """Refuse more class names than the label has classes (NetcError E0557)."""
    if field.classes is not None and len(names) > field.classes:
        raise NetcError("E0557", f"`{field.name}` has {field.classes} classes, the data has {len(names)}: "
                        + ", ".join(names[:20]) + (", …" if len(names) > 20 else ""),
                        f"set the classes of the net to {len(names)}, or mend the data", file)


def encode_labels(cells: Sequence[str], field: Field, place: Place,
                  known: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Text labels as class numbers [n] and the names of the classes; raises NetcError E0557.

    Where `known` names are given, cells are looked up in them, or are numbers. Else cells that are all whole numbers
    are the class numbers themselves, without names; any other text becomes a class, names sorted.
    """
    distinct = Counter(cells)
    if not (known and all(cell in known for cell in distinct)):
        if all(_is_whole(cell) for cell in distinct):
            return np.array([int(cell.partition(".")[0]) for cell in cells], dtype=np.int64), known
        if known:
            row, cell = next((row, cell) for row, cell in enumerate(cells) if cell not in known)
            raise NetcError("E0557", f"`{field.name}` is `{cell}`, which is none of the classes "
                            + ", ".join(known[:20]) + (", …" if len(known) > 20 else ""),
                            "mend the label, or list all classes in `classes`", place.row(row))
        known = tuple(sorted(distinct))
        if field.classes is not None and len(known) > field.classes:
            rare = min(distinct, key=lambda cell: (distinct[cell], not _is_whole(cell)))
            raise NetcError("E0557", f"`{field.name}` has {field.classes} classes, the data has {len(known)}: "
                            + ", ".join(known[:20]) + (", …" if len(known) > 20 else ""),
                            f"the rarest, `{rare}`, stands here: mend it, or give the net {len(known)} classes",
                            place.row(list(cells).index(rare)))
    number = {name: index for index, name in enumerate(known)}
    return np.array([number[cell] for cell in cells], dtype=np.int64), known


# Tables written by other programs often hold class 3 as 3.0.
WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


def _is_whole(cell: str) -> bool:
    # 18 digits fit int64; a longer run of digits is an identifier, not a class.
    return WHOLE.fullmatch(cell) is not None
