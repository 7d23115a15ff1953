"""CUDA graphs: the launches of a program are recorded once, and started together by one call of the driver from then on.

A graph holds the addresses it was recorded with. Arguments that come from the host are copied into memory that stays in
place as long as shapes do (`device.Gpu`), so calls with new arrays use the same graph. Names are those of the CUDA runtime.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from runtime import native
from runtime.errors import NetcError
from runtime.execute import Plan

NON_BLOCKING, THREAD_LOCAL = 1, 1  # cudaStreamNonBlocking, cudaStreamCaptureModeThreadLocal
KEPT = 4  # graphs of a program: for its ranges of kernels, and for callers whose arrays take turns


class Graph:
    """A recording that the driver can start."""

    def __init__(self, cudart: ctypes.CDLL, handle: ctypes.c_void_p):
        self._cudart, self._handle = cudart, handle

    def launch(self) -> int:
        """Starts it on the legacy default stream. Returns CUDA's status."""
        return self._cudart.cudaGraphLaunch(self._handle, None)

    def __del__(self) -> None:
        self._cudart.cudaGraphExecDestroy(self._handle)


class Graphs:
    """The recordings of an executable's programs. Where CUDA refuses to record one, launches go one by one from then on."""

    def __init__(self, cudart: ctypes.CDLL, index: int):
        """index: of the GPU."""
        self._cudart, self._index = cudart, index
        self._usable = True
        # Of each program, by range of kernels and addresses; None for what ran once.
        self._seen: WeakKeyDictionary[Plan, dict[tuple[int, ...], Graph | None]] = WeakKeyDictionary()

    def run(self, plan: Plan, addresses: Sequence[int], begin: int, end: int) -> None:
        """Launches kernels [begin, end): one by one the first time, since their code is loaded then, which cannot be
        recorded; the second time they are recorded. Raises NetcError E0650."""
        if not self._usable or end - begin < 2:
            plan.call(addresses, begin, end)
            return
        seen, key = self._seen.setdefault(plan, {}), (begin, end, *addresses)
        if key not in seen:
            plan.call(addresses, begin, end)
            while len(seen) >= KEPT:
                del seen[next(iter(seen))]
            seen[key] = None
            return
        graph = seen[key]
        if graph is None:
            graph = seen[key] = self._record(lambda: plan.call(addresses, begin, end))
        if graph is None or graph.launch():
            self._usable = False
            self._seen.clear()
            self._cudart.cudaGetLastError()  # else the next launch would take the error for its own
            plan.call(addresses, begin, end)

    def _record(self, launch: Callable[[], None]) -> Graph | None:
        """What `launch` launches; None where CUDA refuses. On a stream of its own: the legacy one cannot be recorded."""
        stream, graph, ready = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        if self._cudart.cudaStreamCreateWithFlags(ctypes.byref(stream), NON_BLOCKING):
            return None
        try:
            if self._cudart.cudaStreamBeginCapture(stream, THREAD_LOCAL):
                return None
            try:
                with native.on_stream(native.CUDA, self._index, stream):
                    launch()
                complete = True
            except NetcError:
                complete = False  # launched one by one, it tells what is wrong
            finally:
                refused = self._cudart.cudaStreamEndCapture(stream, ctypes.byref(graph))
            if complete and not refused:
                refused = self._cudart.cudaGraphInstantiate(ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
            if graph:
                self._cudart.cudaGraphDestroy(graph)
            return Graph(self._cudart, ready) if complete and not refused else None
        finally:
            self._cudart.cudaStreamDestroy(stream)
