"""Normalization: of inputs by constants, over the batch, over features, across neighbouring channels."""

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, Reduce, Weight, register, require, resolve_axes

LEARNED = "lr: float = 1.0, frozen: bool = false"


def per_channel(values, rank: int):
    """[C] as [C, 1…], which broadcasts against [N, C, …] of `rank`."""
    return values.reshape(-1, *[1] * (rank - 2))


def channel_view(b, value, rank: int):
    """[C] as [C, 1…] in the graph."""
    return b.op("reshape", value, shape=(value.shape[0], *[1] * (rank - 2)))


def need_channels(name: str, x: TensorType) -> None:
    require(x.rank >= 2, "E0301", f"`{name}` needs [N, C, …], got {x}")
    require(x.is_float, "E0303", f"`{name}` needs floating-point values, got {x}",
            "put `-> cast(f32)` or `-> scale(1/255)` before it")
    require(isinstance(x.shape[1], int), "E0304", f"`{name}` needs a known number of channels, got {x.shape[1]}")


@register
class Normalize(Op):
    """attrs: mean, std (tuples of one number a channel)."""

    name = "normalize"
    signature = "x: tensor, mean: weight, std: weight"
    doc = "(x - mean) / std with fixed numbers for each channel: what an image needs before the first layer."

    def attrs(self, given, x):
        need_channels(self.name, x)
        out = {}
        for argument in ("mean", "std"):
            values = np.asarray(getattr(given, argument), "float64").ravel()
            require(len(values) == x.shape[1], "E0405",
                    f"`{argument}` has {len(values)} numbers for {x.shape[1]} channels", argument=argument)
            out[argument] = tuple(map(float, values))
        require(min(out["std"]) > 0, "E0403", "each `std` is greater than 0", argument="std")
        return out

    def infer(self, a, x):
        return x

    def flops(self, a, types, out):
        return 2 * out.size

    def numpy(self, a, x):
        mean, std = (per_channel(np.asarray(v, x.dtype), x.ndim) for v in (a.mean, a.std))
        return (x - mean) / std

    def expand(self, b, a, x):
        shape = (-1, *[1] * (x.type.rank - 2))
        mean = b.constant(np.reshape(a.mean, shape), x.type.dtype, "mean")
        factor = b.constant(1 / np.reshape(a.std, shape), x.type.dtype, "factor")
        return (x - mean) * factor


@register
class BatchNorm(Op):
    """Operands x [N, C, …], weight, bias, running_mean, running_var, each [C]. attrs: eps, momentum."""

    name = "batch_norm"
    signature = "x: tensor, eps: float = 1e-5, momentum: float = 0.1, " + LEARNED
    doc = ("(x - mean) / sqrt(var + eps) * weight + bias for each channel (Ioffe and Szegedy, 2015). In training "
           "mean and "
           "(biased) variance are those of the batch, and running = (1 - momentum) * running + momentum * batch "
           "(with the "
           "unbiased variance); otherwise the running values are used.")
    modal = True

    def attrs(self, given, x):
        need_channels(self.name, x)
        require(given.eps > 0, "E0403", f"`eps` is greater than 0, got {given.eps}", argument="eps")
        require(0 <= given.momentum <= 1, "E0403", f"`momentum` is from 0 to 1, got {given.momentum}",
                argument="momentum")
        return {"eps": float(given.eps), "momentum": float(given.momentum)}

    def weights(self, given, a, x):
        shape = (x.shape[1],)
        learned = {"trainable": not given.frozen, "decay": False, "lr": given.lr}
        state = {"trainable": False, "state": True, "decay": False}
        return {"weight": Weight(shape, ("ones",), **learned), "bias": Weight(shape, ("zeros",), **learned),
                "running_mean": Weight(shape, ("zeros",), **state), "running_var": Weight(shape, ("ones",), **state)}

    def infer(self, a, x, *weights):
        return x

    def flops(self, a, types, out):
        return 2 * out.size

    def numpy(self, a, x, weight, bias, mean, var):
        weight, bias, mean, var = (per_channel(v, x.ndim) for v in (weight, bias, mean, var))
        return (x - mean) / np.sqrt(var + a.eps) * weight + bias

    def expand(self, b, a, x, weight, bias, mean, var):
        factor = weight * b.op("rsqrt", var + a.eps)
        shift = bias - mean * factor
        return x * channel_view(b, factor, x.type.rank) + channel_view(b, shift, x.type.rank)

    def training(self, b, a, x, weight, bias, running_mean, running_var):
        rank = x.type.rank
        axes = (0, *range(2, rank))
        mean = b.op("mean", x, axes=axes, keepdims=False, name="batch_mean")
        var = b.op("mean", b.op("square", x - channel_view(b, mean, rank)), axes=axes, keepdims=False, name="batch_var")
        count = b.op("count", x, axes=axes)
        unbiased = var * (count / b.op("maximum", count - 1, 1))
        for running, batch in ((running_mean, mean), (running_var, unbiased)):
            b.graph.updates[running.name] = (running * (1 - a.momentum) + batch * a.momentum).name
        return b.op("batch_norm_train", x, weight, bias, mean, var, eps=a.eps)


@register
class BatchNormTrain(Op):
    """Operands x, weight, bias and the batch's own mean and (biased) var, [C]; the gradient to x goes through them
    too."""

    name = "batch_norm_train"

    def infer(self, a, x, *rest):
        return x

    def flops(self, a, types, out):
        return 4 * out.size

    def numpy(self, a, x, weight, bias, mean, var):
        weight, bias, mean, var = (per_channel(v, x.ndim) for v in (weight, bias, mean, var))
        return (x - mean) / np.sqrt(var + a.eps) * weight + bias

    def expand(self, b, a, x, weight, bias, mean, var):
        rank = x.type.rank
        factor = weight * b.op("rsqrt", var + a.eps)
        return (x - channel_view(b, mean, rank)) * channel_view(b, factor, rank) + channel_view(b, bias, rank)

    def grad(self, b, a, xs, y, g):
        x, weight, _, mean, var = xs
        rank = x.type.rank
        axes = (0, *range(2, rank))
        deviation = b.op("rsqrt", var + a.eps)
        normal = (x - channel_view(b, mean, rank)) * channel_view(b, deviation, rank)
        dbias = b.op("sum", g, axes=axes, keepdims=False)
        dweight = b.op("sum", g * normal, axes=axes, keepdims=False)
        count = b.op("count", x, axes=axes)
        inner = g - channel_view(b, dbias / count, rank) - normal * channel_view(b, dweight / count, rank)
        return [inner * channel_view(b, weight * deviation, rank), dweight, dbias, None, None]


@register
class LayerNorm(Op):
    """Operands x, weight, bias (of the shape of the normalized axes). attrs: axes, eps."""

    name = "layer_norm"
    signature = "x: tensor, axes: axes = feature, eps: float = 1e-5, " + LEARNED
    doc = ("(x - mean) / sqrt(var + eps) * weight + bias with mean and variance over `axes`, which are the last ones "
           "(Ba et al., 2016).")

    def attrs(self, given, x):
        require(x.is_float, "E0303", f"`layer_norm` needs floating-point values, got {x}",
                "put `-> cast(f32)` before it")
        require(given.eps > 0, "E0403", f"`eps` is greater than 0, got {given.eps}", argument="eps")
        axes = resolve_axes(given.axes, x)
        require(0 not in axes and axes == tuple(range(x.rank - len(axes), x.rank)), "E0402",
                f"`axes` must be the last axes of {x}, without the batch", argument="axes")
        for axis in axes:
            require(isinstance(x.shape[axis], int), "E0304",
                    f"`layer_norm` needs known sizes, axis {axis} of {x} is not")
        return {"axes": axes, "eps": float(given.eps)}

    def weights(self, given, a, x):
        shape = tuple(x.shape[axis] for axis in a.axes)
        learned = {"trainable": not given.frozen, "decay": False, "lr": given.lr}
        return {"weight": Weight(shape, ("ones",), **learned), "bias": Weight(shape, ("zeros",), **learned)}

    def infer(self, a, x, weight, bias):
        return x

    def flops(self, a, types, out):
        return 7 * out.size

    def numpy(self, a, x, weight, bias):
        mean, var = x.mean(axis=a.axes, keepdims=True), x.var(axis=a.axes, keepdims=True)
        return (x - mean) / np.sqrt(var + a.eps) * weight + bias

    def normal(self, b, a, x):
        """x - mean over the standard deviation, and 1 / the latter."""
        shifted = x - b.op("mean", x, axes=a.axes, keepdims=True)
        var = b.op("mean", b.op("square", x - b.op("mean", x, axes=a.axes, keepdims=True)), axes=a.axes, keepdims=True)
        deviation = b.op("rsqrt", var + a.eps)
        return shifted * deviation, deviation

    def expand(self, b, a, x, weight, bias):
        return self.normal(b, a, x)[0] * weight + bias

    def grad(self, b, a, xs, y, g):
        x, weight, bias = xs
        normal, deviation = self.normal(b, a, x)
        scaled = g * weight
        along = b.op("mean", scaled * normal, axes=a.axes, keepdims=True)
        dx = (scaled - b.op("mean", scaled, axes=a.axes, keepdims=True) - normal * along) * deviation
        return [dx, b.sum_to(g * normal, weight.shape), b.sum_to(g, bias.shape)]


@register
class Lrn(Op):
    """attrs: size, alpha, beta, k."""

    name = "lrn"
    signature = "x: tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0"
    doc = ("x / (k + alpha/size * (sum of x squared over `size` channels around it)) ^ beta, with zeros beyond the "
           "first and "
           "last channel (Krizhevsky et al., 2012, as in Caffe).")

    def attrs(self, given, x):
        need_channels(self.name, x)
        require(given.size >= 1 and given.size % 2 == 1, "E0403", f"`size` is an odd number from 1, got {given.size}",
                argument="size")
        require(given.k > 0, "E0403", f"`k` is greater than 0, got {given.k}", argument="k")
        return super().attrs(given, x)

    def infer(self, a, x):
        return x

    def flops(self, a, types, out):
        return (a.size + 4) * out.size

    def numpy(self, a, x):
        return x * (a.k + a.alpha / a.size * channel_sums(x * x, a.size)) ** -a.beta

    def base(self, b, a, x):
        return b.op("channel_sum", b.op("square", x), size=a.size) * (a.alpha / a.size) + a.k

    def expand(self, b, a, x):
        return x * b.op("pow", self.base(b, a, x), exponent=-a.beta)

    def grad(self, b, a, xs, y, g):
        x = xs[0]
        base = self.base(b, a, x)
        around = b.op("channel_sum", g * y / base, size=a.size)
        return [g * b.op("pow", base, exponent=-a.beta) - x * around * (2 * a.alpha * a.beta / a.size)]


def channel_sums(x, size):
    """Sums over `size` channels around each, zeros beyond."""
    half = size // 2
    padded = np.pad(x, [(0, 0), (half, half), *[(0, 0)] * (x.ndim - 2)])
    return sum(padded[:, i:i + x.shape[1]] for i in range(size))


@register
class ChannelSum(Op):
    """Sum over `size` (odd) channels around each, zeros beyond the first and last; it is its own gradient."""

    name = "channel_sum"

    def infer(self, a, x):
        return x

    def flops(self, a, types, out):
        return a.size * out.size

    def numpy(self, a, x):
        return channel_sums(x, a.size)

    def compute(self, t, a, out, idx, x):
        def value(j):
            c = idx[1] + j - a.size // 2
            return t.guarded(t.all_of(c >= 0, c < x.shape[1]), x(idx[0], c, *idx[2:]), t.const(0, x.type.dtype))

        return Reduce("sum", [a.size], value)

    def grad(self, b, a, xs, y, g):
        return [b.op("channel_sum", g, size=a.size)]
