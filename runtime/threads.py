"""How many threads kernels use: all that were asked for while that pays, one while another process occupies a core.

A parallel region waits for its slowest thread. When the system takes a core away from one, every region of a network
waits a slice of the scheduler, milliseconds each, and the network is many times slower than on one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from runtime import native
from runtime.errors import NetcError

BUSY = 200e-6  # an empty region takes microseconds; one that takes longer waited for the scheduler
REGIONS = 4  # that a probe times
LOOK = 0.05  # seconds between two probes, and the shortest time on one thread
LONGEST = 1.0  # seconds on one thread at which the doubling ends
SHARE = 10  # on one thread for so many times what was lost: trying costs a tenth at most


def count() -> int:
    """Threads of a parallel region: NETC_NUM_THREADS, TVM_NUM_THREADS, or a thread for each core. Raises NetcError E0651."""
    for name in ("NETC_NUM_THREADS", "TVM_NUM_THREADS"):
        text = os.environ.get(name)
        if text:
            if not text.isdecimal() or int(text) < 1:
                raise NetcError("E0651", f"{name} is `{text}`, which is no number of threads", f"set it to 1 or more: {name}=2")
            return int(text)
    return cores()


def cores(root: Path = Path("/sys")) -> int:
    """Cores this process may use: two threads of one core count once, and a limit of its control group counts."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    found = len({_text(root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in allowed})
    quota, _, period = _text(root / "fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        found = min(found, -(-int(quota) // int(period)))
    return max(found, 1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def quiet(region: Callable[[], None] = native.region, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether empty parallel regions come back at once. The first, which starts or wakes the threads, does not count."""
    native.use_all(True)
    region()
    for _ in range(REGIONS):
        start = clock()
        region()
        if clock() - start > BUSY:
            return False
    return True


class Pace:
    """Chooses for calls of one piece of work between all threads and one.

    The second call runs on one thread, to know what that takes. Time lost against it adds up, time gained pays it back; when
    more than a call is lost, or a probe finds a core busy, calls run on one thread for a while, longer each time.
    """

    def __init__(self, probe: Callable[[], bool] = quiet, clock: Callable[[], float] = time.perf_counter):
        self._probe, self._clock = probe, clock
        self._calls = 0
        self._alone = self._fastest = float("inf")  # seconds of a call: on one thread lately, on all at best
        self._lost = 0.0
        self._pause = LOOK
        self._look = self._until = 0.0

    def run(self, call: Callable[[], None]) -> None:
        start = self._clock()
        spread = self._spread(start)
        native.use_all(spread)
        start = self._clock()
        call()
        now = self._clock()
        self._learn(spread, now - start, now)

    def _spread(self, now: float) -> bool:
        """Whether the next call shall use all threads."""
        self._calls += 1
        if now < self._until or self._calls == 2:
            return False
        if now >= self._look:
            free = self._probe()
            now = self._clock()
            self._look = now + LOOK
            if not free:
                self._rest(now)
            return free
        return True

    def _learn(self, spread: bool, took: float, now: float) -> None:
        if not spread:
            self._alone = min(self._alone, took)
            return
        if self._calls == 1:  # starts the threads and fills the caches
            return
        if took > 1.5 * self._fastest:
            self._look = now
        self._fastest = min(self._fastest, took)
        self._lost = max(0.0, self._lost + took - self._alone)
        if self._lost > max(self._alone, BUSY):
            self._rest(now)
        elif took < self._alone and not self._lost:
            self._pause = LOOK

    def _rest(self, now: float) -> None:
        self._until = now + max(self._pause, SHARE * self._lost)
        self._pause = min(2 * self._pause, LONGEST)
        self._alone, self._lost = float("inf"), 0.0
