"""The training loop: steps, validation each epoch, early stopping, checkpoints, and going on where a run was cut off.

Everything a step does follows from the parameters, the train section and the step's number, so a run that was killed
and resumed ends in the same bits as one that was not.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from runtime.data import DataConfig, Dataset, Field, batches, open_data, steps_in
from runtime.errors import NetcError
from runtime.evaluate import Averages, Interrupted, evaluate, inputs_of, program_of, readings
from runtime.events import Epoch, Observer, Result, Start, Step
from runtime.identity import difference, identify
from runtime.log import Log
from runtime.nonfinite import blame, blame_parameters
from runtime.train_config import TrainConfig

if TYPE_CHECKING:
    from runtime.execute import Executable

BEST, LAST = "best.safetensors", "last.safetensors"
WEIGHTS, EVERYTHING = ("weight", "state"), ("weight", "state", "optimizer")
EPOCH_SECONDS, STEP_SECONDS = 1.0, 60.0  # least time between checkpoints at ends of epochs, and within them
LOGGED_STEPS = 50  # step records an epoch, about


def train(executable: Executable, config: Mapping[str, Any] | TrainConfig, data: Mapping[str, Any] | DataConfig | None,
          out: str | Path, *, resume: bool = False, fresh: bool = False, observer: Observer | None = None,
          checkpoint_every: int | None = None, dataset: Dataset | None = None) -> Result:
    """Trains a net compiled with its programs `step` and `evaluate`; `executable` holds its best parameters afterwards.

    config, data: the resolved sections. out: the folder of the run, which gets best.safetensors (weights and running
    statistics), last.safetensors (everything that a resumed run needs), log.jsonl and TensorBoard events.
    resume: go on after the last checkpoint in `out`. fresh: start over where `out` holds a run already.
    checkpoint_every: steps between checkpoints within an epoch; by default one is written each minute.
    dataset: `data` opened already. Ctrl-C and SIGTERM end the step at hand, write a checkpoint and return.

    Raises NetcError E0580 to E0583 (sections), E0621 to E0628 (checkpoints), E0630 to E0632 (a loss or parameter that
    is not a finite number), E0640 (programs missing), and those of the data.
    """
    if data is None:
        raise NetcError("E0583", "there is no data section to train on",
                        "add `data d { source = \"csv:d.csv\", batch = 16 }`")
    config = config if isinstance(config, TrainConfig) else TrainConfig.from_json(config)
    data = data if isinstance(data, DataConfig) else DataConfig.from_json(data)
    dataset = dataset or open_data(data, [Field.from_manifest(e) for e in executable.manifest["inputs"]])
    run = _Run(executable, config, data, dataset, Path(out), observer or Observer(), checkpoint_every)
    with _deferred_signals() as signals:
        return run.go(resume, fresh, signals)


@dataclass
class State:
    """Where a run is: everything but tensors that the next step depends on. Plain JSON in last.safetensors.

    step: done in all. epoch: closed, that is validated. step_in_epoch: done since. sums, examples: of this epoch.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    examples: int = 0
    best_epoch: int | None = None
    best_value: float | None = None
    waited: int = 0
    values: dict[str, float] = field(default_factory=dict)
    status: str = "running"


class _Run:
    def __init__(self, executable: Executable, config: TrainConfig, data: DataConfig, dataset: Dataset, out: Path,
                 observer: Observer, checkpoint_every: int | None):
        self.executable, self.config, self.data, self.out = executable, config, data, out
        self.observer, self.checkpoint_every = observer, checkpoint_every
        self.parameters = executable.parameters
        self.program = program_of(executable, "step")
        self.part = dataset.part("train")
        self.validation = dataset.parts.get("validate")
        if self.validation is not None:
            program_of(executable, "evaluate")
        self.identity = identify(executable, config, data, dataset)
        self.steps_per_epoch = steps_in(len(self.part), data.batch)
        self.total = config.total_steps(self.steps_per_epoch)
        self.inputs = inputs_of(self.program)
        self.scalars = {a["name"]: np.dtype(a["dtype"]) for a in self.program["arguments"]
                        if a["kind"] == "input" and a["role"] == "scalar"}
        self.log_every = max(1, self.steps_per_epoch // LOGGED_STEPS)
        self.state = State()
        self.log: Log | None = None
        self.best: dict[str, np.ndarray] | None = None
        self.best_is_saved = True
        self.saved_at = self.started = self.epoch_started = time.perf_counter()
        self.epoch_examples = 0
        self._check()

    def _check(self) -> None:
        names = [a["name"] for a in self.program["arguments"] if a["role"] in ("loss", "metric")]
        if self.config.monitor not in ("loss", *names):
            raise NetcError("E0580", f"`monitor` is `{self.config.monitor}`, which the net does not compute",
                            f"it computes {', '.join(dict.fromkeys(('loss', *names)))}")
        if self.config.patience is not None and self.validation is None:
            raise NetcError("E0582", f"`patience` of `{self.config.name}` waits for a better validation, but data "
                            f"`{self.data.name}` has no validate part",
                            "give it one: split = [train = 90%, validate = 10%], or leave `patience` out")

    def go(self, resume: bool, fresh: bool, signals: _Signals) -> Result:
        last = self.out / LAST
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise NetcError("E0605", f"cannot make the folder {self.out}: {problem.strerror}",
                            "choose another place with --out") from problem
        for name in (BEST, LAST):
            for unfinished in self.out.glob(f".{name}.*"):  # left by a process that was killed while writing
                unfinished.unlink()
        if resume:
            self._restore(read_checkpoint(last) if last.exists() else self._nothing_to_resume())
        elif not fresh and last.exists() and read_checkpoint(last).meta.get("state", {}).get("step") != 0:
            raise NetcError("E0625", f"{self.out} holds a run already",
                            "go on with it (--resume), start over (--fresh), or choose another folder (--out)")
        else:
            self._begin()
        self.log = Log(self.out, (self.state.step, self.state.epoch) if resume else None,
                       net=self.identity["net"]["name"], train=self.identity["train"])
        try:
            return self._loop(resume, signals)
        finally:
            self._save_best()
            self.log.close()

    def _loop(self, resumed: bool, signals: _Signals) -> Result:
        self.observer.on_start(Start(self.identity["net"]["name"], self.out, self.state.step, self.total,
                                     self.steps_per_epoch, self.total / self.steps_per_epoch, len(self.part),
                                     self.config.monitor, resumed))
        self.epoch_started = time.perf_counter()
        status = "running"
        while self.state.status == "running" and status == "running":
            try:
                self._steps(signals)
                self._close_epoch(signals)
            except Interrupted:
                status = "interrupted"
        self._save()
        if status == "running":
            status = self.state.status
            self.parameters.assign(self.best, str(self.out / BEST))
            self.executable.prepare()
        self.log.end(status, self.state.step, self.state.epoch)
        result = Result(status, self.state.epoch, self.state.step, self.config.monitor, self.state.best_epoch,
                        self.state.best_value, self.state.values, self.out / BEST, self.out / LAST,
                        time.perf_counter() - self.started)
        self.observer.on_end(result)
        return result

    # --- steps -------------------------------------------------------------------------------------------------------

    def _steps(self, signals: _Signals) -> None:
        """The rest of the epoch at hand. Raises Interrupted after the step in which a signal came."""
        state = self.state
        averages = Averages(state.sums, state.examples)
        self.epoch_examples = 0
        if state.step_in_epoch >= self.steps_per_epoch or state.step >= self.total:
            return
        with closing(batches(self.part, self.data.batch, shuffle=self.data.shuffle, seed=self.config.seed,
                             epoch=state.epoch, augment=self.data.augment, start=state.step_in_epoch)) as stream:
            for arrays in stream:
                lr = self.config.rate(state.step, self.steps_per_epoch)
                examples = len(next(iter(arrays.values())))
                values = self._step(arrays, lr)
                averages.add(values, examples)
                state.step += 1
                state.step_in_epoch += 1
                state.examples = averages.count
                self.epoch_examples += examples
                if state.step % self.log_every == 0:
                    self.log.step(state.step, state.epoch + 1, lr, values)
                self.observer.on_step(Step(state.step, state.epoch + 1, state.step_in_epoch, self.epoch_examples, lr,
                                           values, averages.means()))
                if signals.came:
                    raise Interrupted
                if state.step >= self.total:
                    return
                if self._checkpoint_is_due():
                    self._save()

    def _step(self, arrays: Mapping[str, np.ndarray], lr: float) -> dict[str, float]:
        """One step; parameters change only after the loss was seen to be a finite number."""
        step = self.state.step + 1
        known = {"lr": lr, "step": step, "seed": _step_seed(self.config.seed, step)}
        feeds = {name: arrays[name] for name in self.inputs}
        feeds |= {name: np.asarray(known[name.removeprefix("train/")], dtype) for name, dtype in self.scalars.items()}
        bound = self.executable.bind("step", feeds)
        bound(0, self.program["update_from"])
        loss = readings(self.program, bound.results)["loss"]
        if not math.isfinite(loss):
            raise blame(self.executable, "step", bound, step, self.state.epoch + 1, lr)
        bound(self.program["update_from"])
        return readings(self.program, bound.results)

    def _checkpoint_is_due(self) -> bool:
        if self.checkpoint_every:
            return self.state.step % self.checkpoint_every == 0
        return time.perf_counter() - self.saved_at > STEP_SECONDS

    # --- ends of epochs ----------------------------------------------------------------------------------------------

    def _close_epoch(self, signals: _Signals) -> None:
        """Validates, says whether this is the best epoch so far, and whether to go on. Raises Interrupted."""
        state = self.state
        seconds = time.perf_counter() - self.epoch_started
        means = Averages(state.sums, state.examples).means()
        found = None if self.validation is None else dict(evaluate(
            self.executable, self.validation, self.data.batch, stop=lambda: signals.came).values)
        watched = found or means
        value = watched[self.config.monitor]
        if not math.isfinite(value):
            raise blame_parameters(self.executable, state.step) or NetcError(
                "E0631", f"the validation {self.config.monitor} is {value} after epoch {state.epoch + 1}",
                "lower the learning rate, or look for examples with extreme values in the validate part")
        # Without validation there is nothing to choose by: the newest parameters count as the best.
        improved = self.validation is None or self.config.better(value, state.best_value)
        state.epoch += 1
        if improved:
            state.best_epoch, state.best_value, state.values, state.waited = state.epoch, value, dict(watched), 0
            self.best = {path: array.copy() for path, array in self.parameters.tensors(*WEIGHTS).items()}
            self.best_is_saved = False
        else:
            state.waited += 1
        if self.config.patience is not None and state.waited >= self.config.patience:
            state.status = "stopped"
        elif state.step >= self.total:
            state.status = "finished"
        lr = self.config.rate(state.step - 1, self.steps_per_epoch)
        rate = self.epoch_examples / seconds
        self.log.epoch(state.epoch, state.step, lr, means, found, rate, seconds, improved)
        self.observer.on_epoch(Epoch(state.epoch, state.step, means, found, lr, rate, seconds, improved, state.waited,
                                     self.config.patience))
        state.step_in_epoch, state.sums, state.examples = 0, {}, 0
        if time.perf_counter() - self.saved_at > EPOCH_SECONDS:
            self._save()
        if signals.came and state.status == "running":
            raise Interrupted
        self.epoch_started = time.perf_counter()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        for name in (BEST, LAST):
            (self.out / name).unlink(missing_ok=True)
        self._save()

    def _save(self) -> None:
        """best.safetensors before last.safetensors: what the second one counts on is there when it is."""
        broken = blame_parameters(self.executable, self.state.step)
        if broken:
            raise broken
        self._save_best()
        # The log first: a run resumed from this checkpoint does not repeat the steps before it.
        if self.log is not None:
            self.log.flush()
        write_checkpoint(self.out / LAST, self.parameters.tensors(*EVERYTHING),
                         {"identity": self.identity, "state": asdict(self.state)})
        self.saved_at = time.perf_counter()

    def _save_best(self) -> None:
        if self.best is not None and not self.best_is_saved:
            write_checkpoint(self.out / BEST, self.best, {
                "net": self.identity["net"]["name"], "epoch": self.state.best_epoch, "monitor": self.config.monitor,
                "value": self.state.best_value, "values": self.state.values,
                "class_names": self.part.class_names and list(self.part.class_names)})
            self.best_is_saved = True

    def _restore(self, checkpoint: Checkpoint) -> None:
        if "state" not in checkpoint.meta:
            raise NetcError("E0626", f"{checkpoint.path} is not the last checkpoint of a run",
                            "a run is resumed from the last.safetensors that `netc train` wrote")
        changed = difference(checkpoint.meta["identity"], self.identity)
        if changed:
            raise NetcError("E0627", f"the run in {self.out} cannot be resumed: {changed}",
                            "undo the change, or train anew (--fresh, or another --out)")
        self.parameters.assign(checkpoint.tensors, checkpoint.path, EVERYTHING)
        self.state = State(**checkpoint.meta["state"])
        if self.state.best_epoch is not None:
            self.best = read_checkpoint(self.out / BEST).tensors
        if self.state.status == "finished" and self.state.step < self.total \
                or self.state.status == "stopped" and (self.config.patience or math.inf) > self.state.waited:
            self.state.status = "running"

    def _nothing_to_resume(self) -> Checkpoint:
        raise NetcError("E0628", f"there is no run to resume in {self.out}",
                        "leave --resume out, or name the run with --out")


def _step_seed(seed: int, step: int) -> int:
    """What random numbers within a step (dropout) start from: 31 bits that depend on (seed, step) alone."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0]) >> 1


@dataclass
class _Signals:
    came: bool = False


@contextmanager
def _deferred_signals():
    """SIGINT and SIGTERM only set a flag, the first time; the second one acts as usual."""
    signals, before = _Signals(), {}

    def note(number: int, frame: Any) -> None:
        signals.came = True
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
