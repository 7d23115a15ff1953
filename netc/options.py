"""What several verbs share: naming a net in a file, its settings, images and arrays as inputs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import click

from runtime.errors import NetcError
from runtime.format import size

SET = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
                   help="Set a parameter of the net, e.g. --set classes=10. May be repeated.")
MEMORY = click.option("--memory-budget", "memory", metavar="SIZE", callback=lambda context, option, value: parse_bytes(value),
                      help="Memory that intermediate tensors may take, e.g. 512MiB: tensors are computed again to fit.")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
EXACT = click.option("--exact", is_flag=True, help="Only sums as the text has them: no Winograd or Fourier convolutions (error 3e-6).")
PRECISION = click.option("--precision", type=click.Choice(["f32", "bf16", "f16", "tf32"]), default="f32", show_default=True,
                         help="Of the operands of products, and (bf16, f16) of what lies between layers; sums are f32.")
SEARCH = click.option("--search", metavar="SECONDS", default=0.0, type=click.FloatRange(min=0.0),
                      help="Look so long for a better order of rewrites than one pass after another.")
PARAMS = click.option("--params", metavar="FILE", help="Trained weights (.safetensors), as `netc train` writes them.")
CHECK = click.option("--check", is_flag=True, expose_value=False,
                     callback=lambda context, option, value: _check_accesses(context, value),
                     help="With --device cuda-emulator: check each access of a kernel to memory, and its barriers.")


GRAPH = click.option("--no-graph", is_flag=True, expose_value=False, callback=lambda context, option, value: _no_graph(value),
                     help="On a GPU: launch kernels one by one, not all of a program as one recorded CUDA graph.")


def _no_graph(value: bool) -> None:
    if value:
        os.environ["NETC_CUDA_GRAPH"] = "0"


def device(help: str, default: str = "auto"):
    """The option --device."""
    return click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "cuda-emulator"]), default=default,
                        show_default=True, is_eager=True, help=help)


def _check_accesses(context: click.Context, value: bool) -> None:
    if value:
        if context.params.get("device") != "cuda-emulator":
            raise click.UsageError("--check needs --device cuda-emulator.")
        os.environ["NETC_EMULATOR_CHECK"] = "1"


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


def parse_bytes(text: str | None) -> int | None:
    """`512MiB` → 536870912. Raises NetcError E0415."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = {unit.lower(): factor for unit, factor in UNITS.items()}.get(found[2].lower() or "b") if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise NetcError("E0415", f"`{text}` is not an amount of memory", "write e.g. --memory-budget 512MiB")
    return int(float(found[1]) * factor)


def parse_batches(text: str | None) -> tuple[int, ...]:
    """`1,16` as numbers. Raises NetcError E0417."""
    words = [word.strip() for word in (text or "").split(",")] if text is not None else []
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise NetcError("E0417", f"`{text}` is no list of batches", "write numbers from 1 on, e.g. --batch 1,16")
    return tuple(map(int, words))


def recompute_text(name: str, entry: Mapping[str, Any]) -> str:
    """What a program (an entry of the manifest) pays for its memory budget; empty where it pays nothing."""
    if "recompute" not in entry:
        return ""
    paid = entry["recompute"]
    arena = size(entry["arena"], dict.fromkeys(entry["symbols"], paid["batch"]))
    return (f"{name} takes {arena / 2**20:,.1f} MiB instead of {paid['without'] / 2**20:,.1f} at batch {paid['batch']}: "
            f"{paid['tensors']} tensors are computed again, predicted {1e3 * paid['seconds']:.3g} ms\n")


def load_net(place: str, settings: tuple[str, ...] = (), **choices: Any):
    """The net named by `x.net` or `x.net:name` (a net, or a train section that names one)."""
    import netc
    path, name = split_place(place)
    return netc.load(path, settings=parse_settings(settings), **({"net": name} if name else {}), **choices)


IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def read_array(path: str, entry: dict[str, Any] | None = None):
    """An input from a file: .npy, .npz (its first array), or an image fitted to the input's [C, H, W].

    Raises NetcError E0615 (unreadable) and what `runtime.data.read_images` raises.
    """
    import os

    import numpy as np
    if not os.path.isfile(path):
        raise NetcError("E0615", f"there is no file {path}")
    if path.lower().endswith(IMAGES) and entry is not None:
        from pathlib import Path

        from runtime.data.config import Field
        from runtime.data.read_images import read_image
        return read_image(Path(path), Field.from_manifest(entry))[None]
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except (ValueError, OSError, EOFError, IndexError) as problem:
        what = problem.strerror if isinstance(problem, OSError) and problem.strerror else "it holds no array of numbers"
        raise NetcError("E0615", f"cannot read {path}: {what}", "give a .npy, .npz, .png or .jpg file") from problem
