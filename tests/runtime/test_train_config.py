"""The resolved train section: strict reading, and what follows from it."""

import pytest

from runtime.errors import NetcError
from runtime.schedule import Duration
from runtime.train_config import TrainConfig
from tests.runtime.fake import config


def test_round_trip():
    section = TrainConfig.from_json(config(patience=3, monitor={"name": "accuracy", "mode": "max"}))
    assert TrainConfig.from_json(section.to_json()) == section
    assert section.to_json() == config(patience=3, monitor={"name": "accuracy", "mode": "max"})


@pytest.mark.parametrize("change, words", [
    ({"epochs": 3}, "unknown key `epochs`"), ({"patience": 0}, "`patience`"), ({"patience": True}, "`patience`"),
    ({"seed": -1}, "`seed`"), ({"seed": 1.5}, "`seed`"), ({"run": {"epochs": 0}}, "`run`"), ({"run": 5}, "`run`"),
    ({"monitor": {"name": "loss", "mode": "down"}}, "`monitor`"), ({"monitor": "loss"}, "`monitor`"),
])
def test_refusals(change, words):
    with pytest.raises(NetcError) as problem:
        TrainConfig.from_json(config(**change))
    assert problem.value.code == "E0580" and words in problem.value.message


def test_a_missing_key_is_named():
    section = config()
    del section["run"]
    with pytest.raises(NetcError, match="lacks `run`"):
        TrainConfig.from_json(section)


def test_another_length_takes_the_schedule_that_spans_the_run_with_it():
    section = TrainConfig.from_json(config())
    longer = section.with_run(Duration(12, "epochs"))
    assert longer.schedule.args["over"] == longer.run == Duration(12, "epochs")
    assert longer.rate(60, 10) == pytest.approx(0.01)
    own = TrainConfig.from_json(config(schedule={"kind": "cosine", "args": {"lr": 1.0, "over": {"epochs": 2}}}))
    assert own.with_run(Duration(12, "epochs")).schedule == own.schedule


def test_better_by_mode():
    low, high = (TrainConfig.from_json(config(monitor={"name": "loss", "mode": mode})) for mode in ("min", "max"))
    assert low.better(1.0, None) and low.better(1.0, 2.0) and not low.better(2.0, 2.0)
    assert high.better(2.0, 1.0) and not high.better(2.0, 2.0)
