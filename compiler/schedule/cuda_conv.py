"""Convolutions, their gradients and matrix products on CUDA cores, as tiled products (`cuda_gemm`) of index maps.

Which index runs fastest is asked of memory: with channels innermost, k counts channels within taps and positions are rows
of A; where maps lie as their shape says, k counts taps within channels, and positions are columns of B. So loads and
stores take four neighbours wherever four lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.ops.base import Operand
from compiler.schedule.cuda_gemm import Product, Side
from compiler.schedule.cuda_index import (
    Grid,
    Reader,
    Room,
    both,
    i32,
    i64,
    product,
    side_by_side,
    split,
    static,
    strides,
    truncdiv,
    vector,
)
from compiler.schedule.cuda_product import plan
from compiler.schedule.kernel import Kernel


def emit_conv(kernel: Kernel, batch: int, room: Room) -> Grid | None:
    """The blocks of `conv`; None where this template does not apply."""
    x, w, *bias = kernel.operands
    if not _applies(kernel, x.shape[2:], kernel.shape[2:]):
        return None
    a, taps = kernel.a, tuple(kernel.a.kernel)
    outputs, inputs = static(kernel.shape[1]) // a.groups, static(w.shape[1])
    last = _channels_last(x)
    if a.groups > 1 and min(outputs, inputs) < 4:
        return None
    flat = _flat(kernel, x, x.shape[2:], kernel.shape[2:])
    positions = _windows(kernel, x, inputs, last, flat)
    weights = _weights(w, outputs, inputs, taps, last)
    step = _channels_and_taps(inputs, taps, last)
    extent = inputs * prod(taps)
    if _channels_last_result(kernel):
        sides, stored = (positions, weights), _store_channels(kernel, outputs, bias)
    else:
        sides, stored = (weights, positions), _store_positions(kernel, outputs, bias)
    return plan(Product(*sides, extent, step, a.groups, *stored, _run(inputs)), kernel, batch, room)


def emit_conv_input_grad(kernel: Kernel, batch: int, room: Room) -> Grid | None:
    """The blocks of `conv_input_grad`: of a result position, the windows that it was in."""
    g, w = kernel.operands
    if not _applies(kernel, kernel.shape[2:], g.shape[2:]):
        return None
    a, taps = kernel.a, tuple(kernel.a.kernel)
    outputs, inputs = static(g.shape[1]) // a.groups, static(w.shape[1])
    if a.groups > 1 and min(outputs, inputs) < 4:
        return None
    last = _channels_last(g)
    flat = _flat(kernel, g, kernel.shape[2:], g.shape[2:])
    positions = _reached(kernel, g, outputs, last, flat)

    width = vector(w, 1)
    reader = Reader(w, width)
    weights = Side(inputs, lambda group, c: reader.start([group * outputs, c, *_none(taps)]), _always,
                   lambda place, step, lane: reader.read(place, [step[1], None, *step[2:]], lane), "row", width)
    step = _channels_and_taps(outputs, taps, last)
    extent = outputs * prod(taps)
    if _channels_last_result(kernel):
        sides, stored = (positions, weights), _store_channels(kernel, inputs, [])
    else:
        sides, stored = (weights, positions), _store_positions(kernel, inputs, [])
    return plan(Product(*sides, extent, step, a.groups, *stored, _run(outputs)), kernel, batch, room)


def emit_conv_weight_grad(kernel: Kernel, batch: int, room: Room) -> Grid | None:
    """The blocks of `conv_weight_grad`: a sum over all positions of all images."""
    g, x = kernel.operands
    if not _applies(kernel, x.shape[2:], g.shape[2:]):
        return None
    a = kernel.a
    outputs, inputs = static(g.shape[1]) // a.groups, static(kernel.shape[1])
    if a.groups > 1 and min(outputs, inputs) < 4:
        return None
    out = [static(extent) for extent in g.shape[2:]]
    place = prod(out)

    def step(base: Any, within: Any, depth: int) -> list[Any]:
        n, at = split(base + within, [0, place])
        return [n, at, *split(at, out)]

    last, joined = _channels_last(g), _joined(g)
    along = "row" if last else "k"
    width = vector(g, 1, outputs) if last else vector(g, len(g.shape) - 1, place) if joined else 1

    reader = Reader(g, width)

    def gradient(row: Sequence[Any], at: Sequence[Any], lane: Any) -> Any:
        n, flat, *p = at
        return reader.read(row, [n, None, *_none(p[1:]), flat] if joined else [n, None, *p], lane)

    rows = Side(outputs, lambda group, o: reader.start([0, group * outputs + o, *_none(out)]), _always, gradient, along, width)
    return plan(Product(rows, _columns(kernel, x, inputs, out), product([g.shape[0], *out]), step, a.groups,
                        *_store_weights(kernel, outputs, inputs, _channels_last(x))), kernel, batch, room)


def emit_matmul(kernel: Kernel, batch: int, room: Room) -> Grid | None:
    """The blocks of `matmul`."""
    x, y, *bias = kernel.operands
    if not all(o.computed for o in kernel.operands):
        return None
    a = kernel.a

    def side(source: Operand, extent: Any, transposed: bool) -> Side:
        """Rows of a matrix that is stored [row, k], or [k, row] if it is transposed."""
        width = vector(source, 1)
        reader = Reader(source, width)

        def read(place: Sequence[Any], step: Sequence[Any], lane: Any) -> Any:
            return reader.read(place, [step[0], None] if transposed else [None, step[0]], lane)

        return Side(extent, lambda group, row: reader.start([0, row] if transposed else [row, 0]), _always, read,
                    "row" if transposed else "k", width)

    rows, columns = (product([extent]) for extent in kernel.shape)
    extent = product([x.shape[0 if a.transpose_a else 1]])
    width = 4 if kernel.arithmetic and static(kernel.shape[1]) is not None and columns % 4 == 0 else 1

    def store(row: Sequence[Any], group: Any, n: Any, value: Callable[[Any], Any], width: int) -> None:
        _lanes(width, lambda lane: kernel.store((row[0], n + lane), _plus(value(lane), bias, n + lane)))

    return plan(Product(side(x, rows, a.transpose_a), side(y, columns, not a.transpose_b), extent,
                        lambda base, within, depth: [base + within], 1, lambda group, m: [m], store, width), kernel, batch, room)


# --- operands --------------------------------------------------------------------------------------------------------


def _applies(kernel: Kernel, source: Sequence[Any], out: Sequence[Any]) -> bool:
    """Computed in f32, and maps of known size."""
    return all(o.computed for o in kernel.operands) and all(static(size) is not None for size in (*source, *out))


def _channels_last(x: Operand) -> bool:
    """Whether neighbours in memory are channels, or would be where each map is one element."""
    steps = strides(x)
    return steps is not None and static(steps[1]) == 1


def _channels_last_result(kernel: Kernel) -> bool:
    return kernel.layout.order[-1:] == (1,) or all(static(size) == 1 for size in kernel.shape[2:])


def _none(axes: Sequence[Any]) -> list[Any]:
    """An index of nothing but zeros."""
    return [i32(0)] * len(axes)


def _always(place: Sequence[Any], step: Sequence[Any]) -> None:
    return None


def _joined(x: Operand) -> bool:
    """Whether all maps' rows lie one behind the other, so that a position is one number."""
    axes = range(2, len(x.shape))
    return strides(x) is not None and all(side_by_side(x, outer, inner) for outer, inner in zip(axes, axes[1:]))


def _flat(kernel: Kernel, x: Operand, source: Sequence[Any], out: Sequence[Any]) -> bool:
    """Whether windows are single positions, the same of source and result, in one run of memory."""
    a = kernel.a
    return (set(a.kernel) == set(a.stride) == {1} and all(pad == (0, 0) for pad in a.pad) and _joined(x)
            and [static(s) for s in source] == [static(s) for s in out])


def _windows(kernel: Kernel, x: Operand, inputs: int, last: bool, flat: bool) -> Side:
    """Result positions as rows: of each, the input elements that its window holds."""
    a, out, sizes = kernel.a, [static(size) for size in kernel.shape[2:]], [static(size) for size in x.shape[2:]]
    width = vector(x, 1, inputs) if last else vector(x, len(x.shape) - 1, prod(out)) if flat else 1
    reader = Reader(x, width)

    def place(group: Any, m: Any) -> list[Any]:
        n, *p = split(m, [0, prod(out)] if flat else [0, *out])
        at = [*_none(out[1:]), *p] if flat else [i * s - lo for i, s, (lo, _) in zip(p, a.stride, a.pad)]
        return [*at, *reader.start([n, group * inputs, *at])]

    def inside(place: Sequence[Any], step: Sequence[Any]) -> Any:
        at = [i + tap * d for i, tap, d in zip(place, step[2:], a.dilation)]
        return _within(at, sizes, out, a)

    def read(place: Sequence[Any], step: Sequence[Any], lane: Any) -> Any:
        taps = [tap * d for tap, d in zip(step[2:], a.dilation)]
        return reader.read(place[len(out):], [None, step[1], *taps], lane)

    return Side(product([x.shape[0], *out]), place, inside, read, "k" if last else "row", width)


def _within(at: Sequence[Any], sizes: Sequence[int], out: Sequence[int], a: Any) -> Any:
    """Whether a position of a window is inside the map, where it can be outside."""
    conditions = []
    for i, size, o, s, t, d, (lo, _) in zip(at, sizes, out, a.stride, a.kernel, a.dilation, a.pad):
        conditions += [i >= 0] if lo else []
        conditions += [i < i32(size)] if (o - 1) * s + (t - 1) * d - lo >= size else []
    return both(*conditions)


def _reached(kernel: Kernel, g: Operand, outputs: int, last: bool, flat: bool) -> Side:
    """Input positions as rows: of each, the gradients of the windows that it was in."""
    a, size, out = kernel.a, [static(extent) for extent in kernel.shape[2:]], [static(extent) for extent in g.shape[2:]]
    width = vector(g, 1, outputs) if last else vector(g, len(g.shape) - 1, prod(out)) if flat else 1
    reader = Reader(g, width)
    single = set(a.stride) == {1}

    def place(group: Any, m: Any) -> list[Any]:
        n, *p = split(m, [0, prod(size)] if flat else [0, *size])
        at = [*_none(size[1:]), *p] if flat else [i + lo for i, (lo, _) in zip(p, a.pad)]
        return [*at, *reader.start([n, group * outputs, *(at if single else _none(size))])]

    def shifted(place: Sequence[Any], step: Sequence[Any]) -> list[Any]:
        return [i - tap * d for i, tap, d in zip(place, step[2:], a.dilation)]

    def inside(place: Sequence[Any], step: Sequence[Any]) -> Any:
        if flat:
            return None
        conditions = []
        for i, o, s in zip(shifted(place, step), out, a.stride):
            conditions += [i >= 0, i < i32(o * s)] + ([tirx.truncmod(i, i32(s)) == 0] if s > 1 else [])
        return both(*conditions)

    def read(place: Sequence[Any], step: Sequence[Any], lane: Any) -> Any:
        back = [i32(0) - tap * d for tap, d in zip(step[2:], a.dilation)] if single else [
            truncdiv(i, s) for i, s in zip(shifted(place, step), a.stride)]
        return reader.read(place[len(size):], [None, step[1], *back], lane)

    return Side(product([g.shape[0], *size]), place, inside, read, "k" if last else "row", width)


def _columns(kernel: Kernel, x: Operand, inputs: int, out: Sequence[int]) -> Side:
    """Taps and channels as columns: of each, the inputs that it meets at all positions."""
    a, taps, last, sizes = kernel.a, tuple(kernel.a.kernel), _channels_last(x), [static(size) for size in x.shape[2:]]
    flat = _flat(kernel, x, sizes, out)
    width = vector(x, 1, inputs) if last else vector(x, len(x.shape) - 1, prod(out)) if flat else 1
    reader = Reader(x, width)

    def place(group: Any, column: Any) -> list[Any]:
        c, *tap = _channel_and_tap(column, inputs, taps, last)
        at = [t * d - lo for t, d, (lo, _) in zip(tap, a.dilation, a.pad)]
        return [*at, *reader.start([0, group * inputs + c, *at])]

    def inside(place: Sequence[Any], step: Sequence[Any]) -> Any:
        return _within([i * s + t for i, s, t in zip(step[2:], a.stride, place)], sizes, out, a)

    def read(place: Sequence[Any], step: Sequence[Any], lane: Any) -> Any:
        n, at, *p = step
        where = [*_none(out[1:]), at] if flat else [i * s for i, s in zip(p, a.stride)]
        return reader.read(place[len(out):], [n, None, *where], lane)

    return Side(inputs * prod(taps), place, inside, read, "row" if last else "k", width)


def _weights(w: Operand, outputs: int, inputs: int, taps: tuple[int, ...], last: bool) -> Side:
    """Output channels as rows."""
    steps = strides(w)
    row = steps is not None and static(steps[0]) == 1 and outputs > 1
    # Taps within channels are what a weight's own order is: k is then one number.
    whole = (not last and not _run(inputs) and steps is not None
             and all(side_by_side(w, i, i + 1) for i in range(1, len(taps) + 1)))
    width = (vector(w, 0, outputs) if row else vector(w, len(w.shape) - 1, inputs * prod(taps)) if whole
             else vector(w, 1))

    reader = Reader(w, width)

    def read(place: Sequence[Any], step: Sequence[Any], lane: Any) -> Any:
        flat = whole and not row
        return reader.read(place, [None, None, *_none(taps[1:]), step[0]] if flat else [None, *step[1:]], lane)

    return Side(outputs, lambda group, o: reader.start([group * outputs + o, *_none(w.shape[1:])]), _always, read,
                "row" if row else "k", width)


def _run(channels: int) -> int | None:
    """The channels of a tap, where steps of k never cross them."""
    return channels if channels % 8 == 0 else None


def _channels_and_taps(channels: int, taps: tuple[int, ...], last: bool) -> Callable[[Any, Any, int], list[Any]]:
    """k, and the channel and the tap that it means. Where steps do not cross taps, a few channels of all taps follow each
    other: all threads are at one tap, and the next tap's lines are in cache already. Else channels within taps if `last`,
    taps within channels if not."""

    def step(base: Any, within: Any, depth: int) -> list[Any]:
        if _run(channels):
            chunk, tap = split(truncdiv(base, depth), [0, prod(taps)])
            return [i32(0), chunk * depth + within, *split(tap, taps)]
        return [base + within, *_channel_and_tap(base + within, channels, taps, last)]

    return step


def _channel_and_tap(flat: Any, channels: int, taps: tuple[int, ...], last: bool) -> list[Any]:
    if last:
        *tap, c = split(flat, [*taps, channels])
        return [c, *tap]
    return split(flat, [channels, *taps])


# --- results ---------------------------------------------------------------------------------------------------------


def _plus(value: Any, bias: Sequence[Operand], o: Any) -> Any:
    return value + bias[0](o) if bias else value


def _lanes(width: int, body: Callable[[Any], None]) -> None:
    if width == 1:
        body(i32(0))
        return
    with T.vectorized(0, width) as lane:
        body(lane)


def _store_channels(kernel: Kernel, channels: int, bias: Sequence[Operand]) -> tuple[Callable, Callable, int]:
    """How positions x channels are stored: neighbours are channels."""
    cuts = [start for start, _ in kernel.segments]
    width = 4 if kernel.arithmetic and channels % 4 == 0 and all(cut % 4 == 0 for cut in cuts) else 1
    out = [static(size) for size in kernel.shape[2:]]

    def store(row: Sequence[Any], group: Any, n: Any, value: Callable[[Any], Any], width: int) -> None:
        first = group * channels + n
        kernel.each(first, lambda put: _lanes(width, lambda lane: put(
            (row[0], first + lane, *row[1:]), _plus(value(lane), bias, first + lane))))

    def result(group: Any, m: Any) -> list[Any]:
        n, *p = split(m, [0, *out])
        return [i64(n), *p]

    return result, store, width


def _store_positions(kernel: Kernel, channels: int, bias: Sequence[Operand]) -> tuple[Callable, Callable, int]:
    """How channels x positions are stored: neighbours are columns of a map's row."""
    out = [static(size) for size in kernel.shape[2:]]
    width = 4 if kernel.arithmetic and out[-1] % 4 == 0 else 1

    def store(row: Sequence[Any], group: Any, n: Any, value: Callable[[Any], Any], width: int) -> None:
        image, *outer, inner = split(n, [0, *out])
        kernel.each(row[0], lambda put: _lanes(width, lambda lane: put(
            (i64(image), row[0], *outer, inner + lane), _plus(value(lane), bias, row[0]))))

    return lambda group, m: [group * channels + m], store, width


def _store_weights(kernel: Kernel, outputs: int, inputs: int, last: bool) -> tuple[Callable, Callable, int]:
    """How outputs x (taps and channels) are stored."""
    taps = tuple(kernel.a.kernel)
    width = 4 if kernel.arithmetic and prod(taps) == 1 and inputs % 4 == 0 else 1

    def store(row: Sequence[Any], group: Any, n: Any, value: Callable[[Any], Any], width: int) -> None:
        c, *tap = _channel_and_tap(n, inputs, taps, last)
        _lanes(width, lambda lane: kernel.store((row[0], c + lane, *tap), value(lane)))

    return lambda group, m: [group * outputs + m], store, width
