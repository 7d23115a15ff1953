"""The log of a run: `log.jsonl`, one record a line, and the same numbers as TensorBoard events.

Nothing is ever taken back: a resumed run appends a `resume` record, and readers drop what an interrupted run had logged
beyond the checkpoint it was resumed from.

Records: kind "start" | "resume" (step, epoch: done so far), "step" (step, epoch, lr, loss and metrics of the batch),
"epoch" (epoch, step, lr, train, validate, images_per_second, seconds, improved), "end" (status, step, epoch).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from runtime.errors import NetcError

NAME = "log.jsonl"


class Log:
    """The open log of a run in `folder`. resumed: steps and epochs done, when it goes on; None for a new run.

    Raises NetcError E0605 when the folder cannot be written.
    """

    def __init__(self, folder: Path, resumed: tuple[int, int] | None = None, **about: Any):
        # The writer itself, not `SummaryWriter`: that hands each number to a thread, which costs more than a step.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        path = folder / NAME
        try:
            self._stream = open(path, "a" if resumed else "w", encoding="utf-8")
        except OSError as problem:
            raise NetcError("E0605", f"cannot write {path}: {problem.strerror}", "choose another --out") from problem
        if resumed and _ends_in_a_line(path):
            self._stream.write("\n")
        if not resumed:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        step, epoch = resumed or (0, 0)
        self._event = Event
        self._events = EventsWriter(str(folder / "events"), f".{step}")
        if resumed:  # TensorBoard drops what it has from this step on
            self._events.write_event(Event(wall_time=time.time(), step=step + 1,
                                           session_log=SessionLog(status=SessionLog.START)))
        self._write("resume" if resumed else "start", step=step, epoch=epoch, time=time.time(), **about)

    def step(self, step: int, epoch: int, lr: float, readings: dict[str, float]) -> None:
        self._write("step", step=step, epoch=epoch, lr=lr, **readings)
        self._scalars({f"batch/{name}": value for name, value in readings.items()}, step)

    def epoch(self, epoch: int, step: int, lr: float, train: dict[str, float], validate: dict[str, float] | None,
              images_per_second: float, seconds: float, improved: bool) -> None:
        self._write("epoch", epoch=epoch, step=step, lr=lr, train=train, validate=validate, improved=improved,
                    images_per_second=round(images_per_second, 1), seconds=round(seconds, 3))
        self._scalars({**{f"train/{name}": value for name, value in train.items()},
                       **{f"validate/{name}": value for name, value in (validate or {}).items()},
                       "lr": lr, "images_per_second": images_per_second}, step)

    def end(self, status: str, step: int, epoch: int) -> None:
        self._write("end", status=status, step=step, epoch=epoch)

    def flush(self) -> None:
        self._stream.flush()
        self._events.flush()

    def close(self) -> None:
        self._stream.close()
        self._events.close()

    def _write(self, kind: str, **values: Any) -> None:
        self._stream.write(json.dumps({"kind": kind, **values}) + "\n")
        if kind != "step":
            self._stream.flush()

    def _scalars(self, values: dict[str, float], step: int) -> None:
        event = self._event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._events.write_event(event)


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a log as if the run had never been interrupted: without `resume` records and what they replace.

    Lines that were cut off by a crash are skipped. Raises NetcError E0624 when there is no log.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError as problem:
        raise NetcError("E0624", f"cannot read the log {path}: {problem.strerror}",
                        "`netc train` writes it into its --out") from problem
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or "kind" not in record:
            continue
        if record["kind"] == "resume":
            records = [r for r in records if _stands(r, record["step"], record["epoch"])]
        else:
            records.append(record)
    return records


def _stands(record: dict[str, Any], step: int, epoch: int) -> bool:
    if record["kind"] == "step":
        return record["step"] <= step
    return record["kind"] == "start" or record["kind"] == "epoch" and record["epoch"] <= epoch


def _ends_in_a_line(path: Path) -> bool:
    """Whether the last line lacks its end, as after a crash."""
    with open(path, "rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
