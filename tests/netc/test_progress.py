"""What a training run prints: a line an epoch, thinned out for long runs; a live line on terminals."""

import io
from pathlib import Path

import pytest

from netc.progress import Live, Plain, duration_text, epoch_line, result_text, values_text
from runtime.events import Epoch, Result, Start, Step


def start(epochs=3):
    return Start("digits", Path("runs/digits"), 0, epochs * 10, 10, epochs, 320, "loss", False)


def epoch(number, improved=True, validate=None):
    return Epoch(number, number * 10, {"loss": 0.5, "accuracy": 0.75}, validate, 0.1, 1234.4, 2.04, improved, 0, None)


def result(status, **changes):
    values = {"status": status, "epochs": 7, "steps": 70, "monitor": "loss", "best_epoch": 4, "best_value": 0.25,
              "values": {"loss": 0.25, "accuracy": 0.9}, "best": Path("r/best.safetensors"),
              "last": Path("r/last.safetensors"), "seconds": 75.0}
    return Result(**{**values, **changes})


def test_plain_prints_every_epoch(capsys):
    plain = Plain()
    plain.on_start(start())
    for number in (1, 2, 3):
        plain.on_epoch(epoch(number))
    plain.on_end(result("finished"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training digits: 320 examples, 10 steps an epoch, 3 epochs at most"
    assert lines[1:] == [epoch_line(epoch(n)) for n in (1, 2, 3)]


def test_plain_thins_out_long_runs_and_prints_the_last(capsys):
    plain = Plain()
    plain.on_start(start(2000))
    for number in range(1, 1996):
        plain.on_epoch(epoch(number))
    plain.on_end(result("stopped"))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 101 and lines[0].startswith("epoch    1 ") and lines[-1].startswith("epoch 1995 ")


def test_epoch_line():
    assert epoch_line(epoch(3)) == "epoch    3  loss 0.5000  accuracy 0.7500  1,234 images/s  2.0 s"
    validated = epoch_line(epoch(3, validate={"loss": 0.25}))
    assert validated == "epoch    3  loss 0.5000  accuracy 0.7500  |  validation loss 0.2500 *  1,234 images/s  2.0 s"
    assert " *" not in epoch_line(epoch(3, improved=False, validate={"loss": 0.25}))


def test_live_shows_progress_metrics_rate_and_time_left(monkeypatch):
    from rich.console import Console

    from netc import progress
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=140))
    live.on_start(start())
    clock[0] = 2.0
    live.on_step(Step(10, 1, 10, 320, 0.1, {"loss": 0.5}, {"loss": 0.75, "accuracy": 0.5}))
    live.on_epoch(epoch(1))
    live.on_end(result("finished"))
    text = out.getvalue()
    assert "epoch 1/3" in text and "loss 0.7500  accuracy 0.5000" in text
    assert not live.progress.live.is_started, "the cursor is shown again"
    live.close()
    assert "160 images/s" in text and "0:04 left" in text and epoch_line(epoch(1)) in text


@pytest.mark.parametrize("status, words", [
    ("finished", "finished after 7 epochs, 1:15"), ("stopped", "loss is no better since epoch 4"),
    ("interrupted", "interrupted after 70 steps; --resume goes on from here"),
])
def test_results(status, words):
    text = result_text(result(status))
    assert words in text and "best: epoch 4, loss 0.2500  accuracy 0.9000" in text and "r/best.safetensors" in text


def test_interrupted_before_the_first_validation():
    assert "best" not in result_text(result("interrupted", best_epoch=None, best_value=None, values={}))


def test_numbers():
    shown = values_text({"loss": 0.0000123, "zero": 0.0, "accuracy": 0.98765})
    assert shown == "loss 1.23e-05  zero 0.0000  accuracy 0.9877"
    assert [duration_text(s) for s in (4.4, 75, 3671)] == ["0:04", "1:15", "1:01:11"]
