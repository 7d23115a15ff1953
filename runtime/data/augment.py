"""Random changes of training images: one table of what there is, applied to whole batches.

Every draw is a hash of (seed, epoch, example, step of the list), so an example is changed the same way whatever batch
it lies in. Inputs of rank 3 [C, H, W] are changed, in their own units and type: integers are rounded and clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from runtime.data.config import Augment, Field
from runtime.errors import NetcError


@dataclass(frozen=True)
class Parameter:
    """An argument of an augmentation. kind: "int", "float" or "word"; low, high: the smallest and largest value;
    words: what a word may be; default None: the argument must be given."""

    name: str
    kind: str
    meaning: str
    default: int | float | str | None = None
    low: float = 0
    high: float = float("inf")
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Augmentation:
    """parameters: in the order in which positional arguments bind. apply(images, draw, args): changes f32 images
    [B, C, H, W] and returns them; draw(n): numbers [B, n], uniform in [0, 1), new at each call."""

    meaning: str
    parameters: tuple[Parameter, ...]
    apply: Callable[[np.ndarray, Callable[[int], np.ndarray], Mapping[str, Any]], np.ndarray]


def _crop(images, draw, args):
    pad = args["pad"]
    batch, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    corners = (draw(2) * (2 * pad + 1)).astype(np.int64)
    for slot in range(batch):
        top, left = corners[slot]
        images[slot] = padded[slot, :, top:top + height, left:left + width]
    return images


def _flip(images, draw, args):
    axis = -1 if args["direction"] == "horizontal" else -2
    chosen = draw(1)[:, 0] < 0.5
    images[chosen] = np.flip(images[chosen], axis)
    return images


def _jitter(images, draw, args):
    factors = (1 + args["amount"] * (2 * draw(2) - 1)).astype(np.float32)
    brightness, contrast = factors[:, 0, None, None, None], factors[:, 1, None, None, None]
    images *= brightness
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return (images - mean) * contrast + mean


def _noise(images, draw, args):
    # Box-Muller: two uniform numbers make one normal number.
    batch, size = len(images), images[0].size
    radius = np.sqrt(-2 * np.log1p(-draw(size)))
    normal = radius * np.cos(2 * np.pi * draw(size))
    return images + (args["std"] * normal).astype(np.float32).reshape(batch, *images.shape[1:])


def _rotate(images, draw, args):
    angle = np.deg2rad(args["degrees"]) * (2 * draw(1)[:, 0] - 1)
    batch, _, height, width = images.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    from_y, from_x = cos * y - sin * x + (height - 1) / 2, sin * y + cos * x + (width - 1) / 2
    # One ring of zeros around the image makes "outside is 0" part of the interpolation.
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    from_y, from_x = (from_y + 1).clip(0, height + 1), (from_x + 1).clip(0, width + 1)
    top, left = np.minimum(from_y.astype(np.int64), height), np.minimum(from_x.astype(np.int64), width)
    down, right = (from_y - top).astype(np.float32)[:, None], (from_x - left).astype(np.float32)[:, None]
    slot = np.arange(batch)[:, None, None]
    # Indexing with the channel axis between puts it last: [B, H, W, C].
    corner = [padded[slot, :, top + dy, left + dx].transpose(0, 3, 1, 2) for dy in (0, 1) for dx in (0, 1)]
    upper = corner[0] * (1 - right) + corner[1] * right
    lower = corner[2] * (1 - right) + corner[3] * right
    return upper * (1 - down) + lower * down


def _erase(images, draw, args):
    size = args["size"]
    batch, _, height, width = images.shape
    centre = draw(2) * (height, width)
    tops, lefts = np.rint(centre - size / 2).astype(np.int64).T
    for slot in range(batch):
        top, left = tops[slot], lefts[slot]
        images[slot, :, max(top, 0):max(top + size, 0), max(left, 0):max(left + size, 0)] = 0
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(
        "pads with zeros on each side and cuts a window of the old size at a random place: a shift of up to `pad`",
        (Parameter("pad", "int", "pixels added on each side", low=1),), _crop),
    "flip": Augmentation(
        "mirrors every second image, by chance",
        (Parameter("direction", "word", "which way", "horizontal", words=("horizontal", "vertical")),), _flip),
    "jitter": Augmentation(
        "multiplies the brightness, and the contrast around the image's mean, each by 1 ± up to `amount`",
        (Parameter("amount", "float", "the largest relative change", high=1),), _jitter),
    "rotate": Augmentation(
        "turns around the centre by up to ± `degrees`, bilinear, zero outside",
        (Parameter("degrees", "float", "the largest angle", high=180),), _rotate),
    "noise": Augmentation(
        "adds normal noise to each value",
        (Parameter("std", "float", "its standard deviation, in the input's own units (0 to 255 for u8 images)"),),
        _noise),
    "erase": Augmentation(
        "sets a square at a random place to zero, cut off at the border (cutout, arXiv:1708.04552)",
        (Parameter("size", "int", "side of the square in pixels", low=1),), _erase),
}


def check_augment(steps: Sequence[Augment], fields: Sequence[Field]) -> None:
    """Refuse unknown names and arguments, values out of range, and nets without an image input (NetcError E0561)."""
    for step in steps:
        complete_args(step)
    if steps and not any(_is_image(field) for field in fields):
        raise NetcError("E0561", "`augment` changes images, the net has no input of the form [N, C, H, W]",
                        "take `augment` out of the data section")
    for step in steps:
        for field in filter(_is_image, fields):
            limit = min(field.shape[1:])
            if step.op in ("crop", "erase") and next(iter(complete_args(step).values())) > limit:
                raise NetcError("E0561", f"`{step.op}` moves or erases more than the image: `{field.name}` is "
                                f"{field.shape[1]}x{field.shape[2]}", f"use at most {limit}")


def complete_args(step: Augment) -> dict[str, Any]:
    """All arguments of the step by name, defaults filled in; raises NetcError E0561."""
    if step.op not in AUGMENTATIONS:
        close = get_close_matches(step.op, AUGMENTATIONS, n=1)
        raise NetcError("E0561", f"there is no augmentation `{step.op}`",
                        f"did you mean `{close[0]}`?" if close else f"there are {', '.join(AUGMENTATIONS)}")
    parameters = {parameter.name: parameter for parameter in AUGMENTATIONS[step.op].parameters}
    for name in step.args:
        if name not in parameters:
            raise NetcError("E0561", f"`{step.op}` has no argument `{name}`", f"it takes {', '.join(parameters)}")
    args = {}
    for name, parameter in parameters.items():
        value = step.args.get(name, parameter.default)
        if value is None:
            raise NetcError("E0561", f"`{step.op}` needs `{name}`: {parameter.meaning}")
        if not _accepts(parameter, value):
            if parameter.words:
                expected = " or ".join(parameter.words)
            else:
                expected = ("a whole number" if parameter.kind == "int" else "a number") + f" from {parameter.low:g}"
                expected += f" to {parameter.high:g}" if parameter.high != float("inf") else ""
            raise NetcError("E0561", f"`{name}` of `{step.op}` is {value!r}, expected {expected}")
        args[name] = value
    return args


def _accepts(parameter: Parameter, value: Any) -> bool:
    if parameter.kind == "word":
        return value in parameter.words
    kinds = int if parameter.kind == "int" else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and parameter.low <= value <= parameter.high


def _is_image(field: Field) -> bool:
    return field.role == "input" and len(field.shape) == 3 and field.numpy_dtype.kind != "b"


def augment_batch(arrays: Mapping[str, np.ndarray], fields: Sequence[Field], steps: Sequence[Augment],
                  seed: int, epoch: int, indices: np.ndarray) -> None:
    """Apply `steps` in order, in place, to each image input [B, C, H, W] of `arrays`.

    indices: the example behind each slot. Two image inputs of an example are changed alike.
    """
    for field in filter(_is_image, fields):
        array = arrays[field.name]
        images = array.astype(np.float32)
        for number, step in enumerate(steps):
            draw = _draws(seed, epoch, indices, number)
            images = AUGMENTATIONS[step.op].apply(images, draw, complete_args(step))
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            images = np.rint(images).clip(limits.min, limits.max)
        array[...] = images


# splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014): a counter and a hash.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _draws(seed: int, epoch: int, indices: np.ndarray, stage: int) -> Callable[[int], np.ndarray]:
    """draw(n) -> [len(indices), n] uniform in [0, 1); each call goes on where the last one ended."""
    state = np.zeros(len(indices), dtype=np.uint64)
    for word in (seed % 2**64, epoch, stage, np.asarray(indices)):
        state = _mix(state + _GAMMA ^ np.asarray(word).astype(np.uint64))
    used = 0

    def draw(count: int) -> np.ndarray:
        nonlocal used
        counter = np.arange(used + 1, used + count + 1, dtype=np.uint64)
        used += count
        return (_mix(state[:, None] + counter * _GAMMA) >> np.uint64(11)) * 2.0**-53

    return draw
