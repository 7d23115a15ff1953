"""Random numbers that depend only on (seed, step, stream, element index), and dropout."""

import numpy as np

from compiler.ir import TensorType
from compiler.ops.base import Op, register, require

U32 = 0xFFFFFFFF


def pcg4d(x, y, z, w, mask=U32):
    """PCG4D of Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020: four 32-bit words, mixed;
    the first.

    Works on whole numbers of any kind that hold 64 bits unsigned, of which `mask` keeps 32; no step exceeds 2^64 - 1.
    """
    x, y, z, w = ((v * 1664525 + 1013904223) & mask for v in (x, y, z, w))
    for last in (False, True):
        x = (x + ((y * w) & mask)) & mask
        y = (y + ((z * x) & mask)) & mask
        z = (z + ((x * y) & mask)) & mask
        w = (w + ((y * z) & mask)) & mask
        if not last:
            x, y, z, w = (v ^ (v >> 16) for v in (x, y, z, w))
    return x


@register
class RandomUniform(Op):
    """Operands seed (u32 []), step (a number, []) and `like`, whose values are not read. From 0 to less than 1, in the
    shape and dtype of `like`, 24 random bits each. attrs: stream, different for every such node of a graph."""

    name = "random_uniform"
    undifferentiable = "does not depend on the values of its operands smoothly"

    def infer(self, a, seed, step, like):
        return like

    def numpy(self, a, seed, step, like):
        index = np.arange(like.size, dtype=np.uint64)
        key, counter = np.uint64(seed), np.uint64(step)
        bits = pcg4d(index & np.uint64(U32), np.broadcast_to(key, index.shape), np.broadcast_to(counter, index.shape),
                     np.full(index.shape, a.stream, np.uint64))
        return ((bits >> np.uint64(8)).astype(like.dtype) * 2.0 ** -24).reshape(like.shape)

    def compute(self, t, a, out, idx, seed, step, like):
        index = t.index(0)
        for i, size in zip(idx, out.shape):
            index = index * size + i
        word = [t.cast(v, "u64") for v in (index, seed(), t.cast(step(), "i64"))] + [t.const(a.stream, "u64")]
        mask = t.const(U32, "u64")
        bits = pcg4d(word[0] & mask, *word[1:], mask)
        return t.cast(t.cast(bits >> 8, "i32"), out.type.dtype) * t.const(2.0 ** -24, out.type.dtype)


@register
class Dropout(Op):
    """attrs: rate, stream."""

    name = "dropout"
    signature = "x: tensor, rate: float = 0.5"
    doc = ("In training each element is zero with probability `rate`, the others are divided by 1 - rate; otherwise "
           "nothing "
           "(Srivastava et al., 2014). Reads the inputs `seed` and `step`.")
    modal = True

    def attrs(self, given, x):
        require(0 <= given.rate < 1, "E0403", f"`rate` is from 0 to less than 1, got {given.rate}", argument="rate")
        require(x.is_float, "E0303", f"`dropout` needs floating-point values, got {x}", "put `-> cast(f32)` before it")
        return {"rate": float(given.rate)}

    def infer(self, a, x):
        return x

    def flops(self, a, types, out):
        return 0

    def numpy(self, a, x):
        return x

    def expand(self, b, a, x):
        return x

    def training(self, b, a, x):
        if not a.rate:
            return x
        seed, step = b.input("seed", TensorType("u32", ())), b.input("step", TensorType("f32", ()))
        stream = sum(node.op == "random_uniform" for node in b.graph.nodes())
        u = b.op("random_uniform", seed, step, x, stream=stream)
        keep = b.op("greater_equal", u, a.rate)
        return b.op("where", keep, x * (1 / (1 - a.rate)), b.constant(0, x.type.dtype))
