"""Pooling over windows and over whole maps. Tensors are [N, C, spatial…].

Gradients are gathers: every input element looks at the windows that hold it. A maximum that occurs several times in a
window passes its gradient to the first of them.
"""

from math import prod

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, Reduce, register, require
from compiler.ops.conv import per_axis, resolve_padding, window_size


class Window(Op):
    """attrs: kernel, stride, dilation, pad ((before, after), …), ceil."""

    def attrs(self, given, x):
        rank = x.rank - 2
        require(rank in (1, 2), "E0301", f"`{self.name}` needs [N, C, W] or [N, C, H, W], got {x}")
        kernel = per_axis(given.k, rank, "k")
        stride = kernel if given.stride is None else per_axis(given.stride, rank, "stride")
        dilation = per_axis(getattr(given, "dilation", 1), rank, "dilation")
        for argument, sizes in (("k", kernel), ("stride", stride), ("dilation", dilation)):
            require(min(sizes) >= 1, "E0403", f"`{argument}` must be at least 1, got {min(sizes)}", argument=argument)
        pad = resolve_padding(given.pad, x.shape[2:], kernel, stride, dilation)
        for (lo, hi), k, d in zip(pad, kernel, dilation):
            require(max(lo, hi) < (k - 1) * d + 1, "E0409",
                    f"padding of {lo} and {hi} is not smaller than the window of {k}", argument="pad")
        for size, k, s, d, (lo, hi) in zip(x.shape[2:], kernel, stride, dilation, pad):
            if isinstance(size, int) and d > 1:
                starts = [i * s - lo for i in range(window_size(size, k, s, d, (lo, hi), given.ceil))]
                require(all(any(0 <= at + i * d < size for i in range(k)) for at in starts), "E0409",
                        f"a window of {k} with dilation {d} lies wholly in the padding of {size}",
                        "use less padding or a smaller dilation", "pad")
        return {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad, "ceil": given.ceil}

    def infer(self, a, x):
        return x.with_shape(*x.shape[:2], *window_counts(a, x.shape[2:]))

    def flops(self, a, types, out):
        return out.size * prod(a.kernel)


def window_counts(a, spatial):
    """How many windows there are along each axis."""
    return [window_size(*axis, a.ceil) for axis in zip(spatial, a.kernel, a.stride, a.dilation, a.pad)]


def windows(a, x, fill):
    """All windows of an array as [N, C, out…, kernel elements], with `fill` outside of it."""
    counts = window_counts(a, x.shape[2:])
    at = [np.arange(n)[:, None] * s + np.arange(k) * d for n, s, k, d in zip(counts, a.stride, a.kernel, a.dilation)]
    pads = [(lo, max(int(i.max()) + 1 - lo - size, 0)) for i, size, (lo, _) in zip(at, x.shape[2:], a.pad)]
    taken = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    for axis, index in enumerate(at):
        taken = np.take(taken, index, axis=2 + 2 * axis)
    rank = len(counts)
    taken = taken.transpose(0, 1, *(2 + 2 * i for i in range(rank)), *(3 + 2 * i for i in range(rank)))
    return taken.reshape(*x.shape[:2], *counts, -1)


def spread_windows(a, values, spatial):
    """The inverse of `windows`: values [N, C, out…, kernel elements] added up where they lie in [N, C, spatial…]."""
    counts = values.shape[2:-1]
    reach = [max((n - 1) * s + (k - 1) * d + 1, lo + size)
             for n, s, k, d, (lo, _), size in zip(counts, a.stride, a.kernel, a.dilation, a.pad, spatial)]
    full = np.zeros((*values.shape[:2], *reach), values.dtype)
    for flat, offset in enumerate(np.ndindex(*a.kernel)):
        at = tuple(slice(o * d, o * d + (n - 1) * s + 1, s) for o, d, n, s in zip(offset, a.dilation, counts, a.stride))
        full[(slice(None), slice(None), *at)] += values[..., flat]
    return full[(slice(None), slice(None), *(slice(lo, lo + size) for (lo, _), size in zip(a.pad, spatial)))]


def tap(t, a, x, idx, r, fill):
    """The element at position `r` of the window `idx`, or `fill` in the padding."""
    at, conditions = [], []
    for axis, (i, s, k, d, (lo, hi)) in enumerate(zip(r, a.stride, a.kernel, a.dilation, a.pad)):
        q = idx[2 + axis] * s + i * d - lo
        at.append(q)
        if lo:
            conditions.append(q >= 0)
        if hi or a.ceil:
            conditions.append(q < x.shape[2 + axis])
    read = x(idx[0], idx[1], *at)
    return t.guarded(t.all_of(*conditions), read, fill) if conditions else read


def holders(t, a, count, idx):
    """The windows that hold the input element `idx`: (extents, at), where at(*r) gives the r-th candidate's window
    index, the element's place in that window along each axis, and the conditions under which there is such a window.

    Windows start every `stride`; so along an axis at most ceil(reach / stride) of them hold an element.
    """
    extents = [-(-((k - 1) * d + 1) // s) for k, d, s in zip(a.kernel, a.dilation, a.stride)]

    def at(*r):
        window, place, conditions = [], [], []
        for q, j, k, d, s, (lo, _), n in zip(idx[2:], r, a.kernel, a.dilation, a.stride, a.pad, count):
            shifted = q + lo
            w = (t.floordiv(shifted, s) if s > 1 else shifted) - j
            offset = shifted - w * s
            window.append(w)
            place.append(t.floordiv(offset, d) if d > 1 else offset)
            conditions += [w >= 0, w < n, offset < (k - 1) * d + 1]
            conditions += [t.equal(t.floormod(offset, d), 0)] if d > 1 else []
        return window, place, conditions

    return extents, at


def gather(t, a, g, idx, term):
    """The sum of term(window index, place) over the windows that hold the input element `idx`."""
    extents, at = holders(t, a, g.shape[2:], idx)

    def value(*r):
        window, place, conditions = at(*r)
        return t.guarded(t.all_of(*conditions), term(window, place), t.const(0, g.type.dtype))

    return Reduce("sum", extents, value)


@register
class MaxPool(Window):
    name = "max_pool"
    signature = ("x: tensor, k: dims, stride: dims = none, pad: padding = valid, dilation: dims = 1, "
                 "ceil: bool = false")
    doc = ("Largest element of each window; padding never wins. `stride` is `k` unless given. With `ceil` a last "
           "partial window "
           "counts if it starts inside the input or its left padding (Caffe's rule).")

    def numpy(self, a, x):
        return windows(a, x, lowest(x.dtype)).max(axis=-1)

    def compute(self, t, a, out, idx, x):
        return Reduce("max", list(a.kernel), lambda *r: tap(t, a, x, idx, r, t.lowest(x.type.dtype)))

    def grad(self, b, a, xs, y, g):
        return [b.op("max_pool_grad", g, b.op("max_pool_index", xs[0], **vars(a)), size=xs[0].shape[2:], **vars(a))]


def lowest(dtype):
    """What stands in the padding of a maximum."""
    return -np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).min


@register
class MaxPoolIndex(Window):
    """Which element of each window is the (first) largest: its flat row-major index in the window, u8 where that fits (i32
    for windows of more than 256 elements)."""

    name = "max_pool_index"
    undifferentiable = "its result is an index"

    def infer(self, a, x):
        return TensorType("u8" if prod(a.kernel) <= 256 else "i32", super().infer(a, x).shape)

    def numpy(self, a, x):
        index = windows(a, x, lowest(x.dtype)).argmax(axis=-1)
        return index.astype("uint8" if prod(a.kernel) <= 256 else "int32")

    def compute(self, t, a, out, idx, x):
        return Reduce("argmax", list(a.kernel), lambda *r: tap(t, a, x, idx, r, t.lowest(x.type.dtype)),
                      finish=lambda index: t.cast(index, out.type.dtype))


@register
class MaxPoolGrad(Op):
    """Gradient of `max_pool`. Operands g [N, C, out…], index; attrs also `size`: the spatial sizes of the input."""

    name = "max_pool_grad"

    def infer(self, a, g, index):
        return g.with_shape(*g.shape[:2], *a.size)

    def flops(self, a, types, out):
        return types[0].size

    def numpy(self, a, g, index):
        places = np.arange(prod(a.kernel), dtype="int32")
        return spread_windows(a, np.where(index[..., None] == places, g[..., None], 0), a.size)

    def compute(self, t, a, out, idx, g, index):
        def term(window, place):
            flat = t.index(0)
            for i, k in zip(place, a.kernel):
                flat = flat * k + i
            at = (idx[0], idx[1], *window)
            return t.where(t.equal(t.cast(index(*at), "i32"), t.cast(flat, "i32")), g(*at), t.const(0, g.type.dtype))

        return gather(t, a, g, idx, term)

    def grad(self, b, a, xs, y, g):
        return [b.op("max_pool_select", g, xs[1], **{k: v for k, v in vars(a).items() if k != "size"}), None]


@register
class MaxPoolSelect(Window):
    """Operands x [N, C, spatial…], index [N, C, out…]: the element of each window that the index names."""

    name = "max_pool_select"

    def infer(self, a, x, index):
        return x.with_shape(*index.shape)

    def numpy(self, a, x, index):
        return np.take_along_axis(windows(a, x, 0), index[..., None].astype("int64"), axis=-1)[..., 0]

    def compute(self, t, a, out, idx, x, index):
        flat = t.index(index(*idx))
        at = []
        for axis in reversed(range(len(a.kernel))):
            k, s, d, lo = a.kernel[axis], a.stride[axis], a.dilation[axis], a.pad[axis][0]
            at.append(idx[2 + axis] * s + t.floormod(flat, k) * d - lo)
            flat = t.floordiv(flat, k)
        at.reverse()
        conditions = [f for q, size in zip(at, x.shape[2:]) for f in (q >= 0, q < size)]
        return t.guarded(t.all_of(*conditions), x(idx[0], idx[1], *at), t.const(0, x.type.dtype))

    def grad(self, b, a, xs, y, g):
        return [b.op("max_pool_grad", g, xs[1], size=xs[0].shape[2:], **vars(a)), None]


def elements_counted(a, n, spatial):
    """How many elements the windows along each axis divide by: a list of [out] arrays."""
    starts = [np.arange(m) * s - lo for m, s, (lo, _) in zip(n, a.stride, a.pad)]
    if a.count_include_pad:
        return [np.minimum(at + k, size + hi) - at for at, k, size, (_, hi) in zip(starts, a.kernel, spatial, a.pad)]
    return [np.minimum(at + k, size) - np.maximum(at, 0) for at, k, size in zip(starts, a.kernel, spatial)]


def divisor(t, a, window, spatial, dtype):
    """1 / (elements the window divides by), as an expression of `dtype`."""
    if not a.ceil and (a.count_include_pad or not any(map(any, a.pad))):
        return t.const(1 / prod(a.kernel), dtype)
    count = t.index(1)
    for w, k, s, (lo, hi), size in zip(window, a.kernel, a.stride, a.pad, spatial):
        at = t.index(w * s - lo)
        end = t.minimum(at + k, t.index(size + hi if a.count_include_pad else size))
        count = count * (end - (at if a.count_include_pad else t.maximum(at, t.index(0))))
    return t.const(1, dtype) / t.cast(count, dtype)


@register
class AvgPool(Window):
    name = "avg_pool"
    signature = ("x: tensor, k: dims, stride: dims = none, pad: padding = valid, ceil: bool = false, "
                 "count_include_pad: bool = false")
    doc = ("Mean of each window. With `count_include_pad` the padding counts as zeros, else only elements of the "
           "input count. "
           "What lies behind the right padding, in a partial window of `ceil`, never counts.")

    def attrs(self, given, x):
        require(x.is_float, "E0303", f"`avg_pool` needs floating-point values, got {x}",
                "put `-> cast(f32)` or `-> scale(1/255)` before it")
        return {**super().attrs(given, x), "count_include_pad": given.count_include_pad}

    def numpy(self, a, x):
        total = windows(a, x, 0).sum(axis=-1)
        for axis, count in enumerate(elements_counted(a, total.shape[2:], x.shape[2:])):
            total = total / count.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 3 - axis))
        return total

    def compute(self, t, a, out, idx, x):
        zero = t.const(0, x.type.dtype)
        return Reduce("sum", list(a.kernel), lambda *r: tap(t, a, x, idx, r, zero),
                      finish=lambda total: total * divisor(t, a, idx[2:], x.shape[2:], x.type.dtype))

    def grad(self, b, a, xs, y, g):
        return [b.op("avg_pool_grad", g, size=xs[0].shape[2:], **vars(a))]


@register
class AvgPoolGrad(Op):
    """Gradient of `avg_pool`. Operand g [N, C, out…]; attrs also `size`: the spatial sizes of the input."""

    name = "avg_pool_grad"

    def infer(self, a, g):
        return g.with_shape(*g.shape[:2], *a.size)

    def flops(self, a, types, out):
        return types[0].size * prod(a.kernel)

    def numpy(self, a, g):
        for axis, count in enumerate(elements_counted(a, g.shape[2:], a.size)):
            g = g / count.astype(g.dtype).reshape(-1, *[1] * (g.ndim - 3 - axis))
        return spread_windows(a, np.broadcast_to(g[..., None], (*g.shape, prod(a.kernel))), a.size)

    def compute(self, t, a, out, idx, g):
        return gather(t, a, g, idx, lambda window, place: g(idx[0], idx[1], *window)
                      * divisor(t, a, window, out.shape[2:], g.type.dtype))

    def grad(self, b, a, xs, y, g):
        return [b.op("avg_pool", g, **{k: v for k, v in vars(a).items() if k != "size"})]


class GlobalPool(Op):
    """attrs: keepdims."""

    signature = "x: tensor, keepdims: bool = true"
    reduction = "mean"

    def attrs(self, given, x):
        require(x.rank >= 3, "E0301", f"`{self.name}` needs [N, C, spatial…], got {x}")
        require(x.is_float, "E0303", f"`{self.name}` needs floating-point values, got {x}",
                "put `-> cast(f32)` before it")
        return {"keepdims": given.keepdims}

    def infer(self, a, x):
        return x.with_shape(*x.shape[:2], *([1] * (x.rank - 2) if a.keepdims else []))

    def flops(self, a, types, out):
        return types[0].size

    def expand(self, b, a, x):
        return b.op(self.reduction, x, axes=tuple(range(2, x.type.rank)), keepdims=a.keepdims)


@register
class GlobalAvgPool(GlobalPool):
    name = "global_avg_pool"
    doc = "Mean of each map: [N, C, spatial…] becomes [N, C, 1…], or [N, C] with `keepdims = false`."

    def numpy(self, a, x):
        return x.mean(axis=tuple(range(2, x.ndim)), keepdims=a.keepdims)


@register
class GlobalMaxPool(GlobalPool):
    name = "global_max_pool"
    doc = "Largest element of each map: [N, C, spatial…] becomes [N, C, 1…], or [N, C] with `keepdims = false`."
    reduction = "max"

    def numpy(self, a, x):
        return x.max(axis=tuple(range(2, x.ndim)), keepdims=a.keepdims)
