"""Softmax and its logarithm along one axis, in the form that cannot overflow: exp(x - max)."""

import numpy as np

from compiler.ops.base import Op, register, require, resolve_axis


class Normalized(Op):
    """attrs: axis (not negative)."""

    signature = "x: tensor, axis: axis = channel"

    def attrs(self, given, x):
        require(x.is_float, "E0303", f"`{self.name}` needs floating-point values, got {x}",
                "put `-> cast(f32)` before it")
        return {"axis": resolve_axis(given.axis, x)}

    def infer(self, a, x):
        return x

    def flops(self, a, types, out):
        return 4 * out.size


def shifted_and_sum(b, a, x):
    """x - max and sum(exp(x - max)), the latter with the axis kept. The exponential is written again where it is read:
    so the sum computes its own on the way."""
    shifted = x - b.op("max", x, axes=(a.axis,), keepdims=True)
    return shifted, b.op("sum", b.op("exp", shifted), axes=(a.axis,), keepdims=True)


@register
class Softmax(Normalized):
    name = "softmax"
    doc = "exp(x) / sum(exp(x)) along an axis."

    def numpy(self, a, x):
        e = np.exp(x - x.max(axis=a.axis, keepdims=True))
        return e / e.sum(axis=a.axis, keepdims=True)

    def expand(self, b, a, x):
        shifted, total = shifted_and_sum(b, a, x)
        return b.op("exp", shifted) / total

    def grad(self, b, a, xs, y, g):
        return [y * (g - b.op("sum", g * y, axes=(a.axis,), keepdims=True))]


@register
class LogSoftmax(Normalized):
    name = "log_softmax"
    doc = "log(softmax(x)) along an axis."

    def numpy(self, a, x):
        top = x.max(axis=a.axis, keepdims=True)
        return x - top - np.log(np.exp(x - top).sum(axis=a.axis, keepdims=True))

    def expand(self, b, a, x):
        shifted, total = shifted_and_sum(b, a, x)
        return shifted - b.op("log", total)

    def grad(self, b, a, xs, y, g):
        return [g - b.op("exp", y) * b.op("sum", g, axes=(a.axis,), keepdims=True)]
