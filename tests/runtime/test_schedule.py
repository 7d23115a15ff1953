"""Learning rates against formulas written out by hand."""

import math

import pytest

from runtime.errors import NetcError
from runtime.schedule import KINDS, Duration, Schedule

SPE, TOTAL = 10, 100


def rate(kind, t, **args):
    return Schedule.from_json({"kind": kind, "args": args}).rate(t, SPE, TOTAL)


@pytest.mark.parametrize("kind, args, wanted", [
    ("constant", {"lr": 0.1}, {0: 0.1, 99: 0.1}),
    ("step", {"lr": 0.1, "every": {"epochs": 2}, "gamma": 0.5}, {0: 0.1, 19: 0.1, 20: 0.05, 39: 0.05, 40: 0.025}),
    ("step", {"lr": 1.0, "every": {"steps": 3}}, {2: 1.0, 3: 0.1, 8: 0.01}),
    ("step", {"lr": 1.0, "every": {"epochs": 0.5}}, {4: 1.0, 5: 0.1}),
    ("multistep", {"lr": 1.0, "at": [{"epochs": 3}, {"epochs": 5}], "gamma": 0.2},
     {0: 1.0, 29: 1.0, 30: 0.2, 49: 0.2, 50: 0.04, 99: 0.04}),
    ("exp", {"lr": 2.0, "gamma": 0.5, "every": {"steps": 1}}, {0: 2.0, 1: 1.0, 3: 0.25}),
    ("exp", {"lr": 2.0, "gamma": 0.5}, {0: 2.0, 5: 2 * math.sqrt(0.5), 10: 1.0}),
    ("inv", {"lr": 0.01, "gamma": 1e-4, "power": 0.75}, {0: 0.01, 10000: 0.01 / 2 ** 0.75}),
    ("inv", {"lr": 0.01}, {5000: 0.01 * 1.5 ** -0.75}),
    ("poly", {"lr": 1.0, "power": 2.0}, {0: 1.0, 50: 0.25, 100: 0.0, 150: 0.0}),
    ("poly", {"lr": 1.0, "end": 0.2, "over": {"epochs": 5}}, {25: 0.6, 50: 0.2, 80: 0.2}),
    ("cosine", {"lr": 1.0}, {0: 1.0, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 100: 0.0}),
    ("cosine", {"lr": 1.0, "end": 0.5, "over": {"steps": 40}}, {20: 0.75, 40: 0.5, 70: 0.5}),
    ("constant", {"lr": 1.0, "warmup": {"epochs": 1}}, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0}),
    ("step", {"lr": 1.0, "every": {"steps": 2}, "warmup": {"steps": 4}}, {0: 0.25, 1: 0.5, 2: 0.075, 3: 0.1, 4: 0.01}),
])
def test_values(kind, args, wanted):
    assert {t: rate(kind, t, **args) for t in wanted} == pytest.approx(wanted, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_null_means_default_and_json_round_trips(kind):
    needed = {"lr": 0.1, "every": {"epochs": 2}, "at": [{"epochs": 3}], "gamma": 0.5}
    args = {name: needed[name] for name, default in KINDS[kind].arguments.items() if default is ...}
    schedule = Schedule.from_json({"kind": kind, "args": {**args, "warmup": {"steps": 5}}})
    assert Schedule.from_json(schedule.to_json()) == schedule
    optional = {name: None for name, default in KINDS[kind].arguments.items() if default is None}
    assert rate(kind, 33, **args, **optional, warmup=None) == rate(kind, 33, **args)


def test_a_number_is_a_constant_rate():
    assert Schedule.from_json(0.25).rate(7, SPE, TOTAL) == 0.25


@pytest.mark.parametrize("json, code, words", [
    ({"kind": "cosin", "args": {"lr": 1}}, "E0581", "did you mean `cosine`?"),
    ({"kind": "step", "args": {"lr": 1}}, "E0581", "needs `every`"),
    ({"kind": "step", "args": {"lr": None, "every": {"epochs": 1}}}, "E0581", "needs `lr`"),
    ({"kind": "inv", "args": {"lr": 1, "every": 3}}, "E0581", "no argument `every`"),
    ({"kind": "step", "args": {"lr": 1, "every": 5}}, "E0580", "`every` of the schedule `step`"),
    ({"kind": "step", "args": {"lr": 1, "every": {"epochs": 0}}}, "E0580", "not 0 epochs"),
    ({"kind": "step", "args": {"lr": 1, "every": {"hours": 2}}}, "E0580", "not 2 hours"),
    ({"kind": "multistep", "args": {"lr": 1, "at": []}}, "E0580", "list of durations"),
    ({"kind": "constant", "args": {"lr": -1}}, "E0580", "number from 0"),
    ({"kind": "constant", "args": {"lr": math.nan}}, "E0580", "number from 0"),
    ("fast", "E0580", "a number or a schedule"),
    (True, "E0580", "a number or a schedule"),
])
def test_refusals(json, code, words):
    with pytest.raises(NetcError) as problem:
        Schedule.from_json(json)
    assert problem.value.code == code and words in str(problem.value)


def test_durations_read_well():
    assert [str(Duration(v, u)) for v, u in ((1, "epochs"), (5, "epochs"), (500, "steps"))] == \
        ["1 epoch", "5 epochs", "500 steps"]
