"""`netc test`: losses, metrics and confusions of a trained net on data it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.options import CHECK, GRAPH, PARAMS, SET, device, parse_settings, split_place

if TYPE_CHECKING:
    from runtime.data import Part
    from runtime.evaluate import Evaluation


@click.command(epilog="\b\nExamples:\n  netc test digits.netb"
               "\n  netc test specs/digits.net --params runs/digits/best.safetensors"
               "\n  netc test digits.netb --part validate --json")
@click.argument("net", metavar="FILE.netb | FILE.net")
@PARAMS
@click.option("--part", default="test", show_default=True, type=click.Choice(["train", "validate", "test"]),
              help="The part of the data to measure on.")
@click.option("--batch", type=click.IntRange(min=1), help="Examples at a time; by default as the data section says.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (all cores by default).")
@device("auto: the GPU if there is one, else the CPU; cuda-emulator: CUDA kernels on the CPU.")
@CHECK
@GRAPH
@click.option("--json", "as_json", is_flag=True, help="Print values, accuracy by class and confusions as JSON.")
@SET
def command(net: str, params: str | None, part: str, batch: int | None, threads: int | None, device: str,
            as_json: bool, settings: tuple[str, ...]) -> int:
    """Measure a net on a part of its data: loss, metrics, and for classes what was taken for what.

    An artifact brings its weights. For a .net file they are those of --params, or of runs/NET, where `netc train` puts
    them.
    """
    from runtime.data import DataConfig, Field, open_data
    from runtime.errors import NetcError
    from runtime.evaluate import evaluate
    from runtime.execute import use_threads
    use_threads(threads)
    executable, section = _artifact(net, params, settings, device) if net.endswith(".netb") \
        else _source(net, params, settings, device)
    if section is None:
        raise NetcError("E0641", f"{net} names no data to test on", "add a data section to the .net file")
    config = DataConfig.from_json(section)
    data = open_data(config, [Field.from_manifest(e) for e in executable.manifest["inputs"]]).part(part)
    found = evaluate(executable, data, batch or config.batch, confusion=True)
    if as_json:
        click.echo(json.dumps(_as_json(found, data, config.name), indent=1))
    else:
        click.echo(_as_text(found, data, config.name), nl=False)
    return 0


def _artifact(path: str, params: str | None, settings: tuple[str, ...],
              device: str) -> tuple[Any, dict[str, Any] | None]:
    if settings:
        raise click.UsageError("--set applies to .net files; an artifact was compiled with its settings.")
    from runtime.execute import Executable
    executable = Executable.load(path, device)
    if params:
        from runtime.checkpoint import read_weights
        executable.parameters.assign(read_weights(params), params)
        executable.prepare()
    return executable, executable.manifest["data"]


def _source(place: str, params: str | None, settings: tuple[str, ...],
            device: str) -> tuple[Any, dict[str, Any] | None]:
    import netc
    path, name = split_place(place)
    loaded = netc.load(path, settings=parse_settings(settings), **({"net": name} if name else {}))
    weights = params or str(Path("runs") / loaded.program.net / "best.safetensors")
    return loaded.compile("evaluate", device=device, params=weights), loaded.data_config


def _as_json(found: Evaluation, part: Part, name: str) -> dict[str, Any]:
    return {"data": name, "part": part.name, "examples": found.examples, "values": dict(found.values),
            "images_per_second": found.examples / found.seconds, "label": found.label,
            "classes": None if found.confusion is None else _classes(found, part), "per_class": found.per_class,
            "confusion": None if found.confusion is None else found.confusion.tolist()}


def _as_text(found: Evaluation, part: Part, name: str) -> str:
    from netc.progress import values_text
    lines = [f"{name}, part {part.name}, {found.examples:,} examples: {values_text(found.values)}"
             f"  ({found.examples / found.seconds:,.0f} images/s)"]
    if found.confusion is not None:
        names = _classes(found, part)
        width = max(len(found.label or ""), *map(len, names))
        lines.append(f"{found.label:<{width}}  examples  right    most often taken for")
        for index, share in enumerate(found.per_class or []):
            wrong = found.confusion[index].copy()
            wrong[index] = 0
            taken = f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
            right = "" if share is None else f"{share:.1%}"
            lines.append(f"{names[index]:<{width}}  {found.confusion[index].sum():8,}  {right:<7}  {taken}".rstrip())
    return "\n".join(lines) + "\n"


def _classes(found: Evaluation, part: Part) -> list[str]:
    return list(part.class_names or map(str, range(len(found.confusion))))
