"""Data movement: ops whose result elements are elements of the operand, or a fill value."""

import numpy as np

from compiler import dims
from compiler.ir import TensorType
from compiler.ops.base import Op, register, require, resolve_axis


class Movement(Op):
    def flops(self, a, types, out):
        return 0


def groups_of(source, target):
    """Splits two shapes of equal size into runs of axes of equal size: [([2, 3], [6]), ([N], [N]), …]."""
    i = j = 0
    out = []
    while i < len(source) or j < len(target):
        left, right = list(source[i:i + 1]), list(target[j:j + 1])
        i, j = i + 1, j + 1
        while dims.product(left) != dims.product(right):
            a, b = dims.product(left), dims.product(right)
            left_is_short = isinstance(a, int) and (not isinstance(b, int) or a < b)
            if i < len(source) and (left_is_short or j >= len(target)):
                left.append(source[i])
                i += 1
            elif j < len(target):
                right.append(target[j])
                j += 1
            else:
                left += source[i:]
                i = len(source)
                break
        out.append((left, right))
    return out


@register
class Reshape(Movement):
    """attrs: shape (dims; may name symbols)."""

    name = "reshape"
    signature = "x: tensor, shape: shape"
    doc = "The same elements in row-major order under another shape. One size may be -1: it is what remains."

    def attrs(self, given, x):
        shape = list(given.shape)
        holes = [i for i, size in enumerate(shape) if size == -1]
        require(len(holes) <= 1, "E0410", "`shape` has more than one -1", argument="shape")
        require(all(not isinstance(s, int) or s >= 1 or s == -1 for s in shape), "E0403",
                "a size is at least 1, or -1 for what remains", argument="shape")
        if holes:
            rest = dims.product(s for i, s in enumerate(shape) if i != holes[0])
            size = quotient(x.size, rest)
            require(size is not None, "E0306", f"{x} has {x.size} elements, no multiple of {rest}", argument="shape")
            shape[holes[0]] = size
        require(dims.product(shape) == x.size, "E0306",
                f"{x} has {x.size} elements, [{', '.join(map(str, shape))}] has {dims.product(shape)}",
                argument="shape")
        return {"shape": tuple(shape)}

    def infer(self, a, x):
        return x.with_shape(*a.shape)

    def numpy(self, a, x):
        return x.reshape(a.shape)

    def compute(self, t, a, out, idx, x):
        sizes = [*zip(x.type.shape, x.shape)], [*zip(out.type.shape, out.shape)]
        read, at_in, at_out = [], 0, 0
        for left, right in groups_of(x.type.shape, out.type.shape):
            sources, targets = sizes[0][at_in:at_in + len(left)], sizes[1][at_out:at_out + len(right)]
            here = idx[at_out:at_out + len(right)]
            at_in, at_out = at_in + len(left), at_out + len(right)
            if len(left) == 1 and len(right) == 1:
                read += here
                continue
            flat = t.index(0)
            for (_, size), i in zip(targets, here):
                flat = flat * size + i
            parts = []
            for _, size in reversed(sources[1:]):
                parts.append(t.floormod(flat, size))
                flat = t.floordiv(flat, size)
            read += ([flat] if sources else []) + parts[::-1]
        return x(*read)

    def grad(self, b, a, xs, y, g):
        return [b.op("reshape", g, shape=xs[0].shape)]


def quotient(total, divisor):
    """total / divisor as a dim, or None where it does not come out even."""
    if isinstance(divisor, int):
        if isinstance(total, int):
            return total // divisor if total % divisor == 0 else None
        return total // divisor if all(f % divisor == 0 for _, f in total.terms) else None
    if isinstance(total, int) or len(divisor.terms) != 1:
        return None
    (powers, factor), = divisor.terms
    result = 0
    for monomial, f in total.terms:
        left = dict(monomial)
        for atom, power in powers:
            left[atom] = left.get(atom, 0) - power
        if f % factor or min(left.values()) < 0:
            return None
        atoms = (dims.Poly(((((atom, power),), 1),)) for atom, power in left.items() if power)
        result = result + dims.product([f // factor, *atoms])
    return result


@register
class Flatten(Reshape):
    name = "flatten"
    signature = "x: tensor"
    doc = "[N, …] as [N, everything else]."

    def attrs(self, given, x):
        require(x.rank >= 1, "E0301", f"`flatten` needs a batch axis, got {x}")
        return {"shape": (x.shape[0], dims.product(x.shape[1:]))}


@register
class Transpose(Movement):
    name = "transpose"
    signature = "x: tensor, order: ints"
    doc = "Axes in another order: axis i of the result is axis order[i] of the operand."

    def attrs(self, given, x):
        order = tuple(resolve_axis(axis, x, "order") for axis in given.order)
        require(sorted(order) == list(range(x.rank)), "E0402", f"`order` must name each of the {x.rank} axes once",
                argument="order")
        return {"order": order}

    def infer(self, a, x):
        return x.with_shape(*(x.shape[axis] for axis in a.order))

    def numpy(self, a, x):
        return x.transpose(a.order)

    def compute(self, t, a, out, idx, x):
        return x(*(idx[a.order.index(axis)] for axis in range(len(a.order))))

    def grad(self, b, a, xs, y, g):
        return [b.op("transpose", g, order=tuple(int(i) for i in np.argsort(a.order)))]


@register
class BroadcastTo(Op):
    name = "broadcast_to"
    pointwise = True
    signature = "x: tensor, shape: shape"
    doc = "The operand repeated along axes of size 1 and new leading axes."

    def attrs(self, given, x):
        shape = tuple(given.shape)
        lead = len(shape) - x.rank
        require(lead >= 0 and all(s in (1, to) for s, to in zip(x.shape, shape[lead:])), "E0302",
                f"{x} cannot be repeated to [{', '.join(map(str, shape))}]", argument="shape")
        return {"shape": shape}

    def infer(self, a, x):
        return x.with_shape(*a.shape)

    def flops(self, a, types, out):
        return 0

    def numpy(self, a, x):
        return np.broadcast_to(x, a.shape)

    def scalar(self, t, a, x):
        return x

    def grad(self, b, a, xs, y, g):
        return [b.sum_to(g, xs[0].shape)]


@register
class Pad(Movement):
    """attrs: before, after (one int an axis), value."""

    name = "pad"
    signature = "x: tensor, pad: padding, value: float = 0.0"
    doc = ("Elements of `value` around the spatial axes: one number, one for each axis, or [before, after] for each "
           "axis.")

    def attrs(self, given, x):
        rank = x.rank - 2
        require(rank >= 1, "E0301", f"`pad` needs [N, C, spatial…], got {x}")
        require(not isinstance(given.pad, str), "E0403", "`pad` needs numbers", "such as 1, 1x2 or [[0, 1], [2, 2]]",
                "pad")
        pads = (given.pad,) * rank if isinstance(given.pad, int) else tuple(given.pad)
        require(len(pads) == rank, "E0405", f"`pad` has {len(pads)} entries for {rank} spatial axes", argument="pad")
        pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in pads]
        require(all(n >= 0 for pair in pairs for n in pair), "E0403", "padding is not negative", "use `slice` to cut",
                "pad")
        return {"before": (0, 0, *(lo for lo, _ in pairs)), "after": (0, 0, *(hi for _, hi in pairs)),
                "value": float(given.value)}

    def infer(self, a, x):
        return x.with_shape(*(lo + size + hi for lo, size, hi in zip(a.before, x.shape, a.after)))

    def numpy(self, a, x):
        return np.pad(x, list(zip(a.before, a.after)), constant_values=a.value)

    def compute(self, t, a, out, idx, x):
        inner = [i - lo if lo else i for i, lo in zip(idx, a.before)]
        conditions = [f for i, size, lo, hi in zip(inner, x.shape, a.before, a.after)
                      for f in ([i >= 0] if lo else []) + ([i < size] if hi else [])]
        return t.guarded(t.all_of(*conditions), x(*inner), t.const(a.value, x.type.dtype)) if conditions else x(*inner)

    def grad(self, b, a, xs, y, g):
        for axis, (lo, hi) in enumerate(zip(a.before, a.after)):
            if lo or hi:
                g = b.op("slice", g, axis=axis, start=lo, stop=lo + xs[0].shape[axis])
        return [g]


@register
class Slice(Movement):
    """attrs: axis, start, stop (dims, not negative, within the axis)."""

    name = "slice"
    signature = "x: tensor, axis: axis, start: int = 0, stop: int = none"
    doc = "The elements from `start` up to, not including, `stop` of an axis; negative numbers count from the end."

    def attrs(self, given, x):
        axis = resolve_axis(given.axis, x)
        size = x.shape[axis]
        start, stop = given.start, size if given.stop is None else given.stop
        start, stop = (n + size if isinstance(n, int) and n < 0 else n for n in (start, stop))
        if isinstance(size, int):
            require(0 <= start < stop <= size, "E0408", f"{start} to {stop} is no part of an axis of {size}",
                    argument="start")
        else:
            require(start == 0 and stop == size or given.stop is None and isinstance(start, int), "E0304",
                    f"`slice` needs a known size, axis {axis} of {x} has {size}", argument="axis")
        return {"axis": axis, "start": start, "stop": stop}

    def infer(self, a, x):
        return x.with_shape(*(a.stop - a.start if axis == a.axis else size for axis, size in enumerate(x.shape)))

    def numpy(self, a, x):
        return x[(slice(None),) * a.axis + (slice(a.start, a.stop),)]

    def compute(self, t, a, out, idx, x):
        return x(*(i + a.start if axis == a.axis and a.start else i for axis, i in enumerate(idx)))

    def grad(self, b, a, xs, y, g):
        zeros = (0,) * xs[0].type.rank
        behind = xs[0].shape[a.axis] - a.stop
        before, after = ((*zeros[:a.axis], n, *zeros[a.axis + 1:]) for n in (a.start, behind))
        return [b.op("pad", g, before=before, after=after, value=0.0)]


@register
class Concat(Movement):
    name = "concat"
    signature = "xs: tensors, axis: axis = channel"
    doc = "Tensors one behind the other along an axis; their other sizes are equal."

    def attrs(self, given, *xs):
        axis = resolve_axis(given.axis, xs[0])
        for x in xs[1:]:
            same = x.rank == xs[0].rank and all(
                size == first for i, (size, first) in enumerate(zip(x.shape, xs[0].shape)) if i != axis)
            require(same, "E0307", f"{xs[0]} and {x} differ in more than axis {axis}", argument="xs")
        require(len({x.dtype for x in xs}) == 1, "E0303", "`concat` needs tensors of one element type, got "
                + " and ".join(map(str, xs)), argument="xs")
        return {"axis": axis}

    def infer(self, a, *xs):
        total = 0
        for x in xs:
            total = x.shape[a.axis] + total
        return xs[0].with_shape(*(total if axis == a.axis else size for axis, size in enumerate(xs[0].shape)))

    def numpy(self, a, *xs):
        return np.concatenate(xs, axis=a.axis)

    def compute(self, t, a, out, idx, *xs):
        starts = [t.index(0)]
        for x in xs[:-1]:
            starts.append(starts[-1] + x.shape[a.axis])
        value = None
        for x, start in reversed([*zip(xs, starts)]):
            read = x(*(i - start if axis == a.axis else i for axis, i in enumerate(idx)))
            value = read if value is None else t.guarded(idx[a.axis] < start + x.shape[a.axis], read, value)
        return value

    def grad(self, b, a, xs, y, g):
        out, start = [], 0
        for x in xs:
            stop = x.shape[a.axis] + start
            out.append(b.op("slice", g, axis=a.axis, start=start, stop=stop))
            start = stop
        return out


@register
class Split(Op):
    """Has several results: see Op.expand_results. attrs: axis, sizes."""

    name = "split"
    signature = "x: tensor, parts: int = none, sizes: ints = none, axis: axis = channel"
    doc = "An axis cut into `parts` equal pieces, or into pieces of the given `sizes`; one result for each."

    def attrs(self, given, x):
        axis = resolve_axis(given.axis, x)
        size = x.shape[axis]
        require(isinstance(size, int), "E0304", f"`split` needs a known size, axis {axis} of {x} has {size}",
                argument="axis")
        require((given.parts is None) != (given.sizes is None), "E0410", "`split` needs either `parts` or `sizes`")
        if given.sizes is not None:
            sizes = tuple(given.sizes)
            require(sum(sizes) == size and min(sizes) >= 1, "E0408",
                    f"pieces of {list(sizes)} do not make an axis of {size}",
                    argument="sizes")
        else:
            require(given.parts >= 1 and size % given.parts == 0, "E0404",
                    f"an axis of {size} has no {given.parts} equal parts", argument="parts")
            sizes = (size // given.parts,) * given.parts
        return {"axis": axis, "sizes": sizes}

    def expand_results(self, b, a, x):
        ends = np.cumsum(a.sizes)
        return [b.op("slice", x, axis=a.axis, start=int(end - size), stop=int(end)) for end, size in zip(ends, a.sizes)]


@register
class Pick(Op):
    """Operands x [N, C, …], index i32 [N, …]: x[n, index[n, …], …]. NaN where the index is no class."""

    name = "pick"

    def infer(self, a, x, index):
        return TensorType(x.dtype, index.shape)

    def numpy(self, a, x, index):
        inside = (index >= 0) & (index < x.shape[1])
        taken = np.take_along_axis(x, np.where(inside, index, 0)[:, None], axis=1)[:, 0]
        return np.where(inside, taken, np.asarray(np.nan, x.dtype))

    def compute(self, t, a, out, idx, x, index):
        at = t.index(index(*idx))
        return t.guarded(t.all_of(at >= 0, at < x.shape[1]), x(idx[0], at, *idx[1:]),
                         t.const(float("nan"), x.type.dtype))

    def grad(self, b, a, xs, y, g):
        x, index = xs
        grown = (x.shape[0], 1, *x.shape[2:])
        hot = b.op("equal", b.op("reshape", index, shape=grown), classes(b, x.type))
        return [b.op("where", hot, b.op("reshape", g, shape=grown), b.constant(0, g.type.dtype)), None]


def classes(b, x: TensorType):
    """0 … C-1 along axis 1 of `x`, as i32 [C, 1…] that broadcasts against it."""
    return b.constant(np.arange(x.shape[1]).reshape(-1, *[1] * (x.rank - 2)), "i32")
