"""Evaluation against the same numbers computed in one go."""

import numpy as np
import pytest

from runtime.data import DataConfig, Field, open_data
from runtime.errors import NetcError
from runtime.evaluate import Averages, Interrupted, evaluate, readings
from tests.runtime.fake import CLASSES, EVALUATE, FakeBound, FakeExecutable, make_data


@pytest.fixture
def part(tmp_path):
    fields = [Field.from_manifest(entry) for entry in FakeExecutable().manifest["inputs"]]
    return open_data(DataConfig.from_json(make_data(tmp_path)), fields).part("train")


def whole(executable, part):
    bound = FakeBound(executable.parameters, {**part.gather(np.arange(len(part))), "seed": None})
    bound(0, 4)
    return bound


@pytest.mark.parametrize("batch", [1, 7, 54, 100])
def test_the_batch_does_not_change_the_result(part, batch):
    executable = FakeExecutable()
    before = executable.memory()
    found, wanted = evaluate(executable, part, batch), whole(executable, part)
    assert found.examples == 54 and found.confusion is None and found.predictions is None
    assert found.values["cross_entropy"] == pytest.approx(wanted.results["cross_entropy"][0], rel=1e-5)
    assert found.values["accuracy"] == pytest.approx(wanted.results["accuracy"][0], rel=1e-6)
    assert found.values["loss"] == pytest.approx(found.values["cross_entropy"] + found.values["penalty"])
    assert executable.memory() == before


def test_predictions_and_confusion(part):
    executable = FakeExecutable()
    found, wanted = evaluate(executable, part, 8, predictions=True, confusion=True), whole(executable, part)
    assert found.predictions["p"] == pytest.approx(wanted.p, rel=1e-5) and found.predictions["p"].shape == (54, CLASSES)
    true, guess = part.gather(np.arange(54))["y"], wanted.p.argmax(axis=1)
    for row in range(CLASSES):
        for column in range(CLASSES):
            assert found.confusion[row, column] == np.sum((true == row) & (guess == column))
    assert found.label == "y" and found.confusion.sum() == 54
    assert np.trace(found.confusion) / 54 == pytest.approx(found.values["accuracy"])
    assert found.per_class == pytest.approx([np.mean(guess[true == c] == c) for c in range(CLASSES)])


def test_a_class_without_examples_has_no_share(part):
    executable = FakeExecutable()
    found = evaluate(executable, part, 8, confusion=True)
    found.confusion[1] = 0
    assert found.per_class[1] is None


def test_no_confusion_without_scores_of_classes(part):
    executable = FakeExecutable()
    without = [a for a in EVALUATE["arguments"] if a["name"] != "p"]
    executable.programs = {"evaluate": {**EVALUATE, "arguments": without}}
    found = evaluate(executable, part, 8, confusion=True)
    assert found.confusion is None and found.label is None and found.per_class is None


def test_stop(part):
    asked = []
    with pytest.raises(Interrupted):
        evaluate(FakeExecutable(), part, 8, stop=lambda: asked.append(1) or len(asked) == 3)
    assert len(asked) == 3


def test_a_program_that_was_not_compiled(part):
    executable = FakeExecutable()
    executable.programs = {}
    with pytest.raises(NetcError) as problem:
        evaluate(executable, part, 8)
    assert problem.value.code == "E0640"


def test_one_loss_is_called_loss():
    program = {"arguments": [{"kind": "output", "name": "mse", "role": "loss", "shape": []}]}
    assert readings(program, {"mse": np.array([0.5], np.float32)}) == {"loss": 0.5}


def test_averages():
    averages = Averages()
    averages.add({"a": 1.0}, 30)
    averages.add({"a": 4.0}, 10)
    assert averages.means() == {"a": 1.75} and averages.count == 40
