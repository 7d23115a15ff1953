"""Metrics: one number about a batch, the mean over its examples. Higher is better except for errors."""

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, Reduce, register, require
from compiler.ops.loss import as_float, as_i32, check_labels, check_same, mean_all


class Metric(Op):
    roles = ("metric",)
    undifferentiable = "a metric is measured, not trained on"

    def check(self, *types: TensorType) -> None:
        check_labels(self.name, *types)

    def attrs(self, given, *types):
        self.check(*types)
        return super().attrs(given, *types)

    def infer(self, a, x, y):
        self.check(x, y)
        return TensorType(x.dtype, ())

    def flops(self, a, types, out):
        return types[0].size


@register
class Accuracy(Metric):
    name = "accuracy"
    signature = "scores: tensor, y: tensor"
    doc = "Share of examples whose label has the largest score."

    def numpy(self, a, x, labels):
        return np.asarray((x.argmax(axis=1) == labels).mean(), x.dtype)

    def expand(self, b, a, x, labels):
        hits = b.op("equal", b.op("argmax", x, axes=(1,), keepdims=False), as_i32(b, labels))
        return mean_all(b, b.op("cast", hits, dtype=x.type.dtype))


@register
class TopK(Metric):
    name = "top_k"
    signature = "scores: tensor, y: tensor, k: int = 5"
    doc = "Share of examples whose label is among the k largest scores; of equal scores the first counts as larger."

    def attrs(self, given, *types):
        require(given.k >= 1, "E0403", f"`k` must be at least 1, got {given.k}", argument="k")
        return super().attrs(given, *types)

    def numpy(self, a, x, labels):
        best = np.argsort(-x, axis=1, kind="stable")[:, :a.k]
        return np.asarray((best == labels[:, None]).any(axis=1).mean(), x.dtype)

    def expand(self, b, a, x, labels):
        hits = b.op("less", b.op("rank_of", x, as_i32(b, labels)), a.k)
        return mean_all(b, b.op("cast", hits, dtype=x.type.dtype))


@register
class RankOf(Op):
    """Operands x [N, C, …], labels i32 [N, …]: how many classes come before the label, i32. NaN comes before
    everything."""

    name = "rank_of"
    undifferentiable = "its result is a count"

    def infer(self, a, x, labels):
        return labels

    def numpy(self, a, x, labels):
        own = np.take_along_axis(x, labels[:, None].astype("int64"), axis=1)
        index = np.arange(x.shape[1]).reshape(-1, *[1] * (x.ndim - 2))
        behind = (x < own) | ((x == own) & (index >= labels[:, None]))
        return (~behind).sum(axis=1).astype("int32")

    def compute(self, t, a, out, idx, x, labels):
        label = t.index(labels(*idx))
        inside = t.all_of(label >= 0, label < x.shape[1])

        def value(c):
            own = t.guarded(inside, x(idx[0], label, *idx[1:]), t.const(float("nan"), x.type.dtype))
            here = x(idx[0], c, *idx[1:])
            behind = t.any_of(here < own, t.all_of(t.equal(here, own), c >= label))
            return t.where(behind, t.const(0, "i32"), t.const(1, "i32"))

        return Reduce("sum", [x.shape[1]], value)


@register
class MeanAbsoluteError(Metric):
    name = "mean_absolute_error"
    signature = "x: tensor, y: tensor"
    doc = "|x - y|, mean over all elements."

    def check(self, x, y):
        check_same(self.name, x, y)

    def numpy(self, a, x, y):
        return np.asarray(np.abs(x - y).mean(), x.dtype)

    def expand(self, b, a, x, y):
        return mean_all(b, b.op("abs", x - as_float(b, y, x)))
