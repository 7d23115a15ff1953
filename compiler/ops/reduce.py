"""Reductions over axes. attrs of all: axes (sorted, not negative), keepdims (whether they stay as axes of size 1)."""

import numpy as np

from compiler import dims
from compiler.ir import DTYPES, TensorType
from compiler.ops.base import Op, Reduce, register, require, resolve_axes, resolve_axis


def kept(x: TensorType, axes) -> tuple:
    """The shape with the reduced axes as 1."""
    return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))


def spread(b, g, x: TensorType, axes):
    """The gradient of a sum: `g`, with or without the reduced axes, repeated to the shape of `x`."""
    if g.shape != kept(x, axes):
        g = b.op("reshape", g, shape=kept(x, axes))
    return g if g.shape == x.shape else b.op("broadcast_to", g, shape=x.shape)


class Reduction(Op):
    """Reduces `axes` to one value each."""

    signature = "x: tensor, axes: axes = none, keepdims: bool = false"
    kind = "sum"

    def attrs(self, given, x):
        return {"axes": resolve_axes(given.axes, x), "keepdims": given.keepdims}

    def infer(self, a, x):
        if a.keepdims:
            return x.with_shape(*kept(x, a.axes))
        return x.with_shape(*(size for axis, size in enumerate(x.shape) if axis not in a.axes))

    def flops(self, a, types, out):
        return types[0].size

    def index(self, a, idx, r):
        """The operand's index of the result element `idx` at `r` of the reduced axes."""
        outer = iter([i for axis, i in enumerate(idx) if axis not in a.axes] if a.keepdims else idx)
        inner = iter(r)
        rank = len(idx) if a.keepdims else len(idx) + len(a.axes)
        return [next(inner) if axis in a.axes else next(outer) for axis in range(rank)]

    def finish(self, t, a, x, total):
        """What is stored of the reduced value."""
        return total

    def compute(self, t, a, out, idx, x):
        return Reduce(self.kind, [x.shape[axis] for axis in a.axes], lambda *r: x(*self.index(a, idx, r)),
                      finish=lambda total: self.finish(t, a, x, total))


@register
class Sum(Reduction):
    name = "sum"
    doc = "Sum over some axes, or over all."

    def numpy(self, a, x):
        return x.sum(axis=a.axes, keepdims=a.keepdims, dtype=x.dtype)

    def grad(self, b, a, xs, y, g):
        return [spread(b, g, xs[0].type, a.axes)]


@register
class Mean(Reduction):
    name = "mean"
    doc = "Mean over some axes, or over all, of floating-point values."

    def infer(self, a, x):
        require(x.is_float, "E0303", f"`mean` needs floating-point values, got {x}", "put `-> cast(f32)` before it")
        return super().infer(a, x)

    def numpy(self, a, x):
        return x.mean(axis=a.axes, keepdims=a.keepdims, dtype=x.dtype)

    def finish(self, t, a, x, total):
        count = 1
        for axis in a.axes:
            count = count * x.shape[axis]
        return total / t.cast(t.index(count), x.type.dtype)

    def grad(self, b, a, xs, y, g):
        x = xs[0].type
        return [spread(b, g / b.op("count", xs[0], axes=a.axes), x, a.axes)]


@register
class Count(Op):
    """How many elements an operand has along `axes`, as a number of its floating dtype; its values are not read."""

    name = "count"
    undifferentiable = "depends on the shape only"

    def infer(self, a, x):
        return TensorType(x.dtype, ())

    def numpy(self, a, x):
        return np.asarray(dims.product(x.shape[axis] for axis in a.axes), x.dtype)

    def compute(self, t, a, out, idx, x):
        count = 1
        for axis in a.axes:
            count = count * x.shape[axis]
        return t.cast(t.index(count), x.type.dtype)


class Extreme(Reduction):
    """The gradient goes to the first element that is the extreme one."""

    def grad(self, b, a, xs, y, g):
        x = xs[0].type
        index = b.op(f"arg{self.name}", xs[0], axes=a.axes, keepdims=True)
        position = b.op("position", index, axes=a.axes, shape=x.shape)
        zero = b.constant(0, g.type.dtype)
        return [b.op("where", b.op("equal", position, index), spread(b, g, x, a.axes), zero)]


@register
class Max(Extreme):
    name = "max"
    doc = "Largest value over some axes, or over all (`maximum` compares two tensors)."
    kind = "max"

    def numpy(self, a, x):
        return x.max(axis=a.axes, keepdims=a.keepdims)


@register
class Min(Extreme):
    name = "min"
    doc = "Smallest value over some axes, or over all (`minimum` compares two tensors)."
    kind = "min"

    def numpy(self, a, x):
        return x.min(axis=a.axes, keepdims=a.keepdims)


@register
class Argmax(Reduction):
    """Also used with several `axes`: then the flat row-major index over them."""

    name = "argmax"
    signature = "x: tensor, axis: axis = channel, keepdims: bool = false"
    doc = "Index (i32) of the largest value along an axis, of the first where several are equal."
    undifferentiable = "its result is an index"
    kind = "argmax"

    def attrs(self, given, x):
        return {"axes": (resolve_axis(given.axis, x),), "keepdims": given.keepdims}

    def infer(self, a, x):
        return TensorType("i32", super().infer(a, x).shape)

    def numpy(self, a, x):
        free = [axis for axis in range(x.ndim) if axis not in a.axes]
        flat = x.transpose(*free, *a.axes).reshape(*(x.shape[axis] for axis in free), -1)
        index = np.argmax(flat, axis=-1).astype("int32")
        return np.expand_dims(index, a.axes) if a.keepdims else index


@register
class Argmin(Argmax):
    name = "argmin"
    doc = "Index (i32) of the smallest value along an axis, of the first where several are equal."

    def numpy(self, a, x):
        return super().numpy(a, -x)

    def compute(self, t, a, out, idx, x):
        return Reduce("argmax", [x.shape[axis] for axis in a.axes], lambda *r: -x(*self.index(a, idx, r)))


@register
class Position(Op):
    """For each element of `shape` its flat row-major index over `axes` (i32); the operand's values are not read."""

    name = "position"
    undifferentiable = "its result is an index"

    def infer(self, a, x):
        return TensorType("i32", tuple(a.shape))

    def numpy(self, a, x):
        flat = np.arange(np.prod([a.shape[axis] for axis in a.axes]), dtype=DTYPES["i32"])
        return np.broadcast_to(flat.reshape([s if i in a.axes else 1 for i, s in enumerate(a.shape)]), a.shape)

    def compute(self, t, a, out, idx, x):
        flat = t.index(0)
        for axis in a.axes:
            flat = flat * out.shape[axis] + idx[axis]
        return t.cast(flat, "i32")
