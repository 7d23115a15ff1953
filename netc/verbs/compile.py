"""`netc compile`: a net becomes an artifact, one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.api import choices
from netc.options import EXACT, MEMORY, PARAMS, PRECISION, SEARCH, SET, load_net, parse_batches, recompute_text, split_place

if TYPE_CHECKING:
    from netc.api import Net


@click.command(epilog="\b\nExamples:\n  netc compile specs/digits.net --params runs/digits/best.safetensors -o digits.netb"
               "\n  netc compile specs/lenet.net --target cuda:sm_80,sm_90\n  netc compile x.net --target cpu:x86-64-v3"
               "\n  netc compile specs/lenet.net --params lenet.safetensors --emit c -o deploy")
@click.argument("net")
@click.option("-o", "--output", metavar="PATH", help="The file to write, NET.netb by default; with --emit c the folder, NET by "
              "default.")
@click.option("--emit", type=click.Choice(["netb", "c"]), default="netb", show_default=True,
              help="An artifact for `netc run` and Python, or a C library: header, shared library, weights (docs/c.md).")
@click.option("--target", default="cpu", show_default=True, metavar="TARGET",
              help="cpu (this machine), cpu:x86-64-v3, cpu:generic, …; cuda:sm_80,sm_90 for GPUs and this machine's CPU in one "
              "file; cuda:sm_90+cpu:generic for another CPU beside them.")
@PARAMS
@click.option("--train", "training", is_flag=True, help="Include the programs that train and evaluate.")
@click.option("--seed", default=0, show_default=True, help="Seed of the initialization, where no --params are given.")
@click.option("--design-batch", "batch", default=1, show_default=True, type=click.IntRange(min=1),
              help="The batch kernels are made for; the artifact runs any batch.")
@click.option("--batch", "batches", metavar="N[,N…]", callback=lambda context, option, value: parse_batches(value),
              help="Add variants of the net made for these batches alone (CPU only); other batches run as ever.")
@click.option("--variants", default=1, show_default=True, type=click.IntRange(1, 3),
              help="For GPUs: how many ways to make each kernel the file holds, for `netc tune` to choose from.")
@click.option("--fast-math", "fast_math", is_flag=True,
              help="For GPUs: quicker and less exact division, square roots and functions (of NVIDIA's compiler).")
@EXACT
@PRECISION
@SEARCH
@MEMORY
@SET
def command(net: str, output: str | None, emit: str, target: str, params: str | None, training: bool, seed: int, batch: int,
            batches: tuple[int, ...], variants: int, fast_math: bool, exact: bool, precision: str, search: float, memory: int | None, settings: tuple[str, ...]) -> int:
    """Compile a net (FILE.net, or FILE.net:NAME where a file holds several) to an artifact."""
    from netc import kept
    from runtime.format import write
    place = Path(split_place(net)[0])
    how = {"memory": memory, "exact": exact, "search": search, "precision": precision,
           "variants": variants, "fast_math": fast_math, "batches": batches}
    if emit == "c":
        if training:
            raise click.UsageError("--emit c writes what is deployed: it has no --train")
        return write_c(load_net(net, settings), output, target, params, seed, batch, how)
    asked = kept.request(place, settings, target, net=net, training=training, batch=batch, **how)
    artifact = kept.recall(asked, params, seed)
    if artifact is None:
        loaded = load_net(net, settings)
        mode = "train" if training else "evaluate" if loaded.graph.losses or loaded.graph.metrics else "run"
        artifact = loaded.build(mode, target, params, seed, batch, **how)
        kept.remember(asked, place, loaded.program, target, choices(mode, batch, **how))
    if not training:
        warn_of_seed(params)
    path = Path(output or f"{place.stem}.netb")
    write(path, artifact.manifest, artifact.members)
    size = path.stat().st_size
    kernels = len(artifact.manifest["programs"].get("run", {"kernels": []})["kernels"])
    names = [half["target"]["name"] for half in (artifact.manifest, *artifact.manifest.get("halves", {}).values())]
    click.echo(f"wrote {path}: {size:,} bytes, {kernels} kernels for {' and '.join(names)}")
    if batches:
        click.echo(f"of its own for batch {', '.join(map(str, sorted(set(batches))))}")
    for name, entry in artifact.manifest["programs"].items():
        click.echo(recompute_text(name, entry), nl=False)
    return 0


def write_c(loaded: Net, output: str | None, target: str, params: str | None, seed: int, batch: int,
            how: dict[str, Any]) -> int:
    """The C library, and what its files take."""
    deployed = loaded.emit_c(output or loaded.program.net, target, params, seed, batch, **how)
    warn_of_seed(params)
    for path, what in ((deployed.header, "declares the functions"), (deployed.library, "all that runs"),
                       (deployed.weights, "the weights")):
        click.echo(f"wrote {path}: {path.stat().st_size:,} bytes, {what}")
    return 0


def warn_of_seed(params: str | None) -> None:
    if params is None:
        click.echo("warning: no --params given: what is written holds a seeded initialization, not trained weights", err=True)
