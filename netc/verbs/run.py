"""`netc run`: an artifact on inputs from files."""

from __future__ import annotations

import click

from netc.options import CHECK, GRAPH, device, read_array

SMALL = 500_000_000  # floating-point operations that a core does in some ten milliseconds


@click.command(epilog="\b\nExamples:\n  netc run digits.netb --input image=seven.png"
               "\n  netc run x.netb --input image=@a.npy --expect p=@b.npy --atol 1e-4\n  netc run x.netb --input image=@a.npy --output p=@p.npy")
@click.argument("artifact")
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=FILE",
              help="An input: .npy, .npz, .png or .jpg (a leading @ is allowed).")
@click.option("--output", "-o", "outputs", multiple=True, metavar="NAME=FILE", help="Write an output to a .npy file.")
@click.option("--expect", "expected", multiple=True, metavar="NAME=FILE", help="Compare an output with a .npy file.")
@click.option("--atol", default=1e-5, show_default=True, help="Absolute tolerance of --expect.")
@click.option("--rtol", default=1e-5, show_default=True, help="Relative tolerance of --expect.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (all cores by default).")
@device("auto: the GPU if there is one, else the CPU code of the artifact; cuda-emulator: its CUDA kernels on the CPU.")
@CHECK
@GRAPH
@click.option("--json", "as_json", is_flag=True, help="Print outputs as JSON.")
def command(artifact: str, inputs: tuple[str, ...], outputs: tuple[str, ...], expected: tuple[str, ...], atol: float,
            rtol: float, threads: int | None, device: str, as_json: bool) -> int:
    """Run an artifact and print (or write, or compare) its outputs. Exits with 1 when an expectation is not met."""
    import os
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads: never used here, and slow to start
    from runtime.errors import NetcError
    from runtime import format
    from runtime.execute import Executable, use_threads
    found = format.read(artifact, held=False)
    entries = {e["name"]: e for e in found.manifest["inputs"] if e["role"] == "input"}
    for name, _ in _pairs(inputs):
        if name not in entries:
            raise NetcError("E0612", f"`{name}` is no input of {artifact}", "its inputs are " + ", ".join(f"`{known}`" for known in entries))
    feeds = {name: read_array(path, entries[name]) for name, path in _pairs(inputs)}
    asked = threads or os.environ.get("NETC_NUM_THREADS")
    use_threads(threads if asked or not _small(found.manifest, feeds) else 1)
    exe = Executable(found, device)
    results = exe.call("run", feeds)
    for name, _ in [*_pairs(outputs), *_pairs(expected)]:
        if name not in results:
            raise NetcError("E0617", f"{artifact} has no output `{name}`", f"it has {', '.join(results)}")
    for name, path in _pairs(outputs):
        _write(path, results[name])
    if not outputs and not expected:
        _print(exe.manifest, results, as_json)
    met = [_compare(name, results[name], read_array(path), atol, rtol) for name, path in _pairs(expected)]
    return 0 if all(met) else 1


def _small(manifest: dict, feeds: dict) -> bool:
    """Whether a single call takes less time than starting threads for it would."""
    from runtime.format import size
    program = manifest["programs"].get("run", {"symbols": [], "kernels": []})
    examples = max((len(array) for array in feeds.values() if array.ndim), default=1)
    return sum(size(kernel["flops"], dict.fromkeys(program["symbols"], examples)) for kernel in program["kernels"]) < SMALL


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    from runtime.errors import NetcError
    pairs = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            raise NetcError("E0618", f"`{text}` names no file", "write NAME=FILE")
        pairs.append((name, path.removeprefix("@")))
    return pairs


def _write(path: str, array) -> None:
    import numpy as np

    from runtime.format import atomic
    with atomic(path) as stream:
        np.save(stream, array, allow_pickle=False)


def _print(manifest: dict, results: dict, as_json: bool) -> None:
    import json
    if as_json:
        click.echo(json.dumps({name: array.tolist() for name, array in results.items()}))
        return
    classes = manifest.get("class_names") or []
    for name, array in results.items():
        click.echo(f"{name}: {array.dtype}{list(array.shape)}")
        for row, values in enumerate(array.reshape(len(array), -1) if array.ndim else [array.reshape(1)]):
            if row == 10:
                click.echo(f"  … {len(array) - 10} more rows")
                break
            shown = "  ".join(f"{v:.4g}" for v in values[:12]) + ("  …" if len(values) > 12 else "")
            largest = int(values.argmax()) if values.size else 0
            called = f" = {classes[largest]}" if len(classes) == values.size else ""
            click.echo(f"  [{row}] {shown}   (largest: {largest}{called})")


def _compare(name: str, got, wanted, atol: float, rtol: float) -> bool:
    import numpy as np
    if got.shape != wanted.shape:
        click.echo(f"{name}: shape {list(got.shape)}, expected {list(wanted.shape)}", err=True)
        return False
    difference = np.abs(got.astype("f8") - wanted.astype("f8"))
    met = bool(np.all(difference <= atol + rtol * np.abs(wanted)))
    where = np.unravel_index(int(difference.argmax()), difference.shape) if difference.size else ()
    click.echo(f"{name}: {'as expected' if met else 'not as expected'}, largest difference "
               f"{difference.max() if difference.size else 0:.3g} at {list(map(int, where))}", err=not met)
    return met
