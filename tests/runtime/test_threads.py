"""How many threads calls use: what the environment says, the cores there are, and what a busy core does to the choice."""

from __future__ import annotations

import os

import numpy as np
import pytest

import netc
from netc import NetcError
from runtime import native, threads
from runtime.execute import use_threads


class World:
    """A clock and the calls it measures: what a call takes on one thread and on all, what a probe finds."""

    def __init__(self, alone: float, spread: float):
        self.now, self.alone, self.spread, self.free = 100.0, alone, spread, True
        self.probes = 0
        self.all = None
        self.used: list[bool] = []
        self.pace = threads.Pace(self.probe, lambda: self.now)

    def probe(self) -> bool:
        self.probes += 1
        self.now += 1e-5 if self.free else 4e-3
        return self.free

    def work(self) -> None:
        self.used.append(self.all)
        self.now += self.spread if self.all else self.alone

    def run(self, calls: int) -> list[bool]:
        before = len(self.used)
        for _ in range(calls):
            self.pace.run(self.work)
        return self.used[before:]


@pytest.fixture
def world(monkeypatch):
    def make(alone: float, spread: float) -> World:
        made = World(alone, spread)
        monkeypatch.setattr(native, "use_all", lambda all: setattr(made, "all", all))
        return made
    return make


def test_calls_are_spread_while_that_is_quicker(world):
    w = world(20e-3, 11e-3)
    assert w.run(100) == [True, False] + [True] * 98


def test_a_busy_core_found_by_the_probe_means_one_thread_from_the_first_call(world):
    w = world(20e-3, 300e-3)
    w.free = False
    assert not any(w.run(50))
    w.free = True
    w.spread = 11e-3
    assert all(w.run(200)[-100:])


def test_a_core_that_becomes_busy_costs_little(world):
    """The probe notices nothing: threads that wake are put first by the scheduler. What calls take tells."""
    w = world(20e-3, 11e-3)
    w.run(10)
    w.spread = 120e-3
    begin = w.now
    used = w.run(1000)
    assert used.count(True) < 30
    assert w.now - begin < 1.15 * 1000 * w.alone


def test_all_threads_are_used_again_when_the_core_is_free(world):
    w = world(20e-3, 11e-3)
    w.run(10)
    w.spread = 120e-3
    w.run(200)
    w.spread = 11e-3
    assert all(w.run(400)[-100:])


def test_one_slow_call_changes_nothing(world):
    w = world(20e-3, 11e-3)
    w.run(10)
    w.spread = 35e-3
    w.run(1)
    w.spread = 11e-3
    assert all(w.run(20))


def test_work_that_threads_do_not_quicken_ends_on_one(world):
    w = world(50e-6, 60e-6)
    used = w.run(20_000)
    assert used.count(True) < 0.3 * len(used)


def test_probes_are_rare(world):
    w = world(100e-6, 60e-6)
    w.run(10_000)
    assert w.probes <= (w.now - 100.0) / threads.LOOK + 2


def test_a_probe_stops_at_the_first_region_that_waited(monkeypatch):
    monkeypatch.setattr(native, "use_all", lambda all: None)
    now = [0.0]
    took = [20e-3, 5e-6, 4e-3, 5e-6, 5e-6]  # the first wakes the threads

    def region() -> None:
        now[0] += took.pop(0)
    assert not threads.quiet(region, lambda: now[0])
    assert len(took) == 2
    took[:] = [20e-3] + [5e-6] * threads.REGIONS
    assert threads.quiet(region, lambda: now[0])


def test_the_environment_says_how_many(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "5")
    monkeypatch.setenv("NETC_NUM_THREADS", "3")
    assert threads.count() == 3
    use_threads(2)
    assert threads.count() == 2
    monkeypatch.delenv("NETC_NUM_THREADS")
    assert threads.count() == 5
    monkeypatch.delenv("TVM_NUM_THREADS")
    assert threads.count() == threads.cores()


@pytest.mark.parametrize("text", ["none", "0", "-1", "1.5"])
def test_what_is_no_number_of_threads_is_told(monkeypatch, text):
    monkeypatch.setenv("NETC_NUM_THREADS", text)
    with pytest.raises(NetcError) as caught:
        threads.count()
    assert caught.value.code == "E0651" and text in str(caught.value)


def test_threads_of_one_core_count_once_and_a_quota_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
    for cpu in range(6):
        place = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{cpu % 3},{cpu % 3 + 3}\n")
    assert threads.cores(tmp_path) == 3
    limit = tmp_path / "fs/cgroup/cpu.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max 100000\n")
    assert threads.cores(tmp_path) == 3
    limit.write_text("150000 100000\n")
    assert threads.cores(tmp_path) == 2


def test_one_thread_and_two_give_the_same_bits(monkeypatch):
    """The pool itself, without a choice: kernels called one by one run as the last call did."""
    monkeypatch.setenv("NETC_NUM_THREADS", "2")
    exe = netc.load("specs/lenet.net").compile(seed=1)
    image = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28)).astype("u1")
    results = []
    for every in (True, False):
        native.use_all(every)
        bound = exe.bind("run", {"image": image})
        for kernel in range(bound.plan.kernels):
            bound(kernel, kernel + 1)
        results.append(bound.results["p"].copy())
    native.use_all(True)
    np.testing.assert_array_equal(*results)


def test_nets_without_parallel_regions_choose_nothing(monkeypatch):
    monkeypatch.setenv("NETC_NUM_THREADS", "2")
    exe = netc.load("specs/logistic.net").compile()
    assert exe.bind("run", {"x": np.zeros((1, 4), "f4")}).plan.paces is None
