"""What optimizers need beyond arithmetic."""

from math import prod

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, register


@register
class BiasCorrection(Op):
    """1 - beta^step of a number of steps, the divisor of Adam's moments (Kingma and Ba, 2015). attrs: beta."""

    name = "bias_correction"
    pointwise = True
    undifferentiable = "part of the optimizer"

    def infer(self, a, step):
        return step

    def numpy(self, a, step):
        return np.asarray(-np.expm1(step.astype("float64") * np.log(a.beta)), step.dtype)

    def scalar(self, t, a, step):
        # In f64: for the first steps the difference is as small as 1 - beta, and f32 would keep 4 digits of it.
        power = t.exp(t.cast(step, "f64") * t.const(float(np.log(a.beta)), "f64"))
        return t.cast(t.const(1, "f64") - power, "f32")


@register
class Flat(Op):
    """Tensors of one dtype one behind the other in one row of `size` elements, each compact from its number in `starts` on;
    what lies between is zero, or anything in memory: nobody reads it."""

    name = "flat"
    undifferentiable = "part of the optimizer"

    def infer(self, a, *xs):
        return TensorType(xs[0].dtype, (a.size,))

    def flops(self, a, types, out):
        return 0

    def numpy(self, a, *xs):
        out = np.zeros(a.size, xs[0].dtype)
        for start, x in zip(a.starts, xs):
            out[start:start + x.size] = x.ravel()
        return out


@register
class FlatPart(Op):
    """The tensor of `shape` that lies in a row from element `start` on."""

    name = "flat_part"
    undifferentiable = "part of the optimizer"

    def infer(self, a, x):
        return TensorType(x.dtype, tuple(a.shape))

    def flops(self, a, types, out):
        return 0

    def numpy(self, a, x):
        return x[a.start:a.start + prod(a.shape)].reshape(a.shape)
