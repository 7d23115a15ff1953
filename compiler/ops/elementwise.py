"""Element-wise arithmetic with numpy's broadcasting: the primitives that gradients and expansions are written in."""

from types import SimpleNamespace

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, broadcast_shapes, register, require


class Pointwise(Op):
    """Operands of one dtype that broadcast; the result has that dtype."""

    pointwise = True

    def infer(self, a: SimpleNamespace, *types: TensorType) -> TensorType:
        dtypes = {t.dtype for t in types}
        require(len(dtypes) == 1, "E0303", f"`{self.name}` needs operands of one element type, got "
                + " and ".join(map(str, types)), "put `-> cast(f32)` behind one of them")
        return TensorType(types[0].dtype, broadcast_shapes(*types))


@register
class Add(Pointwise):
    name = "add"
    signature = "x: tensor, y: tensor"
    doc = "Sum of two tensors, broadcasting; also written `x + y`."

    def numpy(self, a, x, y):
        return x + y

    def scalar(self, t, a, x, y):
        return x + y

    def grad(self, b, a, xs, y, g):
        return [b.sum_to(g, x.shape) for x in xs]


@register
class Mul(Pointwise):
    name = "mul"
    signature = "x: tensor, y: tensor"
    doc = "Product of two tensors element by element, broadcasting; also written `x * y`."

    def numpy(self, a, x, y):
        return x * y

    def scalar(self, t, a, x, y):
        return x * y

    def grad(self, b, a, xs, y, g):
        return [b.sum_to(g * xs[1], xs[0].shape), b.sum_to(g * xs[0], xs[1].shape)]
