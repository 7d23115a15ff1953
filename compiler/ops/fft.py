"""Convolution with large windows of stride 1 by the discrete Fourier transform, tile by tile (overlap-save; Oppenheim and
Schafer, Discrete-Time Signal Processing): IR only, written by the pass `choose_algorithm`.

A tile of F x F inputs gives (F - kh + 1) x (F - kw + 1) results: Y = X * conj(W) / F^2 point by point, summed over
channels, where X and W are transforms of the tile and of the window among zeros. Those of real tiles need F/2 + 1 columns.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any

import numpy as np

from compiler.ir import LOW, TensorType
from compiler.ops.base import Op, Reduce, register
from compiler.ops.conv import Convolution, window_size
from compiler.ops.winograd import tiles

SIZES = (16, 24, 32, 48, 64)  # of tiles: 2^a or 3 * 2^a


def points(size: int) -> int:
    """Complex numbers that the transform of a real tile of `size` x `size` is."""
    return size * (size // 2 + 1)


def grid(a: Any, out: tuple) -> tuple:
    """How many tiles there are along each axis."""
    return tuple(tiles(a.tile - k + 1, size) for k, size in zip(a.kernel, out))


def transform_flops(size: int) -> float:
    """Of one tile, to or fro: rows of reals, columns of complex numbers."""
    return 5 * size * math.log2(size) * (size / 2 + size / 2 + 1)


def _turns(t: Any, size: int, *steps: Any) -> Any:
    """2 pi times the sum of the products `steps`, in turns of `size`."""
    whole = sum((t.index(0) + a * b for a, b in steps), start=t.index(0))
    return t.cast(t.floormod(whole, t.index(size)), "f32") * t.const(2 * math.pi / size, "f32")


@register
class FftWeight(Op):
    """conj(W) / F^2 of each window among zeros: w [O, I, kh, kw] becomes [O, I, F, F + 2], real and imaginary parts in turn;
    attr `tile` F."""

    name = "fft_weight"

    def infer(self, a, w):
        return TensorType("f32" if w.dtype in LOW else w.dtype, (*w.shape[:2], a.tile, a.tile + 2))

    def flops(self, a, types, out):
        return int(prod(out.shape[:2]) * transform_flops(a.tile))

    def numpy(self, a, w):
        found = np.conj(np.fft.rfft2(w.astype("f8"), (a.tile, a.tile))) / a.tile ** 2
        return np.stack([found.real, found.imag], -1).reshape(*w.shape[:2], a.tile, a.tile + 2).astype(w.dtype)

    def compute(self, t, a, out, idx, w):
        o, c, y, x = idx
        column, imaginary = t.floordiv(x, t.index(2)), t.equal(t.floormod(x, t.index(2)), t.index(1))

        def value(i, j):
            angle = _turns(t, a.tile, (y, i), (column, j))
            factor = t.where(imaginary, t.sin(angle), t.cos(angle))
            return factor * w(o, c, i, j) * t.const(a.tile ** -2, "f32")

        return Reduce("sum", list(w.shape[2:]), value)


@register
class FftConv(Convolution):
    """`conv` of x [N, C, H, W] with u, the `fft_weight` of its windows, and a bias; attributes of `conv`, and `tile`."""

    name = "fft_conv"

    def flops(self, a, types, out):
        """What is computed: complex products of all tiles, and transforms of inputs and results."""
        n, outputs, *spatial = out.shape
        transforms = prod(grid(a, tuple(spatial))) * transform_flops(a.tile) * (types[0].shape[1] + outputs)
        return self.products(a, types, out) + n * int(transforms)

    def products(self, a, types, out):
        """Of the FLOPs, those of complex products."""
        n, outputs, *spatial = out.shape
        return n * (8 * prod(grid(a, tuple(spatial))) * outputs * types[1].shape[1] * points(a.tile))

    def numpy(self, a, x, u, bias=None):
        out = [window_size(*axis) for axis in zip(x.shape[2:], a.kernel, a.stride, a.dilation, a.pad)]
        step, count = [a.tile - k + 1 for k in a.kernel], grid(a, tuple(out))
        room = [(lo, max(0, (c - 1) * s + a.tile - lo - size)) for (lo, _), c, s, size in zip(a.pad, count, step, x.shape[2:])]
        padded = np.pad(x, ((0, 0), (0, 0), *room))
        d = np.lib.stride_tricks.sliding_window_view(padded, (a.tile, a.tile), (2, 3))[:, :, ::step[0], ::step[1]]
        v = np.fft.rfft2(d[:, :, :count[0], :count[1]].astype("f8"))
        parts = u.astype("f8").reshape(*u.shape[:3], -1, 2)
        w = parts[..., 0] + 1j * parts[..., 1]
        w = w.reshape(a.groups, -1, *w.shape[1:])
        v = v.reshape(v.shape[0], a.groups, -1, *v.shape[2:])
        y = np.einsum("gocyx,ngctuyx->ngotuyx", w, v, optimize=True).reshape(x.shape[0], -1, *v.shape[3:])
        y = np.fft.irfft2(y, (a.tile, a.tile))[..., :step[0], :step[1]] * a.tile ** 2
        y = np.moveaxis(y, 4, 3).reshape(*y.shape[:2], count[0] * step[0], count[1] * step[1])[:, :, :out[0], :out[1]]
        y = y.astype(x.dtype)
        return y if bias is None else y + bias.reshape(-1, 1, 1)

    def compute(self, t, a, out, idx, x, u, *bias):
        """One result as one sum over the elements of its tile and all points: right for any layout and target, and slow."""
        n, o, *p = idx
        size, step = a.tile, [a.tile - k + 1 for k in a.kernel]
        origin = [t.floordiv(q, s) * s - lo for q, s, (lo, _) in zip(p, step, a.pad)]
        first = o // (u.shape[0] // a.groups) * u.shape[1] if a.groups > 1 else 0

        def value(c, i, j, ky, kx):
            at = [start + k for start, k in zip(origin, (i, j))]
            inside = t.all_of(*[f for q, extent in zip(at, x.shape[2:]) for f in (q >= 0, q < extent)])
            element = t.guarded(inside, x(n, first + c, *at), t.const(0.0, "f32"))
            offset = [t.floormod(q, s) + size - k for q, s, k in zip(p, step, (i, j))]  # at least 0
            angle = _turns(t, size, (ky, offset[0]), (kx, offset[1]))
            once = t.any_of(t.equal(kx, t.index(0)), t.equal(kx, t.index(size // 2)))
            both = t.where(once, t.const(1.0, "f32"), t.const(2.0, "f32"))
            return element * both * (u(o, c, ky, kx * 2) * t.cos(angle) - u(o, c, ky, kx * 2 + 1) * t.sin(angle))

        extents = [u.shape[1], size, size, size, size // 2 + 1]
        return Reduce("sum", extents, value, finish=lambda acc: acc + bias[0](o) if bias else acc)
