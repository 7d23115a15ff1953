"""Discrete Fourier transforms of vectors as straight-line code: Cooley and Tukey's algorithm, halving the size down to 1 or 3.

Every lane of a vector is a transform of its own. A number is (real, imaginary), each a step of the code or None for zero.
Each step is an element of a local buffer, which LLVM keeps in a register as it sees fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.schedule.cpu_loops import i64

Number = tuple[int | None, int | None]
ROOM = 512  # bytes of a local buffer: a kilobyte or more would come from the heap


class Code:
    """Straight-line code: steps ("read", what), ("add" | "sub", step, step) and ("scale", step, factor); `results` maps what is
    written to steps."""

    def __init__(self) -> None:
        self.steps: list[tuple] = []
        self.results: dict[Any, int | None] = {}

    def step(self, *what: Any) -> int:
        self.steps.append(what)
        return len(self.steps) - 1

    def read(self, what: Any) -> int:
        return self.step("read", what)

    def add(self, x: int | None, y: int | None) -> int | None:
        return y if x is None else x if y is None else self.step("add", x, y)

    def sub(self, x: int | None, y: int | None) -> int | None:
        return x if y is None else self.scale(y, -1.0) if x is None else self.step("sub", x, y)

    def scale(self, x: int | None, by: float) -> int | None:
        return None if x is None else self.step("scale", x, by)

    def plus(self, x: Number, y: Number) -> Number:
        return self.add(x[0], y[0]), self.add(x[1], y[1])

    def minus(self, x: Number, y: Number) -> Number:
        return self.sub(x[0], y[0]), self.sub(x[1], y[1])

    def conj(self, x: Number) -> Number:
        return x[0], self.scale(x[1], -1.0)

    def turned(self, x: Number, turns: float) -> Number:
        """x * exp(2 pi i turns); `turns` is a fraction with a small denominator."""
        quarters = turns * 4 % 4
        re, im = x
        if quarters == int(quarters):
            for _ in range(int(quarters)):
                re, im = self.scale(im, -1.0), re
            return re, im
        c, s = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
        return self.sub(self.scale(re, c), self.scale(im, s)), self.add(self.scale(re, s), self.scale(im, c))

    def emit(self, lanes: int, read: Callable[[Any, Any], Any], put: Callable[[Any, Any, Any], None]) -> None:
        """read(what, lane) gives what a step reads; put(what, lane, value) is called for each result."""
        needed = {step for step in self.results.values() if step is not None}
        for number in range(len(self.steps) - 1, -1, -1):
            kind, *of = self.steps[number]
            if number in needed and kind != "read":
                needed.update(of if kind != "scale" else of[:1])
        places = {number: place for place, number in enumerate(sorted(needed))}
        most = ROOM // (4 * lanes)
        buffers = [T.alloc_buffer((most, lanes), "float32") for _ in range(-(-len(places) // most))]
        with T.vectorized(0, i64(lanes)) as lane:
            def at(number: int) -> tuple[Any, list[Any]]:
                return buffers[places[number] // most], [i64(places[number] % most), lane]

            def load(number: int) -> Any:
                buffer, index = at(number)
                return buffer[tuple(index)]

            for number in places:
                kind, *of = self.steps[number]
                value = read(of[0], lane) if kind == "read" else load(of[0]) * tirx.const(of[1], "float32") \
                    if kind == "scale" else load(of[0]) + load(of[1]) if kind == "add" else load(of[0]) - load(of[1])
                buffer, index = at(number)
                T.buffer_store(buffer, value, index)
            for what, step in self.results.items():
                put(what, lane, tirx.const(0.0, "float32") if step is None else load(step))


@cache
def rows_forward(size: int) -> Code:
    """Reads `size` real numbers; writes (k, part) for k <= size / 2."""
    code = Code()
    found = _real(code, [code.read(i) for i in range(size)])
    code.results = {(k, part): number[part] for k, number in enumerate(found) for part in (0, 1)}
    return code


@cache
def columns(size: int, sign: int, wanted: int) -> Code:
    """Reads (i, part) for i < size; writes (k, part) for k < wanted."""
    code = Code()
    found = _complex(code, [(code.read((i, 0)), code.read((i, 1))) for i in range(size)], sign)
    code.results = {(k, part): found[k][part] for k in range(wanted) for part in (0, 1)}
    return code


@cache
def rows_back(size: int, wanted: int) -> Code:
    """Reads (k, part) for k <= size / 2, the first and last being real; writes real numbers i < wanted."""
    code = Code()
    given = [(code.read((k, 0)), code.read((k, 1)) if k % (size // 2) else None) for k in range(size // 2 + 1)]
    code.results = dict(enumerate(_real_back(code, given, size)[:wanted]))
    return code


def _complex(code: Code, xs: Sequence[Number], sign: int) -> list[Number]:
    """sum_n xs[n] * exp(sign * 2 pi i n k / N) for k < N."""
    size = len(xs)
    if size == 1:
        return list(xs)
    if size == 3:
        both, apart = code.plus(xs[1], xs[2]), code.minus(xs[1], xs[2])
        middle = code.minus(xs[0], (code.scale(both[0], 0.5), code.scale(both[1], 0.5)))
        aside = code.turned((code.scale(apart[0], 0.75 ** 0.5), code.scale(apart[1], 0.75 ** 0.5)), sign / 4)
        return [code.plus(xs[0], both), code.plus(middle, aside), code.minus(middle, aside)]
    even, odd = (_complex(code, xs[start::2], sign) for start in (0, 1))
    odd = [code.turned(x, sign * k / size) for k, x in enumerate(odd)]
    return [code.plus(e, o) for e, o in zip(even, odd)] + [code.minus(e, o) for e, o in zip(even, odd)]


def _real(code: Code, xs: Sequence[int]) -> list[Number]:
    """sum_n xs[n] * exp(-2 pi i n k / N) of real numbers for k <= N/2: the others are conjugates of these."""
    size, half = len(xs), len(xs) // 2
    if size == 1:
        return [(xs[0], None)]
    if size == 3:
        return _complex(code, [(x, None) for x in xs], -1)[:2]
    even, odd = (_real(code, xs[start::2]) for start in (0, 1))
    out: list[Number] = [(None, None)] * (half + 1)
    for k in range(half // 2 + 1):
        turned = code.turned(odd[k], -k / size)
        out[k] = code.plus(even[k], turned)
        if half - k != k:
            out[half - k] = code.conj(code.minus(even[k], turned))
    return out


def _real_back(code: Code, xs: Sequence[Number], size: int) -> list[int | None]:
    """sum_k xs[k] * exp(2 pi i n k / N) for n < N, of the numbers for k <= N/2, whose sums are real."""
    half = size // 2
    if size == 1:
        return [xs[0][0]]
    if size == 3:
        middle, aside = code.sub(xs[0][0], xs[1][0]), code.scale(xs[1][1], 3 ** 0.5)
        return [code.add(xs[0][0], code.scale(xs[1][0], 2.0)), code.sub(middle, aside), code.add(middle, aside)]
    even, odd = [], []
    for k in range(half // 2 + 1):
        if half - k == k:
            even.append((code.scale(xs[k][0], 2.0), None))
            odd.append((code.scale(xs[k][1], -2.0), None))
            continue
        other = code.conj(xs[half - k])
        even.append(code.plus(xs[k], other))
        odd.append(code.turned(code.minus(xs[k], other), k / size))
    out: list[int | None] = [None] * size
    out[0::2], out[1::2] = _real_back(code, even, half), _real_back(code, odd, half)
    return out
