"""Convolution with 3x3 windows of stride 1 by Winograd's minimal filtering (Lavin and Gray, Fast Algorithms for
Convolutional Neural Networks, CVPR 2016): IR only, written by the pass `choose_algorithm`.

A tile of m x m results needs (m+2)^2 products an input channel in place of 9 m^2. Per tile d of the input and window g,
Y = A^T [(G g G^T) * (B^T d B)] A, summed over channels. The matrices are those of Toom and Cook's algorithm at the
points 0, 1, -1 and infinity for m = 2, and 0, ±1/√2, ±√2 and infinity for m = 4, which lose a fifth of what the usual
0, ±1, ±2 lose: 3e-6 of the largest result.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np

from compiler.ir import LOW, TensorType
from compiler.ops.base import Op, Reduce, register
from compiler.ops.conv import Convolution, window_size


@cache
def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T (e, e), G (e, 3) and A^T (m, e) for tiles of m = 2 or 4 results a side, e = m + 2, in f64."""
    points = {2: [0.0, 1.0, -1.0], 4: [0.0, 0.5 ** 0.5, -0.5 ** 0.5, 2.0 ** 0.5, -2.0 ** 0.5]}[m]
    e = m + 2
    transform, kernel, inverse = np.zeros((e, e)), np.zeros((e, 3)), np.zeros((m, e))
    for row, p in enumerate(points):
        others = [q for q in points if q != p]
        polynomial = np.poly(others)[::-1]  # of the others' roots, lowest power first
        transform[row, :e - 1] = polynomial
        kernel[row] = [p ** power / np.prod([p - q for q in others]) for power in range(3)]
        inverse[:, row] = [p ** power for power in range(m)]
    transform[-1] = np.poly(points)[::-1]
    kernel[-1, 2] = inverse[-1, -1] = 1.0
    transform[np.abs(transform) < 1e-12] = 0.0
    return transform, kernel, inverse


def tiles(m: int, size: int) -> int:
    return -(-size // m)


def entry(t: Any, matrix: np.ndarray, row: Any, column: Any) -> Any:
    """matrix[row, column] for index expressions."""
    value = t.const(0.0, "f32")
    for i, j in np.argwhere(matrix):
        here = t.all_of(t.equal(row, t.index(int(i))), t.equal(column, t.index(int(j))))
        value = t.where(here, t.const(float(matrix[i, j]), "f32"), value)
    return value


@register
class WinogradWeight(Op):
    """G w G^T of each window: w [O, I, 3, 3] becomes [O, I, e, e]; attr `tile` m, e = m + 2."""

    name = "winograd_weight"

    def infer(self, a, w):
        return TensorType("f32" if w.dtype in LOW else w.dtype, (*w.shape[:2], a.tile + 2, a.tile + 2))

    def flops(self, a, types, out):
        return 2 * 9 * out.size

    def numpy(self, a, w):
        g = matrices(a.tile)[1].astype(w.dtype)
        return np.einsum("ya,ocab,xb->ocyx", g, w, g, optimize=True)

    def compute(self, t, a, out, idx, w):
        o, c, y, x = idx
        g = matrices(a.tile)[1]

        return Reduce("sum", [3, 3], lambda i, j: entry(t, g, y, i) * entry(t, g, x, j) * w(o, c, i, j))


@register
class WinogradConv(Convolution):
    """`conv` of x [N, C, H, W] with u, the `winograd_weight` of its 3x3 windows or these themselves, and a bias;
    attributes of `conv`, and `tile`."""

    name = "winograd_conv"

    def flops(self, a, types, out):
        """What is computed: products of all tiles, and four additions an element in each direction of a transform."""
        n, outputs, *spatial = out.shape
        inputs = types[1].shape[1]
        elements = n * (prod(tiles(a.tile, size) for size in spatial) * (a.tile + 2) ** 2)
        windows = types[1].shape[2] == 3  # which each image transforms again
        weights = n * (inputs * outputs * 6 * ((a.tile + 2) * 3 + (a.tile + 2) ** 2)) if windows else 0
        return elements * (2 * inputs * outputs + 8 * (inputs + outputs)) + weights

    def numpy(self, a, x, u, bias=None):
        if u.shape[2] == 3:
            u = WinogradWeight().numpy(a, u)
        m, out = a.tile, [window_size(*axis) for axis in zip(x.shape[2:], a.kernel, a.stride, a.dilation, a.pad)]
        transform, _, inverse = (matrix.astype(x.dtype) for matrix in matrices(m))
        count = [tiles(m, size) for size in out]
        room = [(lo, c * m + 2 - lo - size) for (lo, _), c, size in zip(a.pad, count, x.shape[2:])]
        padded = np.pad(x, ((0, 0), (0, 0), *room))
        d = np.lib.stride_tricks.sliding_window_view(padded, (m + 2, m + 2), (2, 3))[:, :, ::m, ::m]
        d = d[:, :, :count[0], :count[1]]
        v = np.einsum("ya,nctuab,xb->ncyxtu", transform, d, transform, optimize=True)
        s = np.einsum("ocyx,ncyxtu->noyxtu", u, v, optimize=True)
        y = np.einsum("pa,noabtu,qb->notpuq", inverse, s, inverse, optimize=True)
        y = y.reshape(*y.shape[:2], count[0] * m, count[1] * m)[:, :, :out[0], :out[1]]
        return y if bias is None else y + bias.reshape(-1, 1, 1)

    def compute(self, t, a, out, idx, x, u, *bias):
        """One result as one sum over the elements of its tile: right for any layout and target, and slow."""
        n, o, *p = idx
        m, e = a.tile, a.tile + 2
        transform, kernel, inverse = matrices(m)
        windows = u.shape[2] == 3
        origin = [t.floordiv(q, m) * m - lo for q, (lo, _) in zip(p, a.pad)]

        def value(c, ey, ex, i, j, *tap):
            at = [start + k for start, k in zip(origin, (i, j))]
            inside = t.all_of(*[f for q, size in zip(at, x.shape[2:]) for f in (q >= 0, q < size)])
            element = t.guarded(inside, x(n, c, *at), t.const(0.0, "f32"))
            weight = entry(t, inverse, t.floormod(p[0], m), ey) * entry(t, inverse, t.floormod(p[1], m), ex)
            product = element * entry(t, transform, ey, i) * entry(t, transform, ex, j) * weight
            if not windows:
                return product * u(o, c, ey, ex)
            return product * entry(t, kernel, ey, tap[0]) * entry(t, kernel, ex, tap[1]) * u(o, c, *tap)

        extents = [u.shape[1], e, e, e, e, *([3, 3] if windows else [])]
        return Reduce("sum", extents, value, finish=lambda acc: acc + bias[0](o) if bias else acc)
