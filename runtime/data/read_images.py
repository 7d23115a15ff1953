"""`images:FOLDER` (a folder for each class) and `images:LIST` (a path and a label on each line).

Only names are read when the data is opened; pixels are decoded when a batch asks for them.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from runtime.data.config import Field
from runtime.data.files import damaged, missing, reading
from runtime.data.fit import Place, check_class_names, check_classes, encode_labels
from runtime.errors import NetcError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageExamples:
    """Images on disk. labels: [n, *label.shape] of the label's type, or None where the net asks for no label."""

    file: str
    image: Field
    paths: tuple[str, ...]
    label: Field | None
    labels: np.ndarray | None
    class_names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.paths)

    def gather_into(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> None:
        """Decode the images `rows` into `out`; raises NetcError E0558 with the path of one that cannot be read."""
        images = out[self.image.name]
        for slot, row in enumerate(rows):
            images[slot] = read_image(Path(self.paths[row]), self.image)
        if self.label is not None:
            np.take(self.labels, rows, axis=0, out=out[self.label.name], mode="clip")


def read_image(path: Path, field: Field) -> np.ndarray:
    """One image file as the field wants it: shape [1 or 3, H, W] or [H, W], values 0 to 255 in the field's type.

    Turned upright by its EXIF tag, converted to grey or RGB, resized to H x W (bilinear, antialiased).
    Raises NetcError E0552, E0558 (not an image, damaged, too large), E0555 (the field is no image).
    """
    from PIL import Image, ImageOps  # the runtime starts without pillow; only image sources pay for it

    channels, height, width = image_shape(field)
    with reading(path), open(path, "rb"):
        try:
            with Image.open(path) as image:  # by its path: pillow then loads the decoder of the suffix, not all
                image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I"):  # 16-bit grey: pillow would clip it to 255
                    image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
                image = image.convert("L" if channels == 1 else "RGB")
                if image.size != (width, height):
                    image = image.resize((width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
                Image.DecompressionBombError) as error:
            raise NetcError("E0558", f"cannot read the image: {error}",
                            "remove the file, or save it again as PNG or JPEG", str(path)) from None
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels.reshape(field.shape), dtype=field.numpy_dtype)


def image_shape(field: Field) -> tuple[int, int, int]:
    """(channels, height, width) of a field that can take an image; raises NetcError E0555."""
    shape = (1, *field.shape) if len(field.shape) == 2 else field.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or field.numpy_dtype.kind == "b" or field.dtype in ("i8", "int8"):
        raise NetcError("E0555", f"an image does not fit `{field}`",
                        "images fit fields like u8[N, 3, H, W] (colour) and u8[N, 1, H, W] (grey)")
    return shape


def read_images(path: Path, fields: Sequence[Field], feed: Mapping[str, str | tuple[str, ...]],
                known: Mapping[str, tuple[str, ...]]) -> ImageExamples:
    """Find the images below a folder, or those of a list file.

    Folder: each folder in it is a class, its images (sought in its folders too) are the class's examples, in the order
    of their names. Classes are numbered in sorted order, by value where all folder names are whole numbers.
    List: `path label` on each line, the path relative to the list; `#` starts a comment line; labels are class numbers
    or names. Raises NetcError E0552, E0553, E0554 (fields that images cannot feed), E0557, E0560 (no images).
    """
    image, label = _choose_fields(path, fields, feed)
    image_shape(image)
    names = known.get(label.name) if label is not None else None
    if path.is_dir():
        paths, labels, names = _read_folder(path, label, names)
    else:
        paths, labels, names = _read_list(path, label, names)
    if label is not None:
        labels = np.ascontiguousarray(labels.reshape(-1, *label.shape), dtype=label.numpy_dtype)
    class_names = {label.name: names} if label is not None and names is not None else {}
    return ImageExamples(str(path), image, tuple(paths), label, labels, class_names)


def _choose_fields(path: Path, fields: Sequence[Field],
                   feed: Mapping[str, str | tuple[str, ...]]) -> tuple[Field, Field | None]:
    if feed:
        raise NetcError("E0554", "an images source takes no `feed`",
                        "the image feeds the input, the folder or list feeds the label", str(path))
    inputs = [field for field in fields if field.role == "input"]
    labels = [field for field in fields if field.role == "label"]
    if len(inputs) != 1 or len(labels) > 1:
        raise NetcError("E0554", "an images source feeds one input and one label, the net has "
                        + ", ".join(str(field) for field in fields), "use an npz: source", str(path))
    label = labels[0] if labels else None
    if label is not None and (label.numpy_dtype.kind not in "iu" or prod(label.shape) != 1):
        raise NetcError("E0554", f"an images source gives class numbers, which do not fit `{label}`",
                        f"declare `label {label.name}: i32[N] in CLASSES`", str(path))
    return inputs[0], label


def _read_folder(path: Path, label: Field | None, known: tuple[str, ...] | None
                 ) -> tuple[list[str], np.ndarray | None, tuple[str, ...] | None]:
    if label is None:
        paths = _images_below(path)
        if not paths:
            raise _no_images(path)
        return paths, None, None
    with reading(path), os.scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise NetcError("E0560", "there is no folder of a class in it",
                        "put the images of each class into a folder of its own, named after the class", str(path))
    if all(name.isascii() and name.isdigit() for name in folders):
        folders.sort(key=int)
    names = known or tuple(folders)
    check_class_names(names, label, str(path))
    paths, labels = [], []
    for folder in folders:
        if folder not in names:
            raise NetcError("E0557", f"the folder `{folder}` is none of the classes {', '.join(names[:20])}",
                            "remove the folder, or list it in `classes`", str(path / folder))
        found = _images_below(path / folder)
        if not found:
            raise _no_images(path / folder)
        paths += found
        labels += [names.index(folder)] * len(found)
    return paths, np.array(labels, dtype=np.int64), names


def _no_images(path: Path) -> NetcError:
    return NetcError("E0560", "there is no image in this folder", f"images end in {', '.join(SUFFIXES)}", str(path))


def _images_below(path: Path) -> list[str]:
    found = []
    for folder, below, files in os.walk(path):
        below.sort()
        found += [os.path.join(folder, name) for name in sorted(files)
                  if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return found


def _read_list(path: Path, label: Field | None, known: tuple[str, ...] | None
               ) -> tuple[list[str], np.ndarray | None, tuple[str, ...] | None]:
    if not path.exists():
        raise missing(path, "folder or list file")
    paths, cells, lines = [], [], []
    try:
        with reading(path), open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                name = line
                if label is not None:
                    name, _, cell = line.rpartition(" " if "\t" not in line else "\t")
                    if not name:
                        raise damaged(path, f"expected `path label`, got `{line[:60]}`", None, number)
                    cells.append(cell.strip())
                paths.append(str(path.parent / name.strip()))
                lines.append(number)
    except UnicodeDecodeError:
        raise damaged(path, "the list is not UTF-8 text", "each line is: path label") from None
    if not paths:
        raise NetcError("E0560", "the list names no image", "each line is: path label", str(path))
    for name, number in zip(paths, lines):
        if not os.path.isfile(name):
            raise NetcError("E0552", f"there is no image `{name}`", "paths are relative to the list file",
                            f"{path}:{number}")
    if label is None:
        return paths, None, None
    place = Place(str(path), label.name, lines)
    numbers, names = encode_labels(cells, label, place, known)
    if label.classes is not None:
        check_classes(numbers, label, place)
    return paths, numbers, names
