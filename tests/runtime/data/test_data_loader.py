"""Batches: order, resuming, alignment, and the thread that runs ahead."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.arrays import aligned
from runtime.data import Augment, Field, Part, batches, steps_in
from runtime.data.fit import ArrayExamples
from runtime.errors import NetcError

IMAGE = Field("image", "u8", (1, 6, 5))
LABEL = Field("y", "i32", (), "label", 1000)
AUGMENT = (Augment("crop", {"pad": 2}), Augment("flip"), Augment("rotate", {"degrees": 20}),
           Augment("jitter", {"amount": 0.3}), Augment("noise", {"std": 4}), Augment("erase", {"size": 2}))


def make_part(count=23, rows=None):
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 6, 5), dtype=np.uint8)
    examples = ArrayExamples("memory", {"image": images, "y": np.arange(count, dtype=np.int32)}, {})
    return Part("train", (IMAGE, LABEL), examples, np.arange(count) if rows is None else rows)


def collect(part, batch=4, **more):
    return list(batches(part, batch, **({"shuffle": True, "seed": 7, "epoch": 2} | more)))


def same(left, right):
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)
        for a, b in zip(left, right))


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name == "netc-data"]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 3))
def test_every_example_once(count, batch, shuffle, drop_last, prefetch):
    got = collect(make_part(count), batch, shuffle=shuffle, drop_last=drop_last, prefetch=prefetch)
    sizes = [len(step["y"]) for step in got]
    labels = np.concatenate([step["y"] for step in got]) if got else np.array([])
    kept = count // batch * batch if drop_last else count
    assert len(got) == steps_in(count, batch, drop_last) and sum(sizes) == kept
    assert all(size == batch for size in sizes[:-1])
    assert len(set(labels.tolist())) == kept
    if not shuffle:
        assert labels.tolist() == list(range(kept))


def test_arrays_are_contiguous_aligned_and_exact():
    part = make_part()
    for step in collect(part, augment=AUGMENT) + collect(part):
        for field in part.fields:
            array = step[field.name]
            assert array.flags["C_CONTIGUOUS"] and array.ctypes.data % 64 == 0 and array.flags["WRITEABLE"]
            assert array.dtype == field.numpy_dtype and array.shape[1:] == field.shape


def test_image_stays_with_its_label():
    part = make_part(rows=np.array([20, 3, 5, 7, 11]))
    for step in collect(part, 2):
        for image, label in zip(step["image"], step["y"]):
            assert (image == part.examples.arrays["image"][label]).all()


def test_order_depends_on_seed_and_epoch_only():
    part = make_part()
    assert same(collect(part, augment=AUGMENT), collect(part, augment=AUGMENT, prefetch=0))
    assert not same(collect(part), collect(part, epoch=3))
    assert not same(collect(part), collect(part, seed=8))


@pytest.mark.parametrize("start", range(7))
def test_resuming_inside_an_epoch_gives_the_same_bits(start):
    part = make_part()
    assert same(collect(part, augment=AUGMENT)[start:], collect(part, augment=AUGMENT, start=start))


def test_an_example_is_augmented_the_same_in_any_batch():
    part = make_part()
    by_label = [{int(y): image for step in collect(part, batch, shuffle=shuffle, augment=AUGMENT)
                 for image, y in zip(step["image"], step["y"])} for batch, shuffle in ((4, True), (9, False))]
    assert all((by_label[0][y] == by_label[1][y]).all() for y in range(23))
    plain = part.examples.arrays["image"]
    assert sum((by_label[0][y] != plain[y]).any() for y in range(23)) > 20


class Failing:
    """Examples of which one cannot be read."""

    class_names = {}
    file = "memory"

    def __init__(self, bad, delay=0.0):
        self.bad, self.delay, self.asked = bad, delay, 0

    def gather_into(self, rows, out):
        self.asked += 1
        time.sleep(self.delay)
        if self.bad in rows:
            raise NetcError("E0558", "cannot read the image")
        out["y"][:] = rows


def test_an_error_in_the_thread_comes_out_here_in_its_place():
    part = Part("train", (LABEL,), Failing(bad=9), np.arange(20))
    seen = []
    with pytest.raises(NetcError, match="E0558"):
        for step in batches(part, 2, shuffle=False, seed=0, epoch=0):
            seen += step["y"].tolist()
    assert seen == list(range(8)) and not loader_threads()


def test_the_thread_ends_when_the_consumer_stops_early():
    part = make_part(200)
    iterator = batches(part, 2, shuffle=False, seed=0, epoch=0)
    next(iterator)
    assert loader_threads()
    iterator.close()
    assert not loader_threads()
    for _ in batches(part, 2, shuffle=False, seed=0, epoch=0):
        break
    assert not loader_threads()


def test_it_runs_ahead_but_not_too_far():
    examples = Failing(bad=-1)
    iterator = batches(Part("train", (LABEL,), examples, np.arange(100)), 2, shuffle=False, seed=0, epoch=0, prefetch=3)
    next(iterator)
    deadline = time.monotonic() + 5
    while examples.asked < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert examples.asked == 4  # the one taken and three ahead
    iterator.close()


def test_wrong_arguments():
    part = make_part()
    for wrong in ({"batch": 0}, {"start": -1}, {"seed": -1}, {"prefetch": -1}, {"epoch": -1}):
        with pytest.raises(ValueError):
            collect(part, **wrong)
    with pytest.raises(NetcError, match="E0561"):
        batches(part, 2, shuffle=True, seed=0, epoch=0, augment=[Augment("crp", {"pad": 1})])


def test_aligned():
    for shape in ((), (0,), (3,), (2, 0, 4), (5, 7)):
        for dtype in (np.uint8, np.float64, np.bool_):
            array = aligned(shape, dtype)
            assert array.shape == shape and array.dtype == dtype and array.flags["C_CONTIGUOUS"]
            assert array.size == 0 or array.ctypes.data % 64 == 0
