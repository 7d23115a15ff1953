"""What the compiler tells the runtime about data: the resolved `data` section and the net's fields.

Both travel as plain JSON (in the artifact's manifest), so reading is strict: an unknown key or a wrong type is an
error, never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

import numpy as np

from runtime.errors import NetcError

PARTS = ("train", "validate", "test")

# The language's type names and numpy's, which manifests use, mean the same.
DTYPES = {
    "u8": np.uint8, "i8": np.int8, "i16": np.int16, "u16": np.uint16, "i32": np.int32, "u32": np.uint32,
    "i64": np.int64, "f16": np.float16, "f32": np.float32, "f64": np.float64, "bool": np.bool_,
    "uint8": np.uint8, "int8": np.int8, "int16": np.int16, "uint16": np.uint16, "int32": np.int32, "uint32": np.uint32,
    "int64": np.int64, "float16": np.float16, "float32": np.float32, "float64": np.float64,
}


def _refuse(what: str, message: str, hint: str | None = None) -> NetcError:
    return NetcError("E0550", f"{what}: {message}", hint)


def _keys(what: str, json: Any, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    """Refuse what is not an object with all `required` keys and no key beyond `optional`."""
    if not isinstance(json, Mapping):
        raise _refuse(what, f"expected an object, got {type(json).__name__}")
    known = required + optional
    for key in json:
        if key not in known:
            raise _refuse(what, f"unknown key `{key}`", f"the keys are {', '.join(known)}")
    for key in required:
        if key not in json:
            raise _refuse(what, f"the key `{key}` is missing")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, str) for v in value)


@dataclass(frozen=True)
class Field:
    """One `input` or `label` of the net.

    shape: of one example, without the batch. role: "input" or "label". classes: for a label of the form
    `i32[N] in 10` the number of classes, its values then run from 0 to classes - 1; else None.
    JSON: `{"name": str, "dtype": str, "shape": [int], "role": str, "classes": int | null}`; `classes` may be left out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str = "input"
    classes: int | None = None

    def __post_init__(self) -> None:
        what = f"field `{self.name}`"
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.dtype not in DTYPES:
            raise _refuse(what, f"data cannot be read as `{self.dtype}`", f"the types are {', '.join(DTYPES)}")
        if not all(_is_int(size) and size > 0 for size in self.shape):
            raise _refuse(what, f"the shape {list(self.shape)} is not a list of positive numbers")
        if self.role not in ("input", "label"):
            raise _refuse(what, f"the role is `input` or `label`, not `{self.role}`")
        if self.classes is not None and not (_is_int(self.classes) and self.classes > 0):
            raise _refuse(what, f"`classes` is a positive number, not {self.classes!r}")
        if self.classes is not None and self.numpy_dtype.kind not in "iu":
            raise _refuse(what, f"class labels are whole numbers, not `{self.dtype}`", "declare the label as i32[N]")

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(DTYPES[self.dtype])

    def __str__(self) -> str:
        return f"{self.role} {self.name}: {self.dtype}[{', '.join(['N', *map(str, self.shape)])}]"

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> Field:
        _keys("field", json, ("name", "dtype", "shape", "role"), ("classes",))
        if not isinstance(json["shape"], (list, tuple)):
            raise _refuse(f"field `{json['name']}`", f"the shape is a list, not {json['shape']!r}")
        return cls(json["name"], json["dtype"], tuple(json["shape"]), json["role"], json.get("classes"))

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any]) -> Field:
        """The field of an entry of the artifact's `inputs`, whose shape has the batch in front."""
        return cls.from_json(dict(entry, shape=list(entry["shape"])[1:]))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "role": self.role,
                "classes": self.classes}


@dataclass(frozen=True)
class Augment:
    """One step of `augment = [...]`: the name of an augmentation and all its arguments by name.

    JSON: `{"op": str, "args": {str: number | str}}`. `runtime.data.augment.AUGMENTATIONS` says what there is.
    """

    op: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> Augment:
        _keys("augment", json, ("op",), ("args",))
        args = json.get("args", {})
        if not isinstance(json["op"], str) or not isinstance(args, Mapping):
            raise _refuse("augment", "expected {op: text, args: object}")
        return cls(json["op"], dict(args))

    def to_json(self) -> dict[str, Any]:
        return {"op": self.op, "args": dict(self.args)}


@dataclass(frozen=True)
class DataConfig:
    """A resolved `data` section.

    JSON keys (`name`, `source`, `batch` are required):
    name     text, for messages
    source   "csv:PATH", "idx:PREFIX", "npz:PATH", "images:FOLDER" or "images:LIST"; or an object
             {part: source} with parts among train, validate, test, train always among them
    root     the folder that relative paths start from; default "."
    batch    examples in a step, > 0
    split    null (all is train), {part: fraction} with a sum of 1, or the path of an index file; where `source` is an
             object, it divides the train source
    augment  list of {op, args}, applied in order, to the train part only
    feed     {field: column, list of columns, array or file}; a field that is left out is found by its name
    shuffle  whether training visits the examples in a new order each epoch; default true
    seed     of the split by fractions; default 0
    classes  names of the classes in the order of their numbers; default: from the source, if it has names
    """

    name: str
    source: str | Mapping[str, str]
    batch: int
    root: str = "."
    split: str | Mapping[str, float] | None = None
    augment: tuple[Augment, ...] = ()
    feed: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    shuffle: bool = True
    seed: int = 0
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        what = f"data `{self.name}`"
        self._check_source(what)
        if not (_is_int(self.batch) and self.batch > 0):
            raise _refuse(what, f"`batch` is a positive whole number, not {self.batch!r}")
        if not isinstance(self.root, str):
            raise _refuse(what, f"`root` is a path, not {self.root!r}")
        if not (self.split is None or isinstance(self.split, (str, Mapping))):
            raise _refuse(what, f"`split` is a list of fractions or the path of an index file, not {self.split!r}")
        feeds = self.feed.values() if isinstance(self.feed, Mapping) else [None]
        if not all(isinstance(fed, str) or _is_names(fed) for fed in feeds):
            raise _refuse(what, f"`feed` gives each field a name or a list of names, not {self.feed!r}")
        if not isinstance(self.shuffle, bool):
            raise _refuse(what, f"`shuffle` is true or false, not {self.shuffle!r}")
        if not (_is_int(self.seed) and self.seed >= 0):
            raise _refuse(what, f"`seed` is a whole number from 0, not {self.seed!r}")
        if self.classes is not None and not (_is_names(self.classes) and len(set(self.classes)) == len(self.classes)):
            raise _refuse(what, f"`classes` is a list of different names, not {self.classes!r}")

    def _check_source(self, what: str) -> None:
        if isinstance(self.source, Mapping):
            for part in self.source:
                if part not in PARTS:
                    raise _refuse(what, f"`source` has no part `{part}`", f"the parts are {', '.join(PARTS)}")
            if "train" not in self.source:
                raise _refuse(what, "`source` gives no train part", "add train = \"...\"")
            sources = list(self.source.values())
        else:
            sources = [self.source]
        for source in sources:
            if not isinstance(source, str):
                raise _refuse(what, f"`source` is text like \"csv:file.csv\", not {source!r}")

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> DataConfig:
        """Read a section from JSON. Raises NetcError E0550 for an unknown key, a missing one or a wrong type."""
        _keys("data section", json, ("name", "source", "batch"),
              ("root", "split", "augment", "feed", "shuffle", "seed", "classes"))
        values = dict(json)
        if not isinstance(values["name"], str):
            raise _refuse("data section", f"`name` is text, not {values['name']!r}")
        if not isinstance(values.get("augment", []), (list, tuple)):
            raise _refuse(f"data `{values['name']}`", f"`augment` is a list, not {values['augment']!r}")
        values["augment"] = tuple(Augment.from_json(step) for step in values.get("augment", []))
        feed = values.get("feed") or {}
        if isinstance(feed, Mapping):
            feed = {name: tuple(f) if isinstance(f, list) else f for name, f in feed.items()}
        values["feed"] = feed
        if isinstance(values.get("classes"), list):
            values["classes"] = tuple(values["classes"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        plain = {name: list(f) if isinstance(f, tuple) else f for name, f in self.feed.items()}
        return {
            "name": self.name,
            "source": dict(self.source) if isinstance(self.source, Mapping) else self.source,
            "root": self.root,
            "batch": self.batch,
            "split": dict(self.split) if isinstance(self.split, Mapping) else self.split,
            "augment": [step.to_json() for step in self.augment],
            "feed": plain,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "classes": None if self.classes is None else list(self.classes),
        }
