"""Activation functions. All but `maxout` are element-wise on floating-point tensors."""

import math

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, Weight, register, require
from compiler.ops.elementwise import FloatUnary

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

_erf = np.frompyfunc(math.erf, 1, 1)


# Gradients are written with the result wherever it determines them: then the operand need not be kept for the backward pass.

def gate(b, x, low, high, g):
    """g where low < x < high, else 0: the gradient of what is flat outside."""
    zero = b.constant(0, g.type.dtype)
    return b.op("where", b.op("greater", x, low), b.op("where", b.op("less", x, high), g, zero), zero)


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@register
class Relu(FloatUnary):
    name = "relu"
    doc = "max(x, 0) (Nair and Hinton, 2010)."

    def numpy(self, a, x):
        return np.maximum(x, 0)

    def scalar(self, t, a, x):
        # This way round a NaN stays one.
        return t.where(x < t.const_like(0, x), t.const_like(0, x), x)

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
        return t.where(x > t.const_like(0, x), g, t.const_like(0, g))

    def grad(self, b, a, xs, y, g):
        return [None, b.op("where_positive", xs[0], g)]


@register
class LeakyRelu(FloatUnary):
    name = "leaky_relu"
    signature = "x: tensor, slope: float = 0.01"
    doc = "x for x > 0, else slope * x (Maas et al., 2013)."

    def numpy(self, a, x):
        return np.where(x > 0, x, x * a.slope)

    def scalar(self, t, a, x):
        return t.where(x > t.const_like(0, x), x, x * t.const_like(a.slope, x))

    def grad(self, b, a, xs, y, g):
        return [b.op("where", b.op("greater", y if a.slope >= 0 else xs[0], 0), g, g * a.slope)]


@register
class Prelu(Op):
    name = "prelu"
    signature = "x: tensor, start: float = 0.25, lr: float = 1.0, frozen: bool = false"
    doc = "x for x > 0, else slope * x with a learned slope for each channel, at first `start` (He et al., 2015)."

    def attrs(self, given, x):
        require(x.rank >= 2 and isinstance(x.shape[1], int), "E0301",
                f"`prelu` needs [N, C, …] with a known C, got {x}")
        return {}

    def weights(self, given, a, x):
        return {"weight": Weight((x.shape[1],), ("constant", float(given.start)), trainable=not given.frozen,
                                 decay=False,
                                 lr=given.lr)}

    def infer(self, a, x, slope):
        require(x.is_float, "E0303", f"`prelu` needs floating-point values, got {x}")
        return x

    def numpy(self, a, x, slope):
        return np.where(x > 0, x, x * slope.reshape(-1, *[1] * (x.ndim - 2)))

    def expand(self, b, a, x, slope):
        slope = b.op("reshape", slope, shape=(slope.shape[0], *[1] * (x.type.rank - 2)))
        return b.op("where", b.op("greater", x, 0), x, x * slope)


@register
class Elu(FloatUnary):
    name = "elu"
    signature = "x: tensor, alpha: float = 1.0"
    doc = "x for x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2015)."

    def numpy(self, a, x):
        return np.where(x > 0, x, a.alpha * np.expm1(np.minimum(x, 0)))

    def scalar(self, t, a, x):
        zero = t.const_like(0, x)
        return t.where(x > zero, x, t.const_like(a.alpha, x) * t.expm1(x))

    def grad(self, b, a, xs, y, g):
        return [b.op("where", b.op("greater", y if a.alpha >= 0 else xs[0], 0), g, g * (y + a.alpha))]


@register
class Selu(FloatUnary):
    name = "selu"
    doc = "Self-normalizing ELU: 1.0507 * elu(x, 1.6733) (Klambauer et al., 2017)."

    def numpy(self, a, x):
        return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))

    def scalar(self, t, a, x):
        zero = t.const_like(0, x)
        return t.where(x > zero, x * t.const_like(SELU_SCALE, x),
                       t.const_like(SELU_SCALE * SELU_ALPHA, x) * t.expm1(x))

    def grad(self, b, a, xs, y, g):
        return [b.op("where", b.op("greater", y, 0), g * SELU_SCALE, g * (y + SELU_SCALE * SELU_ALPHA))]


@register
class Erf(FloatUnary):
    name = "erf"
    doc = "The error function."

    def numpy(self, a, x):
        return _erf(x).astype(x.dtype)

    def scalar(self, t, a, x):
        return t.erf(x)

    def grad(self, b, a, xs, y, g):
        return [g * b.op("exp", -b.op("square", xs[0])) * (2 / math.sqrt(math.pi))]


@register
class Gelu(FloatUnary):
    name = "gelu"
    signature = "x: tensor, approximate: none|tanh = none"
    doc = ("x * Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel, 2016). `approximate = tanh` is their "
           "0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).")

    def attrs(self, given, x):
        return {"approximate": given.approximate or "none"}

    def numpy(self, a, x):
        if a.approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
        return x * (0.5 + 0.5 * _erf(x / math.sqrt(2)).astype(x.dtype))

    def scalar(self, t, a, x):
        half = t.const_like(0.5, x)
        if a.approximate == "tanh":
            inner = t.const_like(math.sqrt(2 / math.pi), x) * (x + t.const_like(0.044715, x) * x * x * x)
            return half * x * (t.const_like(1, x) + t.tanh(inner))
        return x * (half + half * t.erf(x * t.const_like(math.sqrt(0.5), x)))

    def grad(self, b, a, xs, y, g):
        x = xs[0]
        if a.approximate == "tanh":
            c = math.sqrt(2 / math.pi)
            squared = b.op("square", x)
            th = b.op("tanh", x * (squared * (0.044715 * c) + c))
            inner = (squared * (3 * 0.044715 * c) + c) * x * (1 - b.op("square", th))
            return [g * ((th + inner) * 0.5 + 0.5)]
        phi = b.op("exp", b.op("square", x) * -0.5) * (1 / math.sqrt(2 * math.pi))
        return [g * (b.op("erf", x * math.sqrt(0.5)) * 0.5 + 0.5 + x * phi)]


class Clipped(FloatUnary):
    """Limited to a range; gradient 1 inside, 0 outside and on its ends."""

    def limits(self, a):
        raise NotImplementedError(self.name)

    def numpy(self, a, x):
        return np.clip(x, *self.limits(a))

    def scalar(self, t, a, x):
        low, high = self.limits(a)
        return t.minimum(t.maximum(x, t.const_like(low, x)), t.const_like(high, x))

    def grad(self, b, a, xs, y, g):
        return [gate(b, y, *self.limits(a), g)]


@register
class Clip(Clipped):
    name = "clip"
    signature = "x: tensor, low: float, high: float"
    doc = "x limited to the range from low to high."

    def attrs(self, given, x):
        require(given.low <= given.high, "E0403", f"`low` is {given.low}, above `high`, which is {given.high}",
                argument="low")
        return super().attrs(given, x)

    def limits(self, a):
        return a.low, a.high


@register
class Relu6(Clipped):
    name = "relu6"
    doc = "x limited to the range from 0 to 6."

    def limits(self, a):
        return 0, 6


@register
class HardTanh(Clipped):
    name = "hard_tanh"
    doc = "x limited to the range from -1 to 1."

    def limits(self, a):
        return -1, 1


@register
class HardSigmoid(FloatUnary):
    name = "hard_sigmoid"
    doc = "x/6 + 1/2 limited to the range from 0 to 1."

    def numpy(self, a, x):
        return np.clip(x / 6 + 0.5, 0, 1)

    def scalar(self, t, a, x):
        line = x * t.const_like(1 / 6, x) + t.const_like(0.5, x)
        return t.minimum(t.maximum(line, t.const_like(0, x)), t.const_like(1, x))

    def grad(self, b, a, xs, y, g):
        return [gate(b, y, 0, 1, g * (1 / 6))]


@register
class HardSwish(FloatUnary):
    name = "hard_swish"
    doc = "x * hard_sigmoid(x) (Howard et al., 2019)."

    def numpy(self, a, x):
        return x * np.clip(x / 6 + 0.5, 0, 1)

    def scalar(self, t, a, x):
        return x * HardSigmoid.scalar(self, t, a, x)

    def grad(self, b, a, xs, y, g):
        return [b.op("where", b.op("less", xs[0], 3), gate(b, xs[0], -3, 3, g * (xs[0] * (1 / 3) + 0.5)), g)]


@register
class Sigmoid(FloatUnary):
    name = "sigmoid"
    doc = "1 / (1 + exp(-x))."

    def numpy(self, a, x):
        return _sigmoid(x)

    def scalar(self, t, a, x):
        return t.sigmoid(x)

    def grad(self, b, a, xs, y, g):
        return [g * y * (1 - y)]


@register
class Silu(FloatUnary):
    name = "silu"
    doc = "x * sigmoid(x), also called swish (Elfwing et al., 2017)."

    def numpy(self, a, x):
        return x * _sigmoid(x)

    def scalar(self, t, a, x):
        return x * t.sigmoid(x)

    def grad(self, b, a, xs, y, g):
        s = b.op("sigmoid", xs[0])
        return [g * (s + y * (1 - s))]


@register
class Tanh(FloatUnary):
    name = "tanh"
    doc = "Hyperbolic tangent."

    def numpy(self, a, x):
        return np.tanh(x)

    def scalar(self, t, a, x):
        return t.tanh(x)

    def grad(self, b, a, xs, y, g):
        return [g * (1 - b.op("square", y))]


@register
class Softplus(FloatUnary):
    name = "softplus"
    doc = "log(1 + exp(x)), computed as max(x, 0) + log(1 + exp(-|x|))."

    def numpy(self, a, x):
        return np.logaddexp(x, 0).astype(x.dtype)

    def scalar(self, t, a, x):
        zero = t.const_like(0, x)
        return t.maximum(x, zero) + t.log1p(t.exp(t.where(x > zero, -x, x)))

    def grad(self, b, a, xs, y, g):
        return [g * b.op("sigmoid", xs[0])]


@register
class Maxout(Op):
    name = "maxout"
    signature = "x: tensor, pieces: int = 2"
    doc = ("The largest of each `pieces` neighbouring channels: [N, C, …] becomes [N, C/pieces, …] (Goodfellow et "
           "al., 2013).")

    def attrs(self, given, x):
        require(given.pieces >= 1, "E0403", f"`pieces` must be at least 1, got {given.pieces}", argument="pieces")
        require(x.rank >= 2, "E0301", f"`maxout` needs [N, C, …], got {x}")
        require(isinstance(x.shape[1], int) and x.shape[1] % given.pieces == 0, "E0404",
                f"{x.shape[1]} channels are no multiple of {given.pieces} pieces", argument="pieces")
        return {"pieces": given.pieces}

    def infer(self, a, x):
        return TensorType(x.dtype, (x.shape[0], x.shape[1] // a.pieces, *x.shape[2:]))

    def flops(self, a, types, out):
        return types[0].size

    def numpy(self, a, x):
        return x.reshape(x.shape[0], x.shape[1] // a.pieces, a.pieces, *x.shape[2:]).max(axis=2)

    def expand(self, b, a, x):
        pieces = b.op("reshape", x, shape=(x.shape[0], x.shape[1] // a.pieces, a.pieces, *x.shape[2:]))
        return b.op("max", pieces, axes=(2,), keepdims=False)
