"""Which tensors to drop and compute again, and when, so that what lives together fits a budget.

Works on runs of kernels and numbered versions of tensors, free of graphs: a `Run` reads and writes versions, a `Recipe`
says how to make a tensor once more. Greedy, by bytes above the budget that go away for each second it takes, as
register allocators choose (Briggs et al., "Rematerialization", PLDI 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

Version = tuple[str, int]  # a tensor, and which copy of it; copy 0 is the original

TRIES = 8  # candidates of a round that are worked out at most, and
GOOD = 3  # how many have to be good before the best of them is taken
DEEP = 64  # tensors that may have to be computed again for one
INSTANT = 1e-7  # seconds below which times do not count


@dataclass(frozen=True)
class Run:
    """One run of a kernel. scratch: bytes it needs for itself; seconds: how long it takes; recipe: the tensor it makes
    again, None for an original; pinned: it makes what the program is for, or all of what it writes at once."""

    kernel: int
    reads: tuple[Version, ...]
    writes: tuple[Version, ...]
    scratch: int = 0
    seconds: float = 0.0
    recipe: str | None = None
    pinned: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to make a tensor again: runs of kernels that read and write originals. reads: the other tensors it needs."""

    runs: tuple[Run, ...]
    reads: tuple[str, ...]
    seconds: float


def recipe(tensor: str, runs: Sequence[Run]) -> Recipe:
    """The recipe of a tensor that `runs` make."""
    reads = dict.fromkeys(name for run in runs for name, _ in run.reads if name != tensor)
    return Recipe(tuple(runs), tuple(reads), sum(run.seconds for run in runs))


@dataclass(frozen=True)
class Problem:
    """bytes: of each tensor; recipes: of those that can be made again; until: the number of originals before which
    every copy is made (the kernels behind change parameters)."""

    bytes: Mapping[str, int]
    recipes: Mapping[str, Recipe]
    until: int


def shrink(runs: Sequence[Run], problem: Problem, budget: int) -> list[Run] | None:
    """Runs of which at most `budget` bytes live together, made from the given originals; None if none are found."""
    state = _State(list(runs), problem, budget)
    while state.excess.any():
        before = state
        tried = (before.after(move) for move in before.moves())
        found = list(islice((after for after in tried if after.over() < before.over()), GOOD))
        if not found:
            return None
        state = max(found, key=lambda s: (before.over() - s.over()) / (max(s.seconds - before.seconds, 0.0) + INSTANT))
    return state.runs


def live(runs: Sequence[Run], bytes: Mapping[str, int]) -> np.ndarray:
    """Bytes alive at each run."""
    return _live(runs, _accesses(runs), bytes)


def _live(runs: Sequence[Run], accesses: Mapping[Version, list[int]], bytes: Mapping[str, int]) -> np.ndarray:
    change = [0] * (len(runs) + 1)
    for version, at in accesses.items():
        change[at[0]] += bytes[version[0]]
        change[at[-1] + 1] -= bytes[version[0]]
    return np.cumsum(change[:-1]) + np.array([run.scratch for run in runs], np.int64)


def _accesses(runs: Sequence[Run]) -> dict[Version, list[int]]:
    """The runs that read or write each version, in order; one that does both stands there twice."""
    found: dict[Version, list[int]] = {}
    for at, run in enumerate(runs):
        for version in run.writes:
            found.setdefault(version, []).append(at)
        for version in run.reads:
            found.setdefault(version, []).append(at)
    return found


@dataclass(frozen=True)
class _Move:
    """Drop `version` and make it, and before it the other tensors of `chain`, just before the run `before`. keep: later
    readers of those others read the new copies too, so that they are not made once more."""

    version: Version
    before: int
    chain: tuple[str, ...]
    keep: bool
    worth: float


@dataclass
class _State:
    runs: list[Run]
    problem: Problem
    budget: int
    accesses: dict[Version, list[int]] = field(init=False)
    excess: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.accesses = _accesses(self.runs)
        self.live = _live(self.runs, self.accesses, self.problem.bytes)
        self.excess = np.maximum(self.live - self.budget, 0)
        self.seconds = sum(run.seconds for run in self.runs)
        self.until = next((at for at, run in enumerate(self.runs)
                           if run.recipe is None and run.kernel >= self.problem.until), len(self.runs))
        self.versions: dict[str, list[Version]] = {}
        for version in self.accesses:
            self.versions.setdefault(version[0], []).append(version)

    def over(self) -> int:
        """Bytes above the budget, summed over all runs."""
        return int(self.excess.sum())

    # --- candidates ----------------------------------------------------------------------------------------------

    def moves(self) -> list[_Move]:
        """The moves worth most, best first."""
        gaps = []
        written = {version: at for at, run in enumerate(self.runs) for version in run.writes}
        for version, at in self.accesses.items():
            if version[0] not in self.problem.recipes:
                continue
            for last, before in zip(at, at[1:]):
                gain = int(np.minimum(self.excess[last + 1:before], self.problem.bytes[version[0]]).sum())
                if gain and written[version] <= last and before <= self.until:
                    fresh = last > written[version]  # else nobody has read it: it is made later, not twice
                    seconds = self.problem.recipes[version[0]].seconds if fresh else 0.0
                    gaps.append((gain / (seconds + INSTANT), version, before, gain, seconds))
        found: list[_Move] = []
        for most, version, before, gain, seconds in sorted(gaps, key=lambda gap: -gap[0]):
            enough = found[-1].worth if len(found) == TRIES else 0.0
            if most <= enough:
                break
            for keep in (False, True):
                move = self._move(version, before, gain, seconds, keep, enough)
                if move is not None:
                    found = sorted([*found, move], key=lambda m: -m.worth)[:TRIES]
                    if len(move.chain) == 1:
                        break
        return found

    def _move(self, version: Version, before: int, gain: int, seconds: float, keep: bool,
              enough: float) -> _Move | None:
        """The move that makes a version anew at the run `before`, as far as it can be judged without making it: it
        saves `gain` for at least `seconds`. None unless it is worth more than `enough`."""
        bytes, recipes = self.problem.bytes, self.problem.recipes
        chain: dict[str, None] = {}
        others = 0
        waiting = [(version[0], False)]
        while waiting:
            tensor, ready = waiting.pop()
            if tensor in chain:
                continue
            if ready:
                chain[tensor] = None
                continue
            if tensor != version[0]:
                later = self._next(tensor, before) if keep else None
                if later is None:
                    others += bytes[tensor]
                    seconds += recipes[tensor].seconds
                else:
                    gain -= self._price(bytes[tensor], before, self.accesses[later][0])
            waiting.append((tensor, True))
            for source in recipes[tensor].reads:
                if source in chain or self._alive(source, before):
                    continue
                price = self._price(bytes[source], self.accesses[self._latest(source, before)][-1] + 1, before + 1)
                if price and source in recipes and source != version[0]:
                    waiting.append((source, False))
                else:
                    gain -= price
            if gain / (seconds + INSTANT) <= enough or len(waiting) > DEEP:
                return None
        gain -= self._price(others, before, before + 1)
        worth = gain / (seconds + INSTANT)
        return _Move(version, before, tuple(chain), keep, worth) if worth > enough else None

    def _price(self, bytes: int, start: int, end: int) -> int:
        """By how much `bytes` more from run `start` to run `end` exceed the budget."""
        part = self.live[start:end]
        return int((np.maximum(part + (bytes - self.budget), 0) - self.excess[start:end]).sum()) if end > start else 0

    def _alive(self, tensor: str, at: int) -> bool:
        return any(self.accesses[v][0] < at <= self.accesses[v][-1] for v in self.versions[tensor])

    def _latest(self, tensor: str, at: int) -> Version:
        """The version of a tensor to read at a run: one that is alive, or the one that was so last."""
        return max((v for v in self.versions[tensor] if self.accesses[v][0] < at), key=lambda v: self.accesses[v][-1])

    def _next(self, tensor: str, at: int) -> Version | None:
        """The first version of a tensor that is made behind a run."""
        return min((v for v in self.versions[tensor] if self.accesses[v][0] > at), key=lambda v: self.accesses[v][0],
                   default=None)

    # --- making a move -------------------------------------------------------------------------------------------

    def after(self, move: _Move) -> _State:
        """What becomes of the runs."""
        copies = {tensor: (tensor, 1 + max(number for _, number in self.versions[tensor])) for tensor in move.chain}
        replaced = {move.version: copies[move.version[0]]}
        if move.keep:
            replaced |= {v: copies[t] for t in move.chain[:-1] for v in self.versions[t]
                         if self.accesses[v][0] > move.before}
        made, ready = [], set()
        for tensor in move.chain:
            ready.add(tensor)
            for run in self.problem.recipes[tensor].runs:
                reads = tuple(copies[t] if t in ready else self._latest(t, move.before) for t, _ in run.reads)
                made.append(replace(run, reads=reads, writes=(copies[tensor],), recipe=tensor))
        behind = [run if replaced.keys().isdisjoint(run.reads) else
                  replace(run, reads=tuple(dict.fromkeys(replaced.get(v, v) for v in run.reads)))
                  for run in self.runs[move.before:]]
        return _State(_needed([*self.runs[:move.before], *made, *behind]), self.problem, self.budget)


def _needed(runs: Sequence[Run]) -> list[Run]:
    """The runs without those, and the writes without those, that nobody reads."""
    read: set[Version] = set()
    kept = []
    for run in reversed(runs):
        writes = run.writes if run.pinned else tuple(v for v in run.writes if v in read)
        if writes or run.pinned or not run.writes:
            kept.append(run if writes == run.writes else replace(run, writes=writes))
            read.update(run.reads)
    return kept[::-1]
