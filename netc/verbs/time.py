"""`netc time`: how long a net takes, whole and layer by layer."""

from __future__ import annotations

import json

import click

from netc.layers import short
from netc.options import GRAPH, SET, device, load_net, split_place


@click.command(epilog="\b\nExamples:\n  netc time specs/googlenet.net\n  netc time digits.netb --batch 16\n"
               "  netc time specs/digits.net --train --batch 32 --threads 1"
               "\n  netc time specs/lenet.net --layers --threads 1")
@click.argument("net")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--train", "training", is_flag=True, help="Time a training step: forward, backward and update.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (all cores by default).")
@click.option("--layers", is_flag=True, help="Beside each kernel what the compiler predicts, its bytes, and its share of what "
              "multiply-adds alone reach on this CPU.")
@device("auto: the GPU if there is one, else the CPU; cuda-emulator: CUDA kernels on the CPU, which says nothing of a GPU.")
@GRAPH
@click.option("--json", "as_json", is_flag=True, help="Print {total_ms, kernels: [...]}.")
@SET
def command(net: str, batch: int, training: bool, threads: int | None, layers: bool, device: str, as_json: bool,
            settings: tuple[str, ...]) -> int:
    """Time a net (.net, or a compiled .netb) on random inputs: the whole program, and each kernel by layer names."""
    from runtime.errors import NetcError
    from runtime.execute import Executable, use_threads
    from runtime.measure import random_feeds, time_kernels, time_program
    use_threads(threads)
    path = split_place(net)[0]
    mode = "train" if training else "run"
    exe = Executable.load(path, device) if path.endswith(".netb") else load_net(net, settings).compile(mode, device=device)
    program = "step" if training else "run"
    if program not in exe.programs:
        raise NetcError("E0619", f"{path} does not hold the program `{program}`", "compile it with --train")
    sizes = {symbol: batch for symbol in exe.programs[program]["symbols"]}
    feeds = random_feeds(exe, program, sizes)
    total = time_program(exe, program, feeds)
    rows = time_kernels(exe, program, feeds, sizes)
    peak = _peak(threads) if layers and exe.manifest["target"]["kind"] == "cpu" else None
    if as_json:
        click.echo(json.dumps({"net": exe.manifest["net"], "program": program, "batch": batch, "total_ms": total,
                               "peak_gflops": peak, "kernels": [vars(row) for row in rows]}, indent=1))
        return 0
    _table(exe.manifest["net"], program, batch, total, rows, layers, peak)
    return 0


def _peak(threads: int | None) -> float:
    """GFLOP/s of multiply-adds without memory, now, on the threads that kernels may use."""
    from netc import peak
    from runtime.threads import count
    return peak.measure() * (threads or count()) / 1e9


def _table(net: str, program: str, batch: int, total: float, rows: list, layers: bool, peak: float | None) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(title=f"{net}: {program}, batch {batch}: {total:.3f} ms a call", title_justify="left", box=None,
                  pad_edge=False)
    for heading in ("layers", "ops", "part"):
        table.add_column(heading, overflow="fold")
    for heading in ("ms", *(("predicted",) if layers else ()), "%", "GFLOP/s", *(("of peak",) if peak else ()), "GB/s",
                    *(("KB",) if layers else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    whole = sum(r.ms for r in rows) or 1.0
    for r in rows:
        flops, bytes = (r.flops / r.ms / 1e6, r.bytes / r.ms / 1e6) if r.ms else (0.0, 0.0)
        table.add_row(short(r.layers), " ".join(r.ops), r.part, f"{r.ms:.4f}",
                      *([f"{r.predicted_ms:.4f}" if r.predicted_ms else ""] if layers else []),
                      f"{100 * r.ms / whole:.1f}", f"{flops:.1f}", *([f"{100 * flops / peak:.0f}%"] if peak else []),
                      f"{bytes:.1f}", *([f"{r.bytes / 1e3:,.0f}"] if layers else []))
    if peak:
        table.caption, table.caption_justify = f"multiply-adds alone: {peak:.1f} GFLOP/s", "left"
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
