"""Batches for training: shuffled, augmented, gathered by a thread that runs ahead of the compute.

What a batch holds depends only on (seed, epoch, step), so a run resumed in the middle of an epoch sees the same bits.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Iterator, Sequence

import numpy as np

from runtime.data.augment import augment_batch, check_augment
from runtime.data.config import Augment
from runtime.data.dataset import Part


def epoch_order(count: int, shuffle: bool, seed: int, epoch: int) -> np.ndarray:
    """The order [count, int64] in which an epoch visits the examples; depends only on the arguments."""
    if not shuffle:
        return np.arange(count)
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def steps_in(count: int, batch: int, drop_last: bool = False) -> int:
    """Batches in an epoch of `count` examples."""
    return count // batch if drop_last else -(-count // batch)


def batches(part: Part, batch: int, *, shuffle: bool, seed: int, epoch: int, augment: Sequence[Augment] = (),
            drop_last: bool = False, start: int = 0, prefetch: int = 2) -> Iterator[dict[str, np.ndarray]]:
    """The batches of one epoch from step `start` on: field name -> C-contiguous, 64-byte-aligned [n, *field.shape].

    n is `batch`, fewer in the last one unless `drop_last`. Arrays are the caller's to keep or change.
    augment: applied in order to the inputs of rank 3; its randomness depends on (seed, epoch, example) only.
    prefetch: batches made ahead by a thread; 0 makes them when asked for, without a thread. What goes wrong in the
    thread is raised here; the thread ends with the iterator.
    Raises NetcError E0561 for an augmentation that does not exist or does not fit, before the first batch.
    """
    if batch <= 0 or start < 0 or seed < 0 or epoch < 0 or prefetch < 0:
        raise ValueError("batch must be positive; start, seed, epoch and prefetch not negative")
    augment = tuple(augment)
    check_augment(augment, part.fields)
    order = epoch_order(len(part), shuffle, seed, epoch)
    steps = range(start, steps_in(len(part), batch, drop_last))

    def make(step: int) -> dict[str, np.ndarray]:
        indices = order[step * batch:(step + 1) * batch]
        arrays = part.gather(indices)
        if augment:
            augment_batch(arrays, part.fields, augment, seed, epoch, indices)
        return arrays

    return _run_ahead(make, steps, prefetch) if prefetch else map(make, steps)


def _run_ahead(make, steps: range, prefetch: int) -> Iterator[dict[str, np.ndarray]]:
    free, ready, stop = threading.Semaphore(prefetch), SimpleQueue(), threading.Event()

    def work() -> None:
        for step in steps:
            free.acquire()
            if stop.is_set():
                return
            try:
                ready.put((make(step), None))
            except Exception as error:  # not swallowed: the consumer raises it
                ready.put((None, error))
                return

    thread = threading.Thread(target=work, name="netc-data", daemon=True)
    thread.start()
    try:
        for _ in steps:
            arrays, error = ready.get()
            if error is not None:
                raise error
            free.release()
            yield arrays
    finally:
        stop.set()
        free.release()
        thread.join()
