"""`csv:PATH`: a table with a header, one example a line; columns feed the fields by name."""

from __future__ import annotations

import csv
from array import array
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from runtime.data.config import Field
from runtime.data.files import damaged, reading
from runtime.data.fit import ArrayExamples, Place, check_classes, encode_labels, fit
from runtime.errors import NetcError


def read_csv(path: Path, fields: Sequence[Field], feed: Mapping[str, str | tuple[str, ...]],
             known: Mapping[str, tuple[str, ...]]) -> ArrayExamples:
    """Read the whole table. UTF-8, commas, cells may be quoted, empty lines are skipped.

    A field takes the column or columns that `feed` names, else the column of its own name, else, if it is an input,
    all columns that no other field takes where their number is the field's size. Several columns are stacked in that
    order and fill the field's shape row by row. A label with classes may hold text (see `encode_labels`).
    Raises NetcError E0552, E0553 (not a table), E0554 (no such column), E0555, E0556, E0557 with the line.
    """
    with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
        header, columns, lines = _read_table(path, file, fields, feed)
    arrays, names = {}, {}
    for field in fields:
        cells = [columns[name] for name in _columns_of(field, fields, feed, header, path)]
        place = Place(str(path), ", ".join(feed_names(field, feed)), lines)
        if field.classes is not None:
            if len(cells) != 1:
                raise NetcError("E0555", f"`{field.name}` is a class label of shape {list(field.shape)}; a table gives "
                                "one class number for each example", "declare it as i32[N], or use an npz: source",
                                str(path))
            numbers, found = encode_labels(_no_empty(cells[0], field, place), field, place, known.get(field.name))
            numbers = numbers.reshape(-1, *field.shape)
            check_classes(numbers, field, place)
            arrays[field.name] = np.ascontiguousarray(numbers, dtype=field.numpy_dtype)
            if found is not None:
                names[field.name] = found
        else:
            numbers = [_numbers(column, field, place) for column in cells]
            arrays[field.name] = fit(np.stack(numbers, axis=1), field, place)
    return ArrayExamples(str(path), arrays, names)


def feed_names(field: Field, feed: Mapping[str, str | tuple[str, ...]]) -> tuple[str, ...]:
    """The names that `feed` gives for the field, else the field's own."""
    fed = feed.get(field.name, field.name)
    return (fed,) if isinstance(fed, str) else tuple(fed)


def _columns_of(field: Field, fields: Sequence[Field], feed: Mapping[str, str | tuple[str, ...]],
                header: list[str], path: Path) -> tuple[str, ...]:
    wanted = feed_names(field, feed)
    if field.name not in feed and field.name not in header and field.role == "input":
        taken = {name for other in fields if other is not field for name in feed_names(other, feed)}
        rest = tuple(name for name in header if name not in taken)
        if len(rest) == prod(field.shape):
            return rest
    for name in wanted:
        if name not in header:
            close = get_close_matches(name, header, n=1)
            hint = f"did you mean `{close[0]}`? " if close else ""
            hint += f"the columns are {', '.join(header[:12])}{', …' if len(header) > 12 else ''}"
            if field.name not in feed:
                hint += f"; name others with feed = [{field.name} = [\"…\", \"…\"]]"
            raise NetcError("E0554", f"`{field.name}` needs a column `{name}`, which is not there", hint, f"{path}:1")
    if len(wanted) != prod(field.shape):
        raise NetcError("E0555", f"`{field.name}` of shape {list(field.shape)} takes {prod(field.shape)} of the "
                        f"columns, not {len(wanted)}", f"say which: feed = [{field.name} = [\"…\", \"…\"]]",
                        f"{path}:1")
    return wanted


def _read_table(path: Path, file, fields: Sequence[Field],
                feed: Mapping[str, str | tuple[str, ...]]) -> tuple[list[str], dict[str, list[str]], array]:
    """Header, the columns that the fields take, and the line number of each row."""
    table = csv.reader(file, strict=True)
    lines = array("q")
    try:
        header = [name.strip() for name in next(table, [])]
        _check_header(path, header)
        wanted = {name for field in fields for name in _columns_of(field, fields, feed, header, path)}
        picked = [(index, []) for index, name in enumerate(header) if name in wanted]
        for row in table:
            if not row:
                continue
            if len(row) != len(header):
                raise damaged(path, f"this line has {len(row)} cells, the header has {len(header)}",
                              "quote cells that hold commas", table.line_num)
            lines.append(table.line_num)
            for index, cells in picked:
                cells.append(row[index].strip())
    except csv.Error as error:
        raise damaged(path, f"not a CSV table: {error}", None, table.line_num) from None
    except UnicodeDecodeError:
        raise damaged(path, "this is not UTF-8 text", "save the table as UTF-8", table.line_num + 1) from None
    if not lines:
        raise NetcError("E0560", "the table has no rows below its header", None, str(path))
    return header, {header[index]: cells for index, cells in picked}, lines


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise damaged(path, "the table is empty", "the first line names the columns, for example x,y,label")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise damaged(path, f"the header has one column, `{header[0]}`", "separate the cells with commas", 1)
    double = next((name for name in header if header.count(name) > 1), None)
    if double is not None:
        raise damaged(path, f"two columns are named `{double}`", "give each column a name of its own", 1)
    if all(_is_number(name) for name in header):
        raise damaged(path, f"the first line holds numbers ({', '.join(header[:4])}…), not names of columns",
                      "put a header line on top, for example x,y,label", 1)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _no_empty(cells: list[str], field: Field, place: Place) -> list[str]:
    if "" in cells:
        raise NetcError("E0556", f"the cell for `{field.name}` is empty", "remove the line or fill in a value",
                        place.row(cells.index("")))
    return cells


def _numbers(cells: list[str], field: Field, place: Place) -> np.ndarray:
    """The cells as int64 where all are whole numbers and the field is too, else as float64; E0556 with the line."""
    text = np.array(_no_empty(cells, field, place))
    if field.numpy_dtype.kind in "biu":
        try:
            return text.astype(np.int64)
        except (ValueError, OverflowError):
            pass  # whole numbers may be written 3.0: read as float, `fit` refuses a fraction
    try:
        return text.astype(np.float64)
    except ValueError:
        row = next(row for row, cell in enumerate(cells) if not _is_number(cell))
        raise NetcError("E0556", f"`{field.name}` needs a number, got `{cells[row][:40]}`",
                        "remove the line, or write a number", place.row(row)) from None
