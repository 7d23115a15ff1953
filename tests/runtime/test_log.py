"""The log: plain lines, TensorBoard events, and one consistent story after interruptions."""

import json

import pytest
from tensorboardX.proto.event_pb2 import Event

from runtime.errors import NetcError
from runtime.log import Log, read_log


def epoch(log, number, loss=0.5):
    log.epoch(number, number * 10, 0.1, {"loss": loss}, {"loss": loss + 1}, 1234.56, 0.5, True)


def run(folder, epochs, resumed=None):
    log = Log(folder, resumed, net="fake")
    for number in epochs:
        log.step(number * 10, number, 0.1, {"loss": 1.0 / number})
        epoch(log, number)
    log.flush()
    return log


def test_records(tmp_path):
    log = run(tmp_path, [1, 2])
    log.end("finished", 20, 2)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in lines] == ["start", "step", "epoch", "step", "epoch", "end"]
    assert lines[0]["net"] == "fake" and lines == read_log(tmp_path / "log.jsonl")
    assert lines[2] == {"kind": "epoch", "epoch": 1, "step": 10, "lr": 0.1, "train": {"loss": 0.5},
                        "validate": {"loss": 1.5}, "improved": True, "images_per_second": 1234.6, "seconds": 0.5}


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    run(tmp_path, [1, 2, 3]).close()
    with open(tmp_path / "log.jsonl", "a") as stream:
        stream.write('{"kind": "step", "st')
    kept = (tmp_path / "log.jsonl").read_bytes()
    run(tmp_path, [2, 3], resumed=(10, 1)).close()
    assert (tmp_path / "log.jsonl").read_bytes().startswith(kept), "nothing is taken back"
    records = read_log(tmp_path / "log.jsonl")
    assert [(r["kind"], r["step"]) for r in records] == [
        ("start", 0), ("step", 10), ("epoch", 10), ("step", 20), ("epoch", 20), ("step", 30), ("epoch", 30)]


def test_an_epoch_that_was_logged_but_not_saved_is_logged_once(tmp_path):
    run(tmp_path, [1, 2]).close()
    log = Log(tmp_path, (20, 1))  # the checkpoint was written between the last step and the validation
    epoch(log, 2)
    log.close()
    assert [(r["kind"], r["step"]) for r in read_log(tmp_path / "log.jsonl")] == [
        ("start", 0), ("step", 10), ("epoch", 10), ("step", 20), ("epoch", 20)]


def test_a_new_run_starts_a_new_log(tmp_path):
    run(tmp_path, [1, 2]).close()
    run(tmp_path, [1]).close()
    assert len(read_log(tmp_path / "log.jsonl")) == 3
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_tensorboard_events(tmp_path):
    run(tmp_path, [1, 2]).close()
    [file] = tmp_path.glob("events.out.tfevents.*")
    scalars = {(value.tag, event.step): value.simple_value for event in events(file) for value in event.summary.value}
    assert scalars["train/loss", 10] == 0.5 and scalars["validate/loss", 20] == 1.5
    assert scalars["batch/loss", 20] == 0.5 and scalars["lr", 10] == pytest.approx(0.1)
    run(tmp_path, [2], resumed=(10, 1)).close()
    files = sorted(tmp_path.glob("events.out.tfevents.*"))
    starts = [e.step for f in files for e in events(f) if e.WhichOneof("what") == "session_log"]
    assert 11 in starts, "TensorBoard is told to drop what came after step 10"


def events(file):
    """The events of a TFRecord file: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12:12 + length])
        data = data[16 + length:]


def test_no_log(tmp_path):
    with pytest.raises(NetcError) as problem:
        read_log(tmp_path / "none.jsonl")
    assert problem.value.code == "E0624"
