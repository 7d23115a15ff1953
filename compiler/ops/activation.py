"""Activation functions, all element-wise on floating-point tensors."""

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, register, require


class Activation(Op):
    """One floating-point operand; result of the same type. `signature` is set by each."""

    pointwise = True

    def infer(self, a, x):
        require(x.is_float, "E0303", f"`{self.name}` needs floating-point values, got {x}",
                "put `-> cast(f32)` or `-> scale(1/255)` before it")
        return TensorType(x.dtype, x.shape)


@register
class Relu(Activation):
    name = "relu"
    signature = "x: tensor"
    doc = "max(x, 0) (Nair and Hinton, 2010)."

    def numpy(self, a, x):
        return np.maximum(x, 0)

    def scalar(self, t, a, x):
        return t.maximum(x, t.const_like(0.0, x))

    def grad(self, b, a, xs, y, g):
        return [b.op("where_positive", y, g)]


@register
class WherePositive(Op):
    """g where x > 0, else 0: the gradient of everything that is linear for positive values."""

    name = "where_positive"
    pointwise = True

    def infer(self, a, x, g):
        return g

    def numpy(self, a, x, g):
        return np.where(x > 0, g, 0).astype(g.dtype)

    def scalar(self, t, a, x, g):
        return t.where(x > t.const_like(0.0, x), g, t.const_like(0.0, g))

    def grad(self, b, a, xs, y, g):
        return [None, b.op("where_positive", xs[0], g)]
