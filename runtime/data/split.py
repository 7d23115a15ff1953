"""Which examples belong to which part: by seeded fractions, or by an index file."""

from __future__ import annotations

import csv
from math import floor
from pathlib import Path
from typing import Mapping

import numpy as np

from runtime.data.config import PARTS
from runtime.data.files import damaged, reading
from runtime.errors import NetcError


def split_by_fractions(count: int, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Rows [int64, ascending] of each part: disjoint, together all of 0 .. count - 1, the same for the same seed.

    Sizes are the fractions of `count`, rounded so that they add up (largest remainder).
    Raises NetcError E0559 unless the parts are known and the fractions are above 0 and sum to 1.
    """
    for part, fraction in fractions.items():
        if part not in PARTS:
            raise NetcError("E0559", f"`split` has no part `{part}`", f"the parts are {', '.join(PARTS)}")
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
            raise NetcError("E0559", f"the part `{part}` is {fraction!r} of the examples, expected more than 0 % "
                            "and at most 100 %", "write for example split = [train = 80%, validate = 20%]")
    total = sum(fractions.values())
    if abs(total - 1) > 1e-6:
        raise NetcError("E0559", f"the parts of `split` sum to {total * 100:g} %, expected 100 %",
                        "each example belongs to one part")
    # 1e-9 keeps 0.7 * 10 = 7.000000000000001 and 0.1 * 30 = 3.0000000000000004 from mattering.
    exact = {part: fractions[part] * count for part in PARTS if part in fractions}
    sizes = {part: floor(size + 1e-9) for part, size in exact.items()}
    for part in sorted(exact, key=lambda part: sizes[part] - exact[part])[:count - sum(sizes.values())]:
        sizes[part] += 1
    order = np.random.default_rng(seed).permutation(count)
    rows, start = {}, 0
    for part in sizes:
        rows[part] = np.sort(order[start:start + sizes[part]])
        start += sizes[part]
    return rows


def read_split(path: Path, count: int) -> dict[str, np.ndarray]:
    """Rows of each part from an index file for `count` examples.

    Either a table with the header `index,part` that lists each example once, counted from 0, or one part name a line,
    a line for each example. Raises NetcError E0552, E0553, E0559 with the line.
    """
    part_of: list[str | None] = [None] * count
    indexed = False
    try:
        with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
            position = 0
            for number, row in enumerate(csv.reader(file), 1):
                row = [cell.strip() for cell in row]
                if number == 1 and row == ["index", "part"]:
                    indexed = True
                    continue
                if not any(row):
                    continue
                if len(row) != (2 if indexed else 1):
                    raise damaged(path, f"expected {'`index,part`' if indexed else 'one part name'}, "
                                  f"got `{','.join(row)[:60]}`", "a file of two columns starts with `index,part`",
                                  number)
                index = _index(path, row[0], count, number) if indexed else position
                position += 1
                if index >= count:
                    raise NetcError("E0559", f"the data has {count} examples, this file lists more",
                                    "the index file belongs to other data", f"{path}:{number}")
                if row[-1] not in PARTS:
                    raise NetcError("E0559", f"there is no part `{row[-1]}`", f"the parts are {', '.join(PARTS)}",
                                    f"{path}:{number}")
                if part_of[index] is not None:
                    raise NetcError("E0559", f"the example {index} stands in two lines",
                                    "each example belongs to one part", f"{path}:{number}")
                part_of[index] = row[-1]
    except (csv.Error, UnicodeDecodeError) as error:
        raise damaged(path, f"not an index file: {error}", "each line is: index,part") from None
    if None in part_of:
        raise NetcError("E0559", f"the example {part_of.index(None)} stands in no part; the file lists "
                        f"{count - part_of.count(None)} of {count} examples",
                        "each example belongs to one part", str(path))
    parts = np.array(part_of, dtype=object)
    return {part: np.flatnonzero(parts == part) for part in PARTS if part in part_of}


def _index(path: Path, cell: str, count: int, line: int) -> int:
    if not (cell.isascii() and cell.isdigit()) or len(cell) > 18 or int(cell) >= count:
        raise NetcError("E0559", f"`{cell[:40]}` is no example: expected 0 to {count - 1}",
                        "examples are counted from 0", f"{path}:{line}")
    return int(cell)
