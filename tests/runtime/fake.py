"""A compiled net without a compiler: softmax regression in numpy behind the interface of `runtime.execute.Executable`.

Run as a program, it trains in a folder and kills itself where it is told to: `fake.py DIR [resume] [WHERE:COUNT]`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from runtime import train as training
from runtime.events import Observer
from runtime.execute import Parameters

FEATURES, CLASSES = 6, 3
SHAPE = ["N", CLASSES]


def _inputs(scalars: tuple[str, ...]) -> list[dict]:
    dtypes = {"lr": "float32", "step": "float32", "seed": "uint32"}
    return [{"kind": "input", "name": "x", "role": "input", "dtype": "float32", "shape": ["N", FEATURES]},
            {"kind": "input", "name": "y", "role": "label", "dtype": "int32", "shape": ["N"]},
            *({"kind": "input", "name": name, "role": "scalar", "dtype": dtypes[name], "shape": []}
              for name in scalars)]


def _output(name: str, role: str, shape: list) -> dict:
    return {"kind": "output", "name": name, "role": role, "dtype": "float32", "shape": shape}


def _kernel(name: str, layers: list[str], op: str, where: dict) -> dict:
    return {"name": name, "layers": layers, "ops": [op], "results": [{**where, "dtype": "float32", "shape": []}]}


STEP = {
    "symbol": "step", "update_from": 4,
    "arguments": [*_inputs(("lr", "step", "seed")), _output("cross_entropy", "loss", []),
                  _output("penalty", "loss", []), _output("accuracy", "metric", [])],
    "kernels": [_kernel("logits", ["tower/dense"], "matmul", {"in": "arena", "offset": 0}),
                _kernel("cross_entropy", ["cross_entropy"], "cross_entropy", {"in": "output", "name": "cross_entropy"}),
                _kernel("penalty", ["penalty"], "mean", {"in": "output", "name": "penalty"}),
                _kernel("accuracy", ["accuracy"], "accuracy", {"in": "output", "name": "accuracy"}),
                _kernel("update", ["tower/dense"], "sgd", {"in": "parameter", "name": "dense.weight"})],
}
EVALUATE = {
    "symbol": "evaluate", "update_from": 1,
    "arguments": [*_inputs(()), _output("p", "output", SHAPE), _output("cross_entropy", "loss", []),
                  _output("penalty", "loss", []), _output("accuracy", "metric", [])],
    "kernels": [_kernel("all", ["tower/dense"], "matmul", {"in": "arena", "offset": 0})],
}


def _manifest() -> dict:
    def parameter(path: str, shape: list[int], offset: int, kind: str) -> dict:
        return {"path": path, "dtype": "float32", "shape": shape, "offset": offset, "bytes": 4 * int(np.prod(shape)),
                "kind": kind, "trainable": kind == "weight", "layer": "tower/dense"}
    size = 4 * FEATURES * CLASSES
    return {"net": "fake", "programs": {"step": STEP, "evaluate": EVALUATE}, "parameter_bytes": 2 * size + 4,
            "parameters": [parameter("dense.weight", [FEATURES, CLASSES], 0, "weight"),
                           parameter("dense.weight/momentum", [FEATURES, CLASSES], size, "optimizer"),
                           parameter("seen", [1], 2 * size, "state")],
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", FEATURES], "role": "input", "classes": None},
                       {"name": "y", "dtype": "int32", "shape": ["N"], "role": "label", "classes": CLASSES}]}


class FakeExecutable:
    """Momentum SGD with noise that depends on `seed`; `seen` counts the examples of all steps."""

    def __init__(self) -> None:
        self.manifest = _manifest()
        self.programs = self.manifest["programs"]
        self.parameters = Parameters(self.manifest)
        self.parameters["dense.weight"][...] = np.random.default_rng(5).normal(0, 1, (FEATURES, CLASSES))
        self.name = "fake"
        self.fed: list[dict] = []
        self.prepared: bytes | None = None

    def memory(self) -> bytes:
        """All parameters, as they lie."""
        block = self.parameters.block
        return block.read(0, block.bytes).tobytes()

    def bind(self, program: str, feeds: dict) -> FakeBound:
        assert set(feeds) == {a["name"] for a in self.programs[program]["arguments"] if a["kind"] == "input"}
        self.fed.append({name: feeds[name] for name in ("lr", "step", "seed") if name in feeds})
        return FakeBound(self.parameters, feeds)

    def prepare(self) -> None:
        self.prepared = self.parameters["dense.weight"].tobytes()

    def call(self, program: str, feeds: dict) -> dict[str, np.ndarray]:
        assert self.prepared == self.parameters["dense.weight"].tobytes(), "weights changed since they were prepared"
        bound = FakeBound(self.parameters, {**feeds, "seed": None})
        bound(0, 4)
        return {**bound.results, "p": bound.p}


class FakeBound:
    def __init__(self, parameters: Parameters, feeds: dict):
        self.parameters, self.feeds = parameters, feeds
        self.results = {name: np.full(1, np.nan, np.float32) for name in ("cross_entropy", "penalty", "accuracy")}

    def __call__(self, begin: int = 0, end: int | None = None) -> None:
        kernels = [self._logits, self._loss, self._penalty, self._accuracy, self._update]
        for kernel in kernels[begin:end]:
            kernel()

    def view(self, result: dict) -> np.ndarray | None:
        return self.logits if result["in"] == "arena" else self.results.get(result["name"])

    def _logits(self) -> None:
        self.x = self.feeds["x"]
        if self.feeds["seed"] is not None:
            rng = np.random.default_rng(int(self.feeds["seed"]))
            self.x = self.x + rng.normal(0, 0.1, self.x.shape).astype(np.float32)
        self.logits = self.x @ self.parameters["dense.weight"]
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        self.p = shifted / shifted.sum(axis=1, keepdims=True)

    def _loss(self) -> None:
        rows = np.arange(len(self.x))
        self.results["cross_entropy"][0] = -np.log(self.p[rows, self.feeds["y"]]).mean()

    def _penalty(self) -> None:
        self.results["penalty"][0] = 1e-3 * np.square(self.parameters["dense.weight"]).sum()

    def _accuracy(self) -> None:
        self.results["accuracy"][0] = (self.logits.argmax(axis=1) == self.feeds["y"]).mean()

    def _update(self) -> None:
        weight, momentum = self.parameters["dense.weight"], self.parameters["dense.weight/momentum"]
        error = self.p - np.eye(CLASSES, dtype=np.float32)[self.feeds["y"]]
        gradient = self.x.T @ error / len(self.x) + 2e-3 * weight
        momentum[...] = 0.9 * momentum + self.feeds["lr"] * gradient
        weight -= momentum
        self.parameters["seen"][...] += len(self.x)


def make_data(folder: Path, examples: int = 90, flip: float = 0.2, seed: int = 3) -> dict:
    """A data section on points of three classes, some labels wrong so that validation stops improving."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, examples)
    x = rng.normal(0, 1, (examples, FEATURES)) + np.eye(CLASSES, FEATURES)[y]
    wrong = rng.random(examples) < flip
    np.savez(folder / "points.npz", x=x.astype(np.float32), y=np.where(wrong, (y + 1) % CLASSES, y).astype(np.int32))
    return {"name": "points", "source": "npz:points.npz", "root": str(folder), "batch": 8,
            "split": {"train": 0.6, "validate": 0.2, "test": 0.2}}


def config(**changes: object) -> dict:
    return {"name": "fit", "net": "fake", "data": "points", "optimizer": {"name": "sgd", "args": {"momentum": 0.9}},
            "schedule": {"kind": "cosine", "args": {"lr": 0.02, "over": {"epochs": 6}, "warmup": {"epochs": 1}}},
            "run": {"epochs": 6}, "patience": None, "seed": 11, "monitor": {"name": "loss", "mode": "min"}, **changes}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Saboteur(Observer):
    """Kills the process after its COUNTth step or epoch, or interrupts it."""

    def __init__(self, where: str, count: int):
        self.where, self.left = where, count

    def _count(self, what: str, act) -> None:
        if self.where == what:
            self.left -= 1
            if self.left == 0:
                act()

    def on_step(self, event) -> None:
        self._count("step", _die)
        self._count("interrupt", lambda: os.kill(os.getpid(), signal.SIGINT))

    def on_epoch(self, event) -> None:
        self._count("epoch", _die)


def _kill_at_replace(where: str, count: int) -> None:
    """Kills the process before or after the COUNTth time a file takes another's place."""
    from runtime import format
    left, replace = [count], os.replace

    def counted(source, target) -> None:
        left[0] -= 1
        if left[0] == 0 and where == "before":
            _die()
        replace(source, target)
        if left[0] == 0 and where == "after":
            _die()

    format.os = SimpleNamespace(**{**vars(os), "replace": counted})


def main() -> None:
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    where, _, count = (words[-1] if words and ":" in words[-1] else "never:1").partition(":")
    if where in ("before", "after"):
        _kill_at_replace(where, int(count))
    training.EPOCH_SECONDS = 0
    executable = FakeExecutable()
    data = make_data(folder)
    result = training.train(executable, config(), data, folder / "run", resume="resume" in words, checkpoint_every=3,
                            observer=Saboteur(where, int(count)))
    print(result.status)


if __name__ == "__main__":
    main()
