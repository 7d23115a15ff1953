"""Work in copies of a process: in order, all of it, and failures told."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from compiler.workers import WorkerError, spread


def test_answers_come_in_order_from_other_processes():
    secret = object()  # nothing of the parent's has to be sent
    answers = spread(lambda i: f"{i} {os.getpid()} {id(secret)}".encode(), 40, 3)
    parts = [answer.decode().split() for answer in answers]
    assert [int(number) for number, _, _ in parts] == list(range(40))
    assert {int(place) for _, _, place in parts} == {id(secret)}
    assert str(os.getpid()) not in {process for _, process, _ in parts}


def test_long_answers_are_whole():
    assert spread(lambda i: bytes([i]) * (i * 300_000), 7, 2) == [bytes([i]) * (i * 300_000) for i in range(7)]


def test_nothing_is_left_behind():
    before, open_before = os.getpid(), len(os.listdir("/proc/self/fd"))
    spread(lambda i: b"", 5, 2)
    assert os.getpid() == before and len(os.listdir("/proc/self/fd")) == open_before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_failure_is_told_with_its_place():
    def work(i: int) -> bytes:
        if i == 3:
            raise ValueError("three is too many")
        return b"fine"

    with pytest.raises(WorkerError, match="(?s)in work.*three is too many"):
        spread(work, 6, 2)


def test_a_process_that_dies_is_told():
    def work(i: int) -> bytes:
        if i == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"fine"

    with pytest.raises(WorkerError, match="ended from outside"):
        spread(work, 3, 1)


def test_several_threads_may_spread_at_once():
    found: dict[int, list[bytes]] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: spread(lambda i: bytes([k, i]), 9, 2)})) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: [bytes([k, i]) for i in range(9)] for k in range(3)}
