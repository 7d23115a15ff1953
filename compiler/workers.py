"""Work spread over processes that are copies of this one: they see all that is in memory, and send bytes back.

For compilers that hold global state, which threads would share. Copies are made by fork, so nothing is imported again and
nothing is serialized on the way there.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import struct
import threading
import traceback
import warnings
from collections.abc import Callable

NUMBER = struct.Struct("<I")
ANSWER = struct.Struct("<I?Q")  # which piece, whether it failed, bytes that follow
NO_MORE = 0xFFFFFFFF
_forking = threading.Lock()  # a copy must not hold the writing end of another's pipe, which would never seem closed


class WorkerError(Exception):
    """A piece of work that failed in a process: its traceback there, or how the process ended."""


def spread(work: Callable[[int], bytes], pieces: int, processes: int) -> list[bytes]:
    """[work(0), …, work(pieces - 1)], each in one of so many processes; a process that is done takes the next in order.

    Raises WorkerError where one raises or its process dies.
    """
    waiting, todo = os.pipe()
    children: dict[int, int] = {}  # process → where its answers come from
    gc.freeze()  # else collections would touch, and so copy, every object
    try:
        for _ in range(min(processes, pieces)):
            with _forking:
                answers, mine = os.pipe()
                process = _copy()
                if not process:
                    _serve(work, waiting, mine)
                os.close(mine)
            children[process] = answers
        with os.fdopen(todo, "wb", buffering=0) as stream:
            for number in [*range(pieces), *[NO_MORE] * len(children)]:
                stream.write(NUMBER.pack(number))
        found = _collect(list(children.values()))
    finally:
        gc.unfreeze()
        os.close(waiting)
        for process, answers in children.items():
            os.close(answers)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    if len(found) < pieces:
        raise WorkerError("a process that compiles was ended from outside, or by its compiler")
    return [found[i] for i in range(pieces)]


def _copy() -> int:
    """fork. Python and JAX warn of threads that a copy lacks: it runs the compiler, which needs none of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


def _serve(work: Callable[[int], bytes], waiting: int, mine: int) -> None:
    """The life of a child: pieces until there are none."""
    try:
        with os.fdopen(mine, "wb") as stream:
            while (index := NUMBER.unpack(os.read(waiting, NUMBER.size))[0]) != NO_MORE:
                try:
                    failed, data = False, work(index)
                except Exception:
                    failed, data = True, traceback.format_exc().encode()
                stream.write(ANSWER.pack(index, failed, len(data)) + data)
                stream.flush()
    finally:
        os._exit(0)  # nothing of the parent's is to be finished here


def _collect(pipes: list[int]) -> dict[int, bytes]:
    """The answers of all children, until each has closed its pipe."""
    found: dict[int, bytes] = {}
    parts = {pipe: bytearray() for pipe in pipes}
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data, part = os.read(key.fd, 1 << 20), parts[key.fd]
                if not data:
                    selector.unregister(key.fd)
                part += data
                while len(part) >= ANSWER.size:
                    index, failed, size = ANSWER.unpack_from(part)
                    end = ANSWER.size + size
                    if len(part) < end:
                        break
                    if failed:
                        raise WorkerError(part[ANSWER.size:end].decode())
                    found[index] = bytes(part[ANSWER.size:end])
                    del part[:end]
    return found
