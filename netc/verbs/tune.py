"""`netc tune`: on a GPU machine, the fastest of an artifact's kernels that do the same."""

from __future__ import annotations

import json

import click

from netc.layers import short


@click.command(epilog="\b\nExamples:\n  netc compile specs/lenet.net --target cuda:sm_80,sm_90 --variants 3 -o lenet.netb"
               "\n  netc tune lenet.netb --batch 16\n  netc tune lenet.netb -o tuned.netb --json")
@click.argument("artifact")
@click.option("-o", "--output", metavar="PATH", help="The file to write, instead of the artifact itself.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Batch to time at; any batch runs.")
@click.option("--device", type=click.Choice(["cuda", "cuda-emulator"]), default="cuda", show_default=True,
              help="The emulator's times say nothing of a GPU: it is for trying the command.")
@click.option("--json", "as_json", is_flag=True, help="Print {tuned, kernels: [{program, layers, ms, chosen}]}.")
def command(artifact: str, output: str | None, batch: int, device: str, as_json: bool) -> int:
    """Time the variants of each kernel on this machine's GPU, and remember the fastest in the artifact.

    `netc compile --variants 3` keeps several; `netc run` uses the one predicted to be best, or the one remembered. The file
    is replaced as a whole, when all is done.
    """
    from runtime.format import read, write
    from runtime.tune import tune
    tuned, choices = tune(read(artifact), device, batch)
    write(output or artifact, tuned.manifest, tuned.members)
    about = tuned.manifest["tuned"]
    if as_json:
        click.echo(json.dumps({"tuned": about, "kernels": [vars(choice) for choice in choices]}, indent=1))
        return 0
    for choice in choices:
        times = "  ".join(f"{'*' if rank == choice.chosen else ' '}{ms:.4f}" for rank, ms in enumerate(choice.ms))
        click.echo(f"{choice.program:<9} {times}  ms  {short(choice.layers)}")
    changed = sum(choice.chosen != 0 for choice in choices)
    click.echo(f"wrote {output or artifact}: {changed} of {len(choices)} kernels are now others than predicted to be best, "
               f"on {about['device']} at batch {about['batch']}")
    return 0
