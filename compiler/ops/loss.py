"""Losses: one number, the mean over the batch.

Labels of classes are whole numbers [N, …] beside scores [N, C, …]; targets of the others have the shape of the
prediction and may be whole numbers.
"""

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, register, require
from compiler.ops.shape import classes


class Loss(Op):
    roles = ("loss",)

    def check(self, *types: TensorType) -> None:
        raise NotImplementedError(self.name)

    def attrs(self, given, *types):
        self.check(*types)
        return super().attrs(given, *types)

    def infer(self, a, x, y):
        self.check(x, y)
        return TensorType(x.dtype, ())

    def flops(self, a, types, out):
        return 2 * types[0].size


def check_labels(name: str, x: TensorType, labels: TensorType) -> None:
    """Scores [N, C, …] and labels [N, …]. Raises OpError."""
    require(x.is_float and x.rank >= 2, "E0301", f"`{name}` needs floating-point scores [N, C, …], got {x}")
    require(not labels.is_float and labels.dtype != "bool", "E0303",
            f"the labels of `{name}` are whole numbers, got {labels}",
            "declare the label as `i32[N] in classes`")
    require(labels.shape == (x.shape[0], *x.shape[2:]), "E0309", f"scores {x} need labels "
            f"[{', '.join(map(str, (x.shape[0], *x.shape[2:])))}], got {labels}")
    require(isinstance(x.shape[1], int), "E0304", f"`{name}` needs a known number of classes, got {x.shape[1]}")


def check_same(name: str, x: TensorType, y: TensorType) -> None:
    """A prediction and a target of its shape. Raises OpError."""
    require(x.is_float, "E0303", f"`{name}` needs a floating-point prediction, got {x}", "put `-> cast(f32)` before it")
    require(x.shape == y.shape, "E0309", f"`{name}` needs a prediction and a target of one shape, got {x} and {y}",
            "`-> reshape([N])` drops an axis of size 1")


def as_float(b, y, like):
    """Targets in the prediction's element type."""
    return y if y.type.dtype == like.type.dtype else b.op("cast", y, dtype=like.type.dtype)


def as_i32(b, labels):
    return labels if labels.type.dtype == "i32" else b.op("cast", labels, dtype="i32")


def mean_all(b, x):
    return b.op("mean", x, axes=tuple(range(x.type.rank)), keepdims=False)


def one_hot(b, labels, x: TensorType):
    """1 where the class is the label, else 0; the shape and dtype of `x`."""
    grown = b.op("reshape", as_i32(b, labels), shape=(x.shape[0], 1, *x.shape[2:]))
    return b.op("cast", b.op("equal", grown, classes(b, x)), dtype=x.dtype)


def pick_numpy(x, labels):
    """x[n, labels[n, …], …]."""
    return np.take_along_axis(x, labels.astype("int64")[:, None], axis=1)[:, 0]


@register
class CrossEntropy(Loss):
    name = "cross_entropy"
    signature = "logits: tensor, y: tensor, label_smoothing: float = 0.0"
    doc = ("-log softmax(logits) at the label, from scores that are not normalized. With `label_smoothing` s the "
           "label has "
           "weight 1 - s and s is shared by all classes (Szegedy et al., 2016).")

    def attrs(self, given, *types):
        require(0 <= given.label_smoothing < 1, "E0403", f"`label_smoothing` is from 0 to less than 1, got "
                f"{given.label_smoothing}", argument="label_smoothing")
        return super().attrs(given, *types)

    def check(self, x, y):
        check_labels(self.name, x, y)

    def numpy(self, a, x, labels):
        top = x.max(axis=1, keepdims=True)
        log_p = x - top - np.log(np.exp(x - top).sum(axis=1, keepdims=True))
        s = a.label_smoothing
        return np.asarray(-((1 - s) * pick_numpy(log_p, labels) + s * log_p.mean(axis=1)).mean(), x.dtype)

    def expand(self, b, a, x, labels):
        log_p = b.op("log_softmax", x, axis=1)
        picked = b.op("pick", log_p, as_i32(b, labels))
        if a.label_smoothing:
            s = a.label_smoothing
            picked = picked * (1 - s) + b.op("mean", log_p, axes=(1,), keepdims=False) * s
        return -mean_all(b, picked)

    def grad(self, b, a, xs, y, g):
        x, labels = xs
        target = one_hot(b, labels, x.type)
        if a.label_smoothing:
            target = target * (1 - a.label_smoothing) + a.label_smoothing / x.shape[1]
        share = g / b.op("count", x, axes=(0, *range(2, x.type.rank)))
        return [(b.op("softmax", x, axis=1) - target) * share, None]


@register
class Nll(Loss):
    name = "nll"
    signature = "log_p: tensor, y: tensor"
    doc = "Minus the log-probability at the label, from log-probabilities (`log_softmax`)."

    def check(self, x, y):
        check_labels(self.name, x, y)

    def numpy(self, a, x, labels):
        return np.asarray(-pick_numpy(x, labels).mean(), x.dtype)

    def expand(self, b, a, x, labels):
        return -mean_all(b, b.op("pick", x, as_i32(b, labels)))


@register
class BinaryCrossEntropy(Loss):
    name = "binary_cross_entropy"
    signature = "logits: tensor, y: tensor"
    doc = ("-y log p - (1 - y) log(1 - p) with p = sigmoid(logits), for targets from 0 to 1, mean over all elements. "
           "Computed "
           "from the logits as max(x, 0) - x y + log(1 + exp(-|x|)).")

    def check(self, x, y):
        check_same(self.name, x, y)

    def numpy(self, a, x, y):
        return np.asarray((np.logaddexp(x, 0) - x * y).mean(), x.dtype)

    def expand(self, b, a, x, y):
        return mean_all(b, b.op("softplus", x) - x * as_float(b, y, x))


@register
class Mse(Loss):
    name = "mse"
    signature = "x: tensor, y: tensor"
    doc = "(x - y) squared, mean over all elements."

    def check(self, x, y):
        check_same(self.name, x, y)

    def numpy(self, a, x, y):
        return np.asarray(((x - y) ** 2).mean(), x.dtype)

    def expand(self, b, a, x, y):
        return mean_all(b, b.op("square", x - as_float(b, y, x)))


@register
class L1(Loss):
    name = "l1"
    signature = "x: tensor, y: tensor"
    doc = "|x - y|, mean over all elements."

    def check(self, x, y):
        check_same(self.name, x, y)

    def numpy(self, a, x, y):
        return np.asarray(np.abs(x - y).mean(), x.dtype)

    def expand(self, b, a, x, y):
        return mean_all(b, b.op("abs", x - as_float(b, y, x)))


@register
class Hinge(Loss):
    name = "hinge"
    signature = "x: tensor, y: tensor"
    doc = ("max(0, 1 - x t), summed over classes, mean over the batch. Targets t are +1 and -1 in the shape of x, or "
           "y is a "
           "label and t is +1 for its class and -1 for the others.")

    def check(self, x, y):
        if not y.is_float and y.rank == x.rank - 1:
            check_labels(self.name, x, y)
        else:
            check_same(self.name, x, y)

    def numpy(self, a, x, y):
        if y.ndim < x.ndim:
            y = np.where(np.moveaxis(np.arange(x.shape[1]) == y[..., None], -1, 1), 1, -1)
        return np.asarray(np.maximum(1 - x * y, 0).sum() / x.shape[0], x.dtype)

    def expand(self, b, a, x, y):
        t = one_hot(b, y, x.type) * 2 - 1 if y.type.rank < x.type.rank else as_float(b, y, x)
        total = b.op("sum", b.op("relu", 1 - x * t), axes=tuple(range(x.type.rank)), keepdims=False)
        return total / b.op("count", x, axes=(0,))
