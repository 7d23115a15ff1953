"""Convolution over any number of spatial axes (1-D and 2-D in the language), and its two gradients.

Tensors are [N, C, spatial…], weights [C_out, C_in/groups, kernel…]. As everywhere in the field this is
cross-correlation: y[n,o,p] = b[o] + sum_{c,k} x[n, c, p*stride + k*dilation - pad] * w[o,c,k].
"""

from math import prod

import numpy as np

from compiler.dims import Dim
from compiler.ir import TensorType
from compiler.ops.base import WEIGHT_ARGS, Op, Reduce, Weight, initializer, products, register, require, rounded


def per_axis(value, rank: int, argument: str) -> tuple[int, ...]:
    """One number for all axes, or one for each."""
    sizes = (value,) * rank if isinstance(value, int) else tuple(value)
    require(len(sizes) == rank, "E0405", f"`{argument}` has {len(sizes)} sizes for {rank} spatial axes",
            argument=argument)
    return sizes


def resolve_padding(pad, spatial, kernel, stride, dilation) -> tuple[tuple[int, int], ...]:
    """`same`, `valid`, a number, one number an axis, or [before, after] for each axis, as ((before, after), …).

    `same` makes ceil(size / stride) outputs; of an odd total the larger part goes behind (TensorFlow's and ONNX's
    SAME_UPPER).
    """
    rank = len(spatial)
    if pad == "valid":
        return ((0, 0),) * rank
    if pad == "same":
        out = []
        for size, k, s, d in zip(spatial, kernel, stride, dilation):
            reach = (k - 1) * d + 1
            if s == 1:
                total = reach - 1
            else:
                require(isinstance(size, int), "E0304", f"`pad = same` with stride {s} needs a known size, got {size}",
                        "give the padding as numbers", "pad")
                total = max((-(-size // s) - 1) * s + reach - size, 0)
            out.append((total // 2, total - total // 2))
        return tuple(out)
    if isinstance(pad, int):
        pad = (pad,) * rank
    require(len(pad) == rank, "E0405", f"`pad` has {len(pad)} entries for {rank} spatial axes", argument="pad")
    pairs = tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in pad)
    require(min(map(min, pairs)) >= 0, "E0403", "padding is not negative", "use `slice` to cut", "pad")
    return pairs


def window_size(size: Dim, kernel: int, stride: int, dilation: int, pad: tuple[int, int], ceil: bool = False) -> Dim:
    """Number of windows along one axis. With `ceil`, a last partial window counts if it starts inside the input or its
    left padding (Caffe's and PyTorch's rule). Raises OpError E0305 when there is none, E0304 for `ceil` of a symbol."""
    reach = (kernel - 1) * dilation + 1
    span = size + (pad[0] + pad[1] - reach)
    if isinstance(span, int):
        require(span >= 0, "E0305", f"a window of {reach} does not fit into {size} with padding {pad[0]} + {pad[1]}",
                "use a smaller window or `pad = same`")
    if not ceil or stride == 1:
        return span // stride + 1
    require(isinstance(span, int), "E0304", f"`ceil` with stride {stride} needs a known size, got {size}",
            "leave out `ceil`, or declare the size as a number", "ceil")
    out = (span + (stride - 1)) // stride + 1
    if (out - 1) * stride >= size + pad[0]:
        out -= 1
    return out


class Convolution(Op):
    """What a convolution is however it is computed: of x [N, C, …] with a weight [O, C/groups, …] and a bias."""

    def infer(self, a, x, w, *bias):
        sizes = [window_size(*axis) for axis in zip(x.shape[2:], a.kernel, a.stride, a.dilation, a.pad)]
        return TensorType(x.dtype, (x.shape[0], w.shape[0], *sizes))

    def macs(self, a, types, out):
        """Of the sum over windows, as the text has it."""
        return out.size * types[1].shape[1] * prod(a.kernel)


@register
class Conv(Convolution):
    name = "conv"
    signature = ("x: tensor, ch: int, k: dims = 1, stride: dims = 1, pad: padding = valid, dilation: dims = 1, "
                 "groups: int = 1, weight: weight = none, " + WEIGHT_ARGS.format(init="he"))
    doc = "Convolution to `ch` channels with windows of `k`. [N, C, W] is convolved in 1-D, [N, C, H, W] in 2-D."

    def attrs(self, given, x):
        rank = x.rank - 2
        require(rank in (1, 2), "E0301", f"`conv` needs [N, C, W] or [N, C, H, W], got {x}")
        require(x.is_float, "E0303", f"`conv` needs floating-point values, got {x}",
                "put `-> cast(f32)` or `-> scale(1/255)` before it")
        channels = x.shape[1]
        require(isinstance(channels, int), "E0304", f"`conv` needs a known number of channels, got {channels}")
        require(given.ch >= 1, "E0403", f"`ch` must be at least 1, got {given.ch}", argument="ch")
        require(given.groups >= 1 and channels % given.groups == 0 and given.ch % given.groups == 0, "E0404",
                f"{given.groups} groups divide neither or only one of {channels} input and {given.ch} output channels",
                "both must be multiples of `groups`", "groups")
        kernel, stride, dilation = (per_axis(getattr(given, n), rank, n) for n in ("k", "stride", "dilation"))
        for argument, sizes in (("k", kernel), ("stride", stride), ("dilation", dilation)):
            require(min(sizes) >= 1, "E0403", f"`{argument}` must be at least 1, got {min(sizes)}", argument=argument)
        return {"kernel": kernel, "stride": stride, "dilation": dilation, "groups": given.groups,
                "pad": resolve_padding(given.pad, x.shape[2:], kernel, stride, dilation)}

    def weights(self, given, a, x):
        shape = (given.ch, x.shape[1] // a.groups, *a.kernel)
        fans = (prod(shape[1:]), given.ch // a.groups * prod(a.kernel))
        fixed = given.weight
        if fixed is not None:
            fixed = np.asarray(fixed, "float32")
            if fixed.shape == tuple(a.kernel):
                fixed = np.broadcast_to(fixed, shape)
            require(fixed.shape == shape, "E0406", f"the fixed kernel has shape {list(fixed.shape)}, the layer needs "
                    f"{list(shape)}", argument="weight")
        w = Weight(shape, initializer(given.init) if fixed is None else fixed, fans, trainable=not given.frozen,
                   lr=given.lr)
        if not given.bias:
            return {"weight": w}
        return {"weight": w, "bias": Weight((given.ch,), initializer(given.bias_init), fans, not given.frozen,
                                            decay=False, lr=given.lr * given.bias_lr)}

    def grad(self, b, a, xs, y, g):
        shared = {k: getattr(a, k) for k in ("kernel", "stride", "dilation", "pad", "groups")}
        dx = b.op("conv_input_grad", g, xs[1], size=xs[0].shape[1:], **shared)
        dw = b.op("conv_weight_grad", g, xs[0], **shared)
        if len(xs) == 2:
            return [dx, dw]
        return [dx, dw, b.op("sum", g, axes=(0, *range(2, g.type.rank)), keepdims=False)]

    def numpy(self, a, x, w, bias=None):
        out, x, w = None, rounded(a, x), rounded(a, w)
        sizes = [window_size(*axis) for axis in zip(x.shape[2:], a.kernel, a.stride, a.dilation, a.pad)]
        xp = np.pad(x, ((0, 0), (0, 0), *a.pad)).reshape(x.shape[0], a.groups, x.shape[1] // a.groups,
                                                          *(s + sum(p) for s, p in zip(x.shape[2:], a.pad)))
        wg = w.reshape(a.groups, w.shape[0] // a.groups, *w.shape[1:])
        for offset in np.ndindex(*a.kernel):
            at = tuple(slice(o * d, o * d + (n - 1) * s + 1, s)
                       for o, d, n, s in zip(offset, a.dilation, sizes, a.stride))
            term = np.einsum("ngc...,goc->ngo...", xp[(slice(None),) * 3 + at], wg[(slice(None),) * 3 + offset])
            out = term if out is None else out + term
        out = out.reshape(x.shape[0], w.shape[0], *sizes)
        return out if bias is None else out + bias.reshape(-1, *[1] * len(sizes))

    def compute(self, t, a, out, idx, x, w, *bias):
        n, o, *p = idx
        per_group = w.shape[0] // a.groups
        first = o // per_group * w.shape[1] if a.groups > 1 else 0

        def at(c, *k):
            return [q * s + i * d - lo for q, s, i, d, (lo, _) in zip(p, a.stride, k, a.dilation, a.pad)]

        def inside(c, *k):
            return [f for q, size, (lo, hi) in zip(at(c, *k), x.shape[2:], a.pad)
                    for f in ([q >= 0] if lo else []) + ([q < size] if hi else [])]

        def value(c, *k):
            conditions = inside(c, *k)
            read = x(n, first + c, *at(c, *k)) if not conditions else t.guarded(
                t.all_of(*conditions), x(n, first + c, *at(c, *k)), t.const(0.0, x.type.dtype))
            return t.rounded(read, products(a)) * t.rounded(w(o, c, *k), products(a))

        return Reduce("sum", [w.shape[1], *a.kernel], value, finish=lambda acc: acc + bias[0](o) if bias else acc)


@register
class ConvInputGrad(Op):
    """Gradient of `conv` with respect to its input. Operands g [N, O, …], w; attrs also `size`: C and spatial of x."""

    name = "conv_input_grad"

    def infer(self, a, g, w):
        return TensorType(g.dtype, (g.shape[0], *a.size))

    def macs(self, a, types, out):
        return types[0].size * prod(types[1].shape[1:])

    def grad(self, b, a, xs, y, g):
        shared = {k: getattr(a, k) for k in ("kernel", "stride", "dilation", "pad", "groups")}
        return [b.op("conv", g, xs[1], **shared), b.op("conv_weight_grad", xs[0], g, **shared)]

    def numpy(self, a, g, w):
        n, spatial = g.shape[0], tuple(a.size[1:])
        gg = g.reshape(n, a.groups, g.shape[1] // a.groups, *g.shape[2:])
        wg = w.reshape(a.groups, w.shape[0] // a.groups, *w.shape[1:])
        full = np.zeros((n, a.groups, w.shape[1], *(s + sum(p) for s, p in zip(spatial, a.pad))), g.dtype)
        for offset in np.ndindex(*a.kernel):
            at = tuple(slice(o * d, o * d + (m - 1) * s + 1, s)
                       for o, d, m, s in zip(offset, a.dilation, g.shape[2:], a.stride))
            full[(slice(None),) * 3 + at] += np.einsum("ngo...,goc->ngc...", gg, wg[(slice(None),) * 3 + offset])
        inner = tuple(slice(lo, lo + s) for s, (lo, _) in zip(spatial, a.pad))
        return full[(slice(None),) * 3 + inner].reshape(n, *a.size)

    def compute(self, t, a, out, idx, g, w):
        n, c, *p = idx
        per_in, per_out = w.shape[1], w.shape[0] // a.groups
        first = c // per_in * per_out if a.groups > 1 else 0
        local = c % per_in if a.groups > 1 else c

        def value(o, *k):
            reads, conditions = [], []
            for q, i, d, s, (lo, _), size in zip(p, k, a.dilation, a.stride, a.pad, g.shape[2:]):
                shifted = q + lo - i * d
                reads.append(t.floordiv(shifted, s) if s > 1 else shifted)
                conditions += [shifted >= 0, reads[-1] < size] + ([t.floormod(shifted, s) == 0] if s > 1 else [])
            return t.guarded(t.all_of(*conditions), g(n, first + o, *reads), t.const(0.0, g.type.dtype)) \
                * w(first + o, local, *k)

        return Reduce("sum", [per_out, *a.kernel], value)


@register
class ConvWeightGrad(Op):
    """Gradient of `conv` with respect to its weight. Operands g [N, O, …], x [N, C, …]."""

    name = "conv_weight_grad"

    def infer(self, a, g, x):
        return TensorType(g.dtype, (g.shape[1], x.shape[1] // a.groups, *a.kernel))

    def macs(self, a, types, out):
        return types[0].size * prod(out.shape[1:])

    def grad(self, b, a, xs, y, g):
        shared = {k: getattr(a, k) for k in ("kernel", "stride", "dilation", "pad", "groups")}
        return [b.op("conv", xs[1], g, **shared),
                b.op("conv_input_grad", xs[0], g, size=xs[1].shape[1:], **shared)]

    def numpy(self, a, g, x):
        n = g.shape[0]
        gg = g.reshape(n, a.groups, g.shape[1] // a.groups, *g.shape[2:])
        xp = np.pad(x, ((0, 0), (0, 0), *a.pad))
        xp = xp.reshape(n, a.groups, x.shape[1] // a.groups, *xp.shape[2:])
        out = np.zeros((g.shape[1], x.shape[1] // a.groups, *a.kernel), g.dtype)
        letters = "uv"[:len(a.kernel)]
        for offset in np.ndindex(*a.kernel):
            at = tuple(slice(o * d, o * d + (m - 1) * s + 1, s)
                       for o, d, m, s in zip(offset, a.dilation, g.shape[2:], a.stride))
            term = np.einsum(f"ngo{letters},ngc{letters}->goc", gg, xp[(slice(None),) * 3 + at])
            out[(slice(None),) * 2 + offset] = term.reshape(g.shape[1], -1)
        return out

    def compute(self, t, a, out, idx, g, x):
        o, c, *k = idx
        first = o // (g.shape[1] // a.groups) * (x.shape[1] // a.groups) if a.groups > 1 else 0

        def value(n, *p):
            at = [q * s + i * d - lo for q, s, i, d, (lo, _) in zip(p, a.stride, k, a.dilation, a.pad)]
            conditions = [f for q, size, (lo, hi) in zip(at, x.shape[2:], a.pad)
                          for f in ([q >= 0] if lo else []) + ([q < size] if hi else [])]
            read = x(n, first + c, *at)
            if conditions:
                read = t.guarded(t.all_of(*conditions), read, t.const(0.0, x.type.dtype))
            return g(n, o, *p) * read

        return Reduce("sum", [g.shape[0], *g.shape[2:]], value)
