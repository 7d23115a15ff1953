"""The training loop on a net in numpy: learning, stopping, killing and resuming, refusing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import train as training
from runtime.checkpoint import read_checkpoint, write_checkpoint
from runtime.errors import NetcError
from runtime.events import Observer
from runtime.log import read_log
from runtime.train import train
from runtime.train_config import TrainConfig
from tests.runtime.fake import FEATURES, FakeExecutable, config, make_data

ROOT = Path(__file__).parent.parent.parent
VOLATILE = ("time", "seconds", "images_per_second")


class Recorder(Observer):
    def __init__(self):
        self.starts, self.steps, self.epochs, self.results = [], [], [], []
        self.on_start, self.on_step = self.starts.append, self.steps.append
        self.on_epoch, self.on_end = self.epochs.append, self.results.append


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path)


def code(problem):
    return problem.value.code


# --- learning -------------------------------------------------------------------------------------------------------


def test_learns_and_leaves_its_files(tmp_path, data):
    executable, seen = FakeExecutable(), Recorder()
    result = train(executable, config(), data, tmp_path / "run", observer=seen)
    assert result.status == "finished" and result.epochs == 6 and result.steps == 42
    assert [e.epoch for e in seen.epochs] == [1, 2, 3, 4, 5, 6] and len(seen.steps) == 42
    assert seen.epochs[-1].train["loss"] < 0.9 * seen.epochs[0].train["loss"]
    best = min(seen.epochs, key=lambda e: e.validate["loss"])
    assert (result.best_epoch, result.best_value) == (best.epoch, best.validate["loss"])
    weights = read_checkpoint(result.best)
    assert set(weights.tensors) == {"dense.weight", "seen"}
    assert weights.tensors["seen"] == 54 * best.epoch
    for path, value in weights.tensors.items():
        assert np.array_equal(executable.parameters[path], value), "the executable holds the best parameters"
    assert executable.prepared == executable.parameters["dense.weight"].tobytes()
    assert set(read_checkpoint(result.last).tensors) == {"dense.weight", "seen", "dense.weight/momentum"}


def test_feeds_step_numbers_rates_and_seeds(tmp_path, data):
    executable = FakeExecutable()
    train(executable, config(), data, tmp_path / "run")
    fed = executable.fed
    assert [int(f["step"]) for f in fed] == list(range(1, 43))
    section = TrainConfig.from_json(config())
    assert [float(f["lr"]) for f in fed] == pytest.approx([section.rate(t, 7) for t in range(42)], rel=1e-6)
    assert len({int(f["seed"]) for f in fed}) == 42 and all(f["seed"].dtype == np.uint32 for f in fed)


def test_means_weigh_batches_by_their_examples(tmp_path, data):
    seen = Recorder()
    train(FakeExecutable(), config(run={"epochs": 1}), data, tmp_path / "run", observer=seen)
    sizes = [8] * 6 + [6]
    for name in ("loss", "cross_entropy", "penalty", "accuracy"):
        wanted = np.average([s.readings[name] for s in seen.steps], weights=sizes)
        assert seen.epochs[0].train[name] == pytest.approx(wanted, rel=1e-12)
    assert seen.steps[0].readings["loss"] == pytest.approx(
        seen.steps[0].readings["cross_entropy"] + seen.steps[0].readings["penalty"])


def test_run_in_steps_ends_within_an_epoch(tmp_path, data):
    seen = Recorder()
    result = train(FakeExecutable(), config(run={"steps": 10}), data, tmp_path / "run", observer=seen)
    assert (result.status, result.steps, result.epochs) == ("finished", 10, 2)
    assert len(seen.epochs) == 2 and seen.epochs[1].validate is not None


def test_stops_when_validation_no_longer_improves(tmp_path, data):
    seen = Recorder()
    constant = {"kind": "constant", "args": {"lr": 0.3}}
    result = train(FakeExecutable(), config(run={"epochs": 200}, patience=4, schedule=constant), data, tmp_path / "run",
                   observer=seen)
    assert result.status == "stopped" and result.epochs == result.best_epoch + 4 < 200
    losses = [e.validate["loss"] for e in seen.epochs]
    assert min(losses) == losses[result.best_epoch - 1] == result.best_value
    assert [e.waited for e in seen.epochs[-4:]] == [1, 2, 3, 4]


def test_monitors_a_metric_upwards(tmp_path, data):
    seen = Recorder()
    result = train(FakeExecutable(), config(monitor={"name": "accuracy", "mode": "max"}), data, tmp_path / "run",
                   observer=seen)
    assert result.best_value == max(e.validate["accuracy"] for e in seen.epochs) == result.values["accuracy"]


def test_without_validation_the_newest_is_the_best(tmp_path, data):
    del data["split"]
    result = train(FakeExecutable(), config(), data, tmp_path / "run")
    assert result.best_epoch == 6
    best, last = read_checkpoint(result.best).tensors, read_checkpoint(result.last).tensors
    assert np.array_equal(best["dense.weight"], last["dense.weight"])


# --- killing and resuming -------------------------------------------------------------------------------------------


def child(folder, *words):
    return subprocess.run([sys.executable, "-m", "tests.runtime.fake", str(folder), *words], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, timeout=120)


def test_killed_anywhere_and_resumed_is_bit_identical(tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    executable = FakeExecutable()
    train(executable, config(), make_data(tmp_path / "whole"), tmp_path / "whole" / "run")
    broken = tmp_path / "broken"
    assert child(broken, "step:10").returncode == -signal.SIGKILL
    assert child(broken, "resume", "before:2").returncode == -signal.SIGKILL
    assert child(broken, "resume", "after:4").returncode == -signal.SIGKILL
    interrupted = child(broken, "resume", "interrupt:5")
    assert (interrupted.returncode, interrupted.stdout.strip()) == (0, "interrupted")
    assert child(broken, "resume", "epoch:1").returncode == -signal.SIGKILL
    assert child(broken, "resume").stdout.strip() == "finished"
    assert not list((broken / "run").glob(".*")), "nothing that was half written is left"
    for name in ("best.safetensors", "last.safetensors"):
        whole, mended = (read_checkpoint(tmp_path / run / "run" / name) for run in ("whole", "broken"))
        assert whole.meta == mended.meta
        for path, value in whole.tensors.items():
            assert value.tobytes() == mended.tensors[path].tobytes(), path
    logs = [[{k: v for k, v in record.items() if k not in VOLATILE}
             for record in read_log(tmp_path / run / "run/log.jsonl")] for run in ("whole", "broken")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("number, step", [
    (signal.SIGINT, 1), (signal.SIGINT, 7), (signal.SIGINT, 42), (signal.SIGTERM, 9)])
def test_a_signal_ends_the_step_and_saves(tmp_path, data, number, step):
    class Interrupting(Observer):
        def on_step(self, event):
            if event.step == step:
                os.kill(os.getpid(), number)

    executable = FakeExecutable()
    result = train(executable, config(), data, tmp_path / "run", observer=Interrupting())
    assert (result.status, result.steps) == ("interrupted", step)
    assert signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    saved = read_checkpoint(result.last)
    assert saved.meta["state"]["step"] == step
    resumed, whole = FakeExecutable(), FakeExecutable()
    train(resumed, config(), data, tmp_path / "run", resume=True)
    train(whole, config(), data, tmp_path / "other")
    assert resumed.memory() == whole.memory()


def test_a_finished_run_can_be_made_longer(tmp_path, data):
    def section(epochs):
        return config(run={"epochs": epochs}, schedule={"kind": "constant", "args": {"lr": 0.02}})

    train(FakeExecutable(), section(3), data, tmp_path / "run")
    result = train(FakeExecutable(), section(5), data, tmp_path / "run", resume=True)
    whole = train(FakeExecutable(), section(5), data, tmp_path / "whole")
    assert result.steps == whole.steps == 35
    assert (tmp_path / "run/best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()


def test_resuming_a_finished_run_changes_nothing(tmp_path, data):
    first = train(FakeExecutable(), config(), data, tmp_path / "run")
    before = [path.read_bytes() for path in (first.best, first.last)]
    executable, seen = FakeExecutable(), Recorder()
    again = train(executable, config(), data, tmp_path / "run", resume=True, observer=seen)
    assert (again.status, again.best_epoch, again.values) == ("finished", first.best_epoch, first.values)
    assert [path.read_bytes() for path in (first.best, first.last)] == before and not seen.steps
    assert np.array_equal(executable.parameters["dense.weight"], read_checkpoint(first.best).tensors["dense.weight"])


# --- refusing -------------------------------------------------------------------------------------------------------


def test_a_run_is_not_overwritten_by_accident(tmp_path, data):
    train(FakeExecutable(), config(), data, tmp_path / "run")
    kept = (tmp_path / "run/best.safetensors").read_bytes()
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(seed=1), data, tmp_path / "run")
    assert code(problem) == "E0625" and (tmp_path / "run/best.safetensors").read_bytes() == kept
    train(FakeExecutable(), config(seed=1), data, tmp_path / "run", fresh=True)
    assert (tmp_path / "run/best.safetensors").read_bytes() != kept
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_nothing_to_resume(tmp_path, data):
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(), data, tmp_path / "run", resume=True)
    assert code(problem) == "E0628"


@pytest.mark.parametrize("change, words", [
    (lambda d, c, e: c.update(seed=12), "`seed` of the train section was 11 and is 12 now"),
    (lambda d, c, e: c["optimizer"]["args"].update(momentum=0.5), "`optimizer.args.momentum`"),
    (lambda d, c, e: c["schedule"]["args"].update(warmup=None), "`schedule.args.warmup"),
    (lambda d, c, e: d.update(batch=16), "`batch` of the data section was 8 and is 16 now"),
    (lambda d, c, e: make_data(Path(d["root"]), examples=120),
     "the train part of the data had 54 examples and has 72 examples now"),
    (lambda d, c, e: make_data(Path(d["root"]), seed=4), "the examples of the train part changed"),
    (lambda d, c, e: e.manifest["parameters"][0].update(shape=[FEATURES * 3]), "`dense.weight` was float32[6, 3]"),
    (lambda d, c, e: e.manifest["parameters"].pop(1), "no parameter `dense.weight/momentum`"),
    (lambda d, c, e: e.programs.update(step={**e.programs["step"], "kernels": e.programs["step"]["kernels"] + [
        {"name": "tanh", "ops": ["tanh"], "layers": [], "results": []}]}), "computes something else"),
])
def test_resume_says_what_changed(tmp_path, data, change, words):
    section, executable = config(run={"epochs": 2}), FakeExecutable()
    train(FakeExecutable(), config(run={"epochs": 2}), data, tmp_path / "run")
    change(data, section, executable)
    with pytest.raises(NetcError) as problem:
        train(executable, section, data, tmp_path / "run", resume=True)
    assert code(problem) == "E0627" and words in problem.value.message


def test_resume_from_a_moved_folder(tmp_path, data):
    train(FakeExecutable(), config(run={"epochs": 2}), data, tmp_path / "run")
    (tmp_path / "moved").mkdir()
    (tmp_path / "points.npz").rename(tmp_path / "moved/points.npz")
    result = train(FakeExecutable(), config(), {**data, "root": str(tmp_path / "moved")}, tmp_path / "run", resume=True)
    assert result.epochs == 6


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, data, name, damage):
    train(FakeExecutable(), config(run={"epochs": 2}), data, tmp_path / "run")
    path = tmp_path / "run" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes({"cut": content[:-20], "flip": content, "empty": b"", "text": b"hello" * 50}[damage])
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(), data, tmp_path / "run", resume=True)
    assert code(problem) == "E0622" and name in problem.value.message


def test_weights_are_no_checkpoint_of_a_run(tmp_path, data):
    train(FakeExecutable(), config(run={"epochs": 2}), data, tmp_path / "run")
    write_checkpoint(tmp_path / "run/last.safetensors", {"dense.weight": np.zeros(3, np.float32)}, {})
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(), data, tmp_path / "run", resume=True)
    assert code(problem) == "E0626"


def test_monitor_and_patience_need_something_to_watch(tmp_path, data):
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(monitor={"name": "top5", "mode": "max"}), data, tmp_path / "run")
    assert code(problem) == "E0580" and "loss, cross_entropy, penalty, accuracy" in problem.value.hint
    del data["split"]
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(patience=3), data, tmp_path / "run")
    assert code(problem) == "E0582"
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(), None, tmp_path / "run")
    assert code(problem) == "E0583"


def test_a_folder_that_cannot_be_made(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(NetcError) as problem:
        train(FakeExecutable(), config(), data, tmp_path / "file" / "run")
    assert code(problem) == "E0605"


# --- NaN ------------------------------------------------------------------------------------------------------------


def poisoned(tmp_path, value):
    data = make_data(tmp_path)
    with np.load(tmp_path / "points.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    x[:] = value
    np.savez(tmp_path / "points.npz", x=x, y=y)
    return data


def test_names_the_layer_that_made_the_first_infinity(tmp_path):
    data, executable = poisoned(tmp_path, 1e38), FakeExecutable()
    executable.parameters["dense.weight"][...] *= 100
    before = executable.memory()
    with pytest.raises(NetcError) as problem, np.errstate(all="ignore"):
        train(executable, config(), data, tmp_path / "run")
    assert code(problem) == "E0630" and "step 1 (epoch 1)" in problem.value.message
    assert "`tower/dense` (matmul)" in problem.value.message and "learning rate" in problem.value.hint
    assert executable.memory() == before, "parameters are as before the step"


def test_names_the_parameter_that_was_broken_before(tmp_path, data):
    executable = FakeExecutable()
    update = Observer()
    update.on_step = lambda event: event.step == 9 and executable.parameters["dense.weight"].fill(np.nan)
    with pytest.raises(NetcError) as problem:
        train(executable, config(), data, tmp_path / "run", observer=update)
    assert code(problem) == "E0632" and "`dense.weight` holds NaN after step 9" in problem.value.message
    assert np.isfinite(read_checkpoint(tmp_path / "run/last.safetensors").tensors["dense.weight"]).all()


def test_the_best_is_kept_when_training_breaks_down(tmp_path, data, monkeypatch):
    monkeypatch.setattr(training, "EPOCH_SECONDS", 1e9)
    executable = FakeExecutable()
    update = Observer()
    update.on_step = lambda event: event.step == 16 and executable.parameters["dense.weight"].fill(np.inf)
    with pytest.raises(NetcError), np.errstate(all="ignore"):
        train(executable, config(), data, tmp_path / "run", observer=update)
    assert read_checkpoint(tmp_path / "run/best.safetensors").meta["epoch"] <= 2
