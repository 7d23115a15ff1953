"""What several verbs share: naming a net in a file, its settings, images and arrays as inputs."""

from __future__ import annotations

from typing import Any

import click

from runtime.errors import NetcError

SET = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
                   help="Set a parameter of the net, e.g. --set classes=10. May be repeated.")
PARAMS = click.option("--params", metavar="FILE", help="Trained weights (.safetensors), as `netc train` writes them.")


def split_place(text: str) -> tuple[str, str | None]:
    """`x.net:fit` → ("x.net", "fit")."""
    path, colon, name = text.rpartition(":")
    if colon and path.endswith((".net", ".netb")):
        return path, name
    return text, None


def parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` pairs. Raises NetcError E0407."""
    out = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise NetcError("E0407", f"`{pair}` sets nothing", "write --set NAME=VALUE")
        out[name.strip()] = value.strip()
    return out


def load_net(place: str, settings: tuple[str, ...] = (), **choices: Any):
    """The net named by `x.net` or `x.net:name` (a net, or a train section that names one)."""
    import netc
    path, name = split_place(place)
    return netc.load(path, settings=parse_settings(settings), **({"net": name} if name else {}), **choices)


def read_array(path: str, entry: dict[str, Any] | None = None):
    """An input from a file: .npy, .npz (one array), or an image fitted to the input's [C, H, W].

    Raises NetcError E0615 (unreadable) and E0616 (an image for an input that is none).
    """
    import os

    import numpy as np
    if not os.path.isfile(path):
        raise NetcError("E0615", f"there is no file {path}")
    try:
        if path.endswith((".npy", ".npz")):
            loaded = np.load(path, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
        if path.lower().endswith((".png", ".jpg", ".jpeg", ".bmp", ".gif")):
            return _read_image(path, entry)
    except (ValueError, OSError, IndexError) as problem:
        raise NetcError("E0615", f"cannot read {path}: {problem}", "give a .npy, .npz, .png or .jpg file") from problem
    raise NetcError("E0615", f"cannot read {path}: its kind is not known", "give a .npy, .npz, .png or .jpg file")


def _read_image(path: str, entry: dict[str, Any] | None):
    import numpy as np
    from PIL import Image
    shape = entry["shape"] if entry else []
    if len(shape) != 4 or shape[1] not in (1, 3) or not all(isinstance(s, int) for s in shape[1:]):
        raise NetcError("E0616", f"{path} is an image, the input `{entry['name'] if entry else '?'}` has shape {shape}",
                        "images fit inputs of shape [N, 1 or 3, height, width]; give an array as .npy")
    with Image.open(path) as image:
        picture = image.convert("L" if shape[1] == 1 else "RGB").resize((shape[3], shape[2]), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    array = array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]
    return np.ascontiguousarray(array).astype(entry["dtype"])
