"""Opening the data section of a net: its sources, its parts, and the examples as the net's fields."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Mapping, Sequence

import numpy as np

from runtime.arrays import aligned
from runtime.data.config import DataConfig, Field
from runtime.data.files import resolve
from runtime.data.fit import ArrayExamples
from runtime.data.read_csv import read_csv
from runtime.data.read_idx import read_idx
from runtime.data.read_images import ImageExamples, read_images
from runtime.data.read_npz import read_npz
from runtime.data.split import read_split, split_by_fractions
from runtime.errors import NetcError

Examples = ArrayExamples | ImageExamples

# kind -> reader(path, fields, feed, known class names): examples. A new source is a file and a line here.
SOURCES = {"csv": read_csv, "idx": read_idx, "npz": read_npz, "images": read_images}


@dataclass(frozen=True)
class Part:
    """One part (train, validate or test) of a data set; an index counts from 0 to len(part) - 1 within the part."""

    name: str
    fields: tuple[Field, ...]
    examples: Examples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers, of the first label that has names; else None."""
        return next(iter(self.examples.class_names.values()), None)

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The examples `indices`: for each field a new 64-byte-aligned array [len(indices), *field.shape].

        Raises IndexError for an index outside the part, and NetcError E0558 for an image that cannot be read.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"index outside 0 to {len(self) - 1}")
        out = {field.name: aligned((len(indices), *field.shape), field.numpy_dtype) for field in self.fields}
        self.examples.gather_into(self.rows[indices], out)
        return out


@dataclass(frozen=True)
class Dataset:
    """An opened data section: `parts` has those of train, validate, test that the section gives."""

    config: DataConfig
    fields: tuple[Field, ...]
    parts: Mapping[str, Part]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.parts["train"].class_names

    def part(self, name: str) -> Part:
        """The part `name`; raises NetcError E0559 where the section gives no such part."""
        if name not in self.parts:
            raise NetcError("E0559", f"data `{self.config.name}` has no part `{name}`, only {', '.join(self.parts)}",
                            f"give it a share: split = [train = 80%, {name} = 20%]" if name != "train" else None)
        return self.parts[name]


def open_data(config: DataConfig, fields: Sequence[Field]) -> Dataset:
    """Open the sources of a data section and divide them into parts.

    Tables and arrays are read and checked whole; images are only listed, and decoded by `Part.gather`.
    Raises NetcError E0550 to E0560, see `netc explain`.
    """
    fields = tuple(fields)
    _check_feed(config, fields)
    known = _known_classes(config, fields)
    sources = config.source if isinstance(config.source, Mapping) else {"train": config.source}
    examples = {"train": _open_source(config, sources["train"], fields, known)}
    known = known | dict(examples["train"].class_names)
    for part, source in sources.items():
        if part != "train":
            examples[part] = _open_source(config, source, fields, known)
    rows = _split(config, len(examples["train"]))
    for part in rows:
        if part != "train" and part in sources:
            raise NetcError("E0559", f"the part `{part}` has a source of its own and a share of the train source",
                            f"take `{part}` out of `split` or out of `source`")
    parts = {part: Part(part, fields, examples["train"], part_rows) for part, part_rows in rows.items()}
    parts |= {part: Part(part, fields, own, np.arange(len(own))) for part, own in examples.items() if part != "train"}
    for part in parts.values():
        if len(part) == 0:
            raise NetcError("E0560", f"the part `{part.name}` of data `{config.name}` has no examples",
                            "give it a larger share, or more data", part.examples.file)
    return Dataset(config, fields, parts)


def _split(config: DataConfig, count: int) -> dict[str, np.ndarray]:
    if config.split is None:
        return {"train": np.arange(count)}
    if isinstance(config.split, str):
        rows = read_split(resolve(config.root, config.split), count)
    else:
        rows = split_by_fractions(count, config.split, config.seed)
    if "train" not in rows:
        raise NetcError("E0559", f"`split` of data `{config.name}` gives no examples to `train`",
                        "give it a share, for example train = 80%")
    return rows


def _open_source(config: DataConfig, source: str, fields: tuple[Field, ...],
                 known: Mapping[str, tuple[str, ...]]) -> Examples:
    kind, colon, path = source.partition(":")
    if not colon or kind not in SOURCES or not path:
        close = get_close_matches(kind, SOURCES, n=1)
        hint = f"did you mean `{close[0]}:`?" if close and colon and path else "write for example \"csv:table.csv\""
        raise NetcError("E0551", f"`{source}` is no source of data: expected one of "
                        + ", ".join(f"{name}:PATH" for name in SOURCES), hint, f"data `{config.name}`")
    return SOURCES[kind](resolve(config.root, path), fields, config.feed, known)


def _check_feed(config: DataConfig, fields: tuple[Field, ...]) -> None:
    names = [field.name for field in fields]
    for name in config.feed:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"the net has {', '.join(names)}"
            raise NetcError("E0554", f"`feed` of data `{config.name}` names `{name}`, which is no field of the net",
                            hint)


def _known_classes(config: DataConfig, fields: tuple[Field, ...]) -> dict[str, tuple[str, ...]]:
    if config.classes is None:
        return {}
    for field in fields:
        if field.classes is not None and field.classes != len(config.classes):
            raise NetcError("E0557", f"`{field.name}` has {field.classes} classes, `classes` of data `{config.name}` "
                            f"names {len(config.classes)}", "make the two agree")
    return {field.name: config.classes for field in fields if field.role == "label" and field.numpy_dtype.kind in "iu"}
