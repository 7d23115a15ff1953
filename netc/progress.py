"""Showing a training run: a live line on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from runtime.events import Epoch, Observer, Result, Start, Step

REFRESH = 0.1  # seconds
LINES = 100  # about as many lines are printed for a run, however many epochs it has


def observer(quiet: bool = False) -> Observer:
    """The observer for this process: none, live, or plain."""
    if quiet:
        return Observer()
    return Live() if sys.stdout.isatty() else Plain()


class Plain(Observer):
    """Prints a line for each epoch, for every tenth where there are a thousand."""

    def on_start(self, event: Start) -> None:
        self.start = event
        self.spacing = max(1, math.ceil(event.epochs / LINES))
        self.printed: Epoch | None = None
        self.latest: Epoch | None = None
        self.show(f"{'resuming' if event.resumed else 'training'} {event.net}: {event.examples:,} examples, "
                  f"{event.steps_per_epoch:,} steps an epoch, {event.epochs:g} epochs at most"
                  + (f", {event.step:,} steps done" if event.resumed else ""))

    def on_epoch(self, event: Epoch) -> None:
        self.latest = event
        if event.epoch == 1 or event.epoch % self.spacing == 0:
            self.show(epoch_line(event))
            self.printed = event

    def on_end(self, result: Result) -> None:
        if self.latest is not self.printed:
            self.show(epoch_line(self.latest))

    def show(self, line: str) -> None:
        print(line, flush=True)


class Live(Plain):
    """Epochs as `Plain` prints them, and under them a line with progress, loss, metrics, images/s and time left."""

    def __init__(self, console=None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"),
            console=console or Console(), auto_refresh=False, transient=True)

    def on_start(self, event: Start) -> None:
        self.began = self.refreshed = time.perf_counter()
        self.examples = 0
        self.task = self.progress.add_task("", total=event.total_steps, completed=event.step, epoch="", text="")
        self.progress.start()
        super().on_start(event)

    def on_step(self, event: Step) -> None:
        now = time.perf_counter()
        if now - self.refreshed < REFRESH:
            return
        self.refreshed = now
        done = event.step - self.start.step
        seconds = now - self.began
        rate = done * self.start.examples / self.start.steps_per_epoch / seconds
        left = seconds / done * (self.start.total_steps - event.step)
        self.progress.update(
            self.task, completed=event.step, epoch=f"{event.epoch}/{math.ceil(self.start.epochs)}",
            text=f"{values_text(event.means)}  {rate:,.0f} images/s  {duration_text(left)} left", refresh=True)

    def on_end(self, result: Result) -> None:
        self.close()
        super().on_end(result)

    def close(self) -> None:
        self.progress.stop()

    def show(self, line: str) -> None:
        if self.progress.live.is_started:
            self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            super().show(line)


def epoch_line(event: Epoch) -> str:
    """An epoch in a line; a star marks the best so far."""
    parts = [f"epoch {event.epoch:4d}  {values_text(event.train)}"]
    if event.validate:
        parts.append(f"  |  validation {values_text(event.validate)}{' *' if event.improved else '  '}")
    return "".join([*parts, f"  {event.rate:,.0f} images/s  {event.seconds:.1f} s"])


def result_text(result: Result) -> str:
    """How a run ended, and what to do next."""
    lines = {"finished": f"finished after {result.epochs} epochs",
             "stopped": f"stopped after {result.epochs} epochs: {result.monitor} is no better since epoch "
                        f"{result.best_epoch}",
             "interrupted": f"interrupted after {result.steps:,} steps; --resume goes on from here"}[result.status]
    lines += f", {duration_text(result.seconds)}\n"
    if result.best_epoch is not None:
        lines += f"best: epoch {result.best_epoch}, {values_text(result.values)}\nweights: {result.best}\n"
    return lines


def values_text(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{name} {value:.2e}"
                     for name, value in values.items())


def duration_text(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
