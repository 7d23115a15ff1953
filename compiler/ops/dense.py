"""Matrix product and the dense layer."""

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import WEIGHT_ARGS, Op, Reduce, Weight, initializer, products, register, require, rounded


@register
class Matmul(Op):
    """Operands a [M, K], b [K, N] (each stored transposed where `transpose_a`, `transpose_b` say so) and, if there is a
    third, bias [N]. Result [M, N]."""

    name = "matmul"
    signature = "x: tensor, y: tensor, transpose_a: bool = false, transpose_b: bool = false"
    doc = "Matrix product of two rank-2 tensors, each transposed first where asked for."

    def attrs(self, given, x, y):
        require(x.rank == 2 and y.rank == 2, "E0301", f"`matmul` needs two rank-2 tensors, got {x} and {y}")
        require(x.dtype == y.dtype and x.is_float, "E0303",
                f"`matmul` needs two floating-point tensors, got {x} and {y}")
        a = {"transpose_a": given.transpose_a, "transpose_b": given.transpose_b}
        left, right = x.shape[0 if given.transpose_a else 1], y.shape[1 if given.transpose_b else 0]
        require(left == right, "E0308", f"the inner sizes of {x} and {y} are {left} and {right}", "they must be equal")
        return a

    def infer(self, a, x, y, *bias):
        return TensorType(x.dtype, (x.shape[1 if a.transpose_a else 0], y.shape[0 if a.transpose_b else 1]))

    def macs(self, a, types, out):
        return out.size * types[0].shape[0 if a.transpose_a else 1]

    def numpy(self, a, x, y, bias=None):
        x, y = rounded(a, x), rounded(a, y)
        out = (x.T if a.transpose_a else x) @ (y.T if a.transpose_b else y)
        return out if bias is None else out + bias

    def compute(self, t, a, out, idx, x, y, *bias):
        m, n = idx
        return Reduce("sum", [x.shape[0 if a.transpose_a else 1]],
                      lambda k: t.rounded(x(k, m) if a.transpose_a else x(m, k), products(a))
                      * t.rounded(y(n, k) if a.transpose_b else y(k, n), products(a)),
                      finish=lambda acc: acc + bias[0](n) if bias else acc)

    def grad(self, b, a, xs, y, g):
        left, right, *bias = xs
        ta, tb = a.transpose_a, a.transpose_b
        dx = b.op("matmul", right, g, transpose_a=tb, transpose_b=True) if ta else \
            b.op("matmul", g, right, transpose_a=False, transpose_b=not tb)
        dy = b.op("matmul", g, left, transpose_a=True, transpose_b=ta) if tb else \
            b.op("matmul", left, g, transpose_a=not ta, transpose_b=False)
        return [dx, dy, *(b.op("sum", g, axes=(0,), keepdims=False) for _ in bias)]


@register
class Dense(Op):
    """Operands x [N, K], weight [units, K] and, with a bias, bias [units]."""

    name = "dense"
    signature = "x: tensor, units: int, weight: weight = none, " + WEIGHT_ARGS.format(init="he")
    doc = "x · weightᵀ + bias for rank-2 x: every unit sees every feature. Weights are [units, features]."

    def attrs(self, given, x):
        require(x.rank == 2, "E0301", f"`dense` needs a rank-2 input, got {x}", "put `-> flatten` before it")
        require(x.is_float, "E0303", f"`dense` needs floating-point values, got {x}",
                "put `-> cast(f32)` or `-> scale(1/255)` before it")
        require(isinstance(x.shape[1], int), "E0304", f"`dense` needs a known number of features, got {x.shape[1]}")
        require(given.units >= 1, "E0403", f"`units` must be at least 1, got {given.units}", argument="units")
        return {}

    def weights(self, given, a, x):
        shape, fans = (given.units, x.shape[1]), (x.shape[1], given.units)
        init = initializer(given.init)
        if given.weight is not None:
            init = np.asarray(given.weight, "float32")
            require(init.shape == shape, "E0406", f"the fixed weight has shape {list(init.shape)}, the layer needs "
                    f"{list(shape)}", argument="weight")
        weights = {"weight": Weight(shape, init, fans, trainable=not given.frozen, lr=given.lr)}
        if given.bias:
            weights["bias"] = Weight((given.units,), initializer(given.bias_init), fans, not given.frozen, decay=False,
                                     lr=given.lr * given.bias_lr)
        return weights

    def infer(self, a, x, w, *bias):
        return TensorType(x.dtype, (x.shape[0], w.shape[0]))

    def macs(self, a, types, out):
        return out.size * types[1].shape[1]

    def numpy(self, a, x, w, bias=None):
        out = np.einsum("nk,uk->nu", x, w)
        return out if bias is None else out + bias

    def expand(self, b, a, x, w, *bias):
        return b.op("matmul", x, w, *bias, transpose_a=False, transpose_b=True)
