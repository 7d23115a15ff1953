"""`netc train`: compile a net for training, train it, keep its best weights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from netc.options import CHECK, GRAPH, MEMORY, SET, device, parse_settings, recompute_text, split_place


@click.command(epilog="\b\nExamples:\n  netc train specs/digits.net\n  netc train specs/digits.net --resume"
               "\n  netc train x.net:fit --out runs/second --epochs 5\n  netc train x.net --set classes=10 --fresh")
@click.argument("net")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path),
              help="The folder of the run: best and last weights, log; runs/NET by default.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; it ends as if never interrupted.")
@click.option("--fresh", is_flag=True, help="Start over where the folder holds a run already.")
@click.option("--epochs", type=click.IntRange(min=1), help="How long to train, instead of what the section says.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), metavar="STEPS",
              help="Write a checkpoint every so many steps too; by default each minute, and at the end of epochs.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (all cores by default).")
@device("Where to train; auto: the GPU if there is one; cuda-emulator: CUDA kernels on the CPU, for small nets.", "cpu")
@CHECK
@GRAPH
@MEMORY
@click.option("--quiet", "-q", is_flag=True, help="Print only how the run ended.")
@SET
def command(net: str, out: Path | None, resume: bool, fresh: bool, epochs: int | None, checkpoint_every: int | None,
            threads: int | None, device: str, memory: int | None, quiet: bool, settings: tuple[str, ...]) -> int:
    """Train a net (FILE.net, or FILE.net:NAME where a file holds several train sections).

    Validates after each epoch, stops when the validation no longer improves (`patience` of the train section), and
    keeps the best weights in best.safetensors. Ctrl-C ends the step at hand and writes a checkpoint; --resume goes on
    from it. Exits with 130 when interrupted.
    """
    if resume and fresh:
        raise click.UsageError("--resume and --fresh exclude each other.")
    import netc
    from netc.progress import observer, result_text
    from runtime.execute import use_threads
    from runtime.schedule import Duration
    from runtime.train import train
    from runtime.train_config import TrainConfig
    use_threads(threads)
    path, name = split_place(net)
    loaded = netc.load(path, settings=parse_settings(settings), **({"train": name} if name else {}))
    if loaded.program.train is None:
        _say_which(path)
    executable = loaded.compile("train", device=device, seed=(loaded.train_config or {}).get("seed", 0), memory=memory)
    if not quiet:
        click.echo(recompute_text("step", executable.manifest["programs"]["step"]), nl=False)
    config = TrainConfig.from_json(loaded.train_config)
    if epochs:
        config = config.with_run(Duration(epochs, "epochs"))
    with closing(observer(quiet)) as watching:
        result = train(executable, config, loaded.data_config, out or Path("runs") / loaded.program.net, resume=resume,
                       fresh=fresh, observer=watching, checkpoint_every=checkpoint_every)
    click.echo(result_text(result), nl=False)
    return 130 if result.status == "interrupted" else 0


def _say_which(path: str) -> None:
    """Raises NetcError E0512 where a file has several train sections and none was chosen."""
    from compiler.elaborate import declarations
    from runtime.errors import NetcError
    names = declarations(Path(path)).train
    if len(names) > 1:
        raise NetcError("E0512", f"{path} has several train sections: {', '.join(names)}",
                        f"choose one: netc train {path}:{names[0]}")
