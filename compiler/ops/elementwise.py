"""Element-wise arithmetic with numpy's broadcasting: the primitives that gradients and expansions are written in."""

from types import SimpleNamespace

import numpy as np

from compiler.ir import DTYPES, FLOATS, TensorType
from compiler.ops.base import Op, broadcast_shapes, register, require

CAST_HINT = "put `-> cast(f32)` or `-> scale(1/255)` before it"


class Pointwise(Op):
    """Operands of one dtype that broadcast; the result has that dtype."""

    pointwise = True

    def infer(self, a: SimpleNamespace, *types: TensorType) -> TensorType:
        dtypes = {t.dtype for t in types}
        require(len(dtypes) == 1, "E0303", f"`{self.name}` needs operands of one element type, got "
                + " and ".join(map(str, types)), "put `-> cast(f32)` behind one of them")
        return TensorType(types[0].dtype, broadcast_shapes(*types))


class FloatUnary(Pointwise):
    """One floating-point operand."""

    signature = "x: tensor"

    def infer(self, a: SimpleNamespace, x: TensorType) -> TensorType:
        require(x.is_float, "E0303", f"`{self.name}` needs floating-point values, got {x}", CAST_HINT)
        return x


# --- arithmetic --------------------------------------------------------------------------------------------------

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
class Sub(Pointwise):
    name = "sub"
    signature = "x: tensor, y: tensor"
    doc = "Difference of two tensors, broadcasting; also written `x - y`."

    def numpy(self, a, x, y):
        return x - y

    def scalar(self, t, a, x, y):
        return x - y

    def grad(self, b, a, xs, y, g):
        return [b.sum_to(g, xs[0].shape), -b.sum_to(g, xs[1].shape)]


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


@register
class Div(Pointwise):
    name = "div"
    signature = "x: tensor, y: tensor"
    doc = "Quotient of two floating-point tensors element by element, broadcasting; also written `x / y`."

    def infer(self, a, x, y):
        require(x.is_float, "E0303", f"`div` needs floating-point values, got {x} and {y}", CAST_HINT)
        return super().infer(a, x, y)

    def numpy(self, a, x, y):
        return x / y

    def scalar(self, t, a, x, y):
        return x / y

    def grad(self, b, a, xs, y, g):
        return [b.sum_to(g / xs[1], xs[0].shape), -b.sum_to(g * y / xs[1], xs[1].shape)]


@register
class Neg(Pointwise):
    name = "neg"
    signature = "x: tensor"
    doc = "-x; also written `-x`."

    def numpy(self, a, x):
        return -x

    def scalar(self, t, a, x):
        return -x

    def grad(self, b, a, xs, y, g):
        return [-g]


class Extremum(Pointwise):
    """The gradient goes to the operand that was taken, to `x` where both are equal."""

    signature = "x: tensor, y: tensor"

    def grad(self, b, a, xs, y, g):
        first = b.op(self.keeps, *xs)
        zero = b.constant(0, g.type.dtype)
        return [b.sum_to(b.op("where", first, g, zero), xs[0].shape),
                b.sum_to(b.op("where", first, zero, g), xs[1].shape)]


@register
class Maximum(Extremum):
    name = "maximum"
    doc = "The larger of two tensors element by element, broadcasting (`max` reduces over axes)."
    keeps = "greater_equal"

    def numpy(self, a, x, y):
        return np.maximum(x, y)

    def scalar(self, t, a, x, y):
        return t.maximum(x, y)


@register
class Minimum(Extremum):
    name = "minimum"
    doc = "The smaller of two tensors element by element, broadcasting (`min` reduces over axes)."
    keeps = "less_equal"

    def numpy(self, a, x, y):
        return np.minimum(x, y)

    def scalar(self, t, a, x, y):
        return t.minimum(x, y)


@register
class Pow(FloatUnary):
    name = "pow"
    signature = "x: tensor, exponent: float"
    doc = "x to the power of a number. Exponents that are no whole number need x >= 0."

    def numpy(self, a, x):
        return x ** a.exponent

    def scalar(self, t, a, x):
        return t.power(x, a.exponent)

    def grad(self, b, a, xs, y, g):
        if a.exponent == 0:
            return [None]
        return [g * b.op("pow", xs[0], exponent=a.exponent - 1) * a.exponent]


@register
class Exp(FloatUnary):
    name = "exp"
    doc = "e to the power of x."

    def numpy(self, a, x):
        return np.exp(x)

    def scalar(self, t, a, x):
        return t.exp(x)

    def grad(self, b, a, xs, y, g):
        return [g * y]


@register
class Log(FloatUnary):
    name = "log"
    doc = "Natural logarithm."

    def numpy(self, a, x):
        return np.log(x)

    def scalar(self, t, a, x):
        return t.log(x)

    def grad(self, b, a, xs, y, g):
        return [g / xs[0]]


@register
class Sqrt(FloatUnary):
    name = "sqrt"
    doc = "Square root."

    def numpy(self, a, x):
        return np.sqrt(x)

    def scalar(self, t, a, x):
        return t.sqrt(x)

    def grad(self, b, a, xs, y, g):
        return [g * 0.5 / y]


@register
class Rsqrt(FloatUnary):
    name = "rsqrt"
    doc = "1 / sqrt(x)."

    def numpy(self, a, x):
        return 1 / np.sqrt(x)

    def scalar(self, t, a, x):
        return t.rsqrt(x)

    def grad(self, b, a, xs, y, g):
        return [g * y * y * y * -0.5]


@register
class Abs(Pointwise):
    name = "abs"
    signature = "x: tensor"
    doc = "Absolute value; its gradient at 0 is 0."

    def numpy(self, a, x):
        return np.abs(x)

    def scalar(self, t, a, x):
        return t.where(x < t.const_like(0, x), -x, x)

    def grad(self, b, a, xs, y, g):
        return [g * b.op("sign", xs[0])]


@register
class Sign(Pointwise):
    name = "sign"
    signature = "x: tensor"
    doc = "-1, 0 or 1."
    undifferentiable = "constant wherever it is differentiable"

    def numpy(self, a, x):
        return np.sign(x)

    def scalar(self, t, a, x):
        zero, one = t.const_like(0, x), t.const_like(1, x)
        return t.where(x > zero, one, t.where(x < zero, -one, zero))


@register
class Square(Pointwise):
    name = "square"
    signature = "x: tensor"
    doc = "x * x."

    def numpy(self, a, x):
        return x * x

    def scalar(self, t, a, x):
        return x * x

    def grad(self, b, a, xs, y, g):
        return [g * xs[0] * 2]


# --- comparisons and choice --------------------------------------------------------------------------------------

class Comparison(Pointwise):
    """Two operands of one dtype; the result is bool."""

    signature = "x: tensor, y: tensor"
    undifferentiable = "its result is true or false"

    def infer(self, a, x, y):
        return TensorType("bool", super().infer(a, x, y).shape)


@register
class Less(Comparison):
    name = "less"
    doc = "x < y element by element, broadcasting."

    def numpy(self, a, x, y):
        return x < y

    def scalar(self, t, a, x, y):
        return x < y


@register
class LessEqual(Comparison):
    name = "less_equal"
    doc = "x <= y element by element, broadcasting."

    def numpy(self, a, x, y):
        return x <= y

    def scalar(self, t, a, x, y):
        return x <= y


@register
class Greater(Comparison):
    name = "greater"
    doc = "x > y element by element, broadcasting."

    def numpy(self, a, x, y):
        return x > y

    def scalar(self, t, a, x, y):
        return x > y


@register
class GreaterEqual(Comparison):
    name = "greater_equal"
    doc = "x >= y element by element, broadcasting."

    def numpy(self, a, x, y):
        return x >= y

    def scalar(self, t, a, x, y):
        return x >= y


@register
class Equal(Comparison):
    name = "equal"
    doc = "Whether x and y are equal, element by element, broadcasting."

    def numpy(self, a, x, y):
        return x == y

    def scalar(self, t, a, x, y):
        return t.equal(x, y)


@register
class Where(Op):
    name = "where"
    signature = "condition: tensor, x: tensor, y: tensor"
    doc = "x where the condition (bool) holds, else y; broadcasting."
    pointwise = True

    def infer(self, a, condition, x, y):
        require(condition.dtype == "bool", "E0303", f"`where` needs a bool condition, got {condition}",
                "compare with `greater`, `less` or `equal`")
        require(x.dtype == y.dtype, "E0303", f"`where` needs two values of one element type, got {x} and {y}")
        return TensorType(x.dtype, broadcast_shapes(condition, x, y))

    def numpy(self, a, condition, x, y):
        return np.where(condition, x, y)

    def scalar(self, t, a, condition, x, y):
        return t.where(condition, x, y)

    def grad(self, b, a, xs, y, g):
        zero = b.constant(0, g.type.dtype)
        return [None, b.sum_to(b.op("where", xs[0], g, zero), xs[1].shape),
                b.sum_to(b.op("where", xs[0], zero, g), xs[2].shape)]


# --- element types -----------------------------------------------------------------------------------------------

@register
class Cast(Op):
    name = "cast"
    signature = "x: tensor, dtype: dtype = f32"
    doc = "The same values in another element type; fractions are cut off towards zero where it holds whole numbers."
    pointwise = True

    def infer(self, a, x):
        return TensorType(a.dtype, x.shape)

    def numpy(self, a, x):
        return x.astype(DTYPES[a.dtype])

    def scalar(self, t, a, x):
        return t.cast(x, a.dtype)

    def grad(self, b, a, xs, y, g):
        smooth = xs[0].type.is_float and y.type.is_float
        return [b.op("cast", g, dtype=xs[0].type.dtype) if smooth else None]


@register
class Scale(Op):
    """attrs: by, offset, dtype (of the result)."""

    name = "scale"
    signature = "x: tensor, by: float, offset: float = 0.0"
    doc = "x * by + offset. Whole numbers, such as the bytes of an image, become f32."
    pointwise = True

    def attrs(self, given, x):
        return {"by": float(given.by), "offset": float(given.offset), "dtype": x.dtype if x.dtype in FLOATS else "f32"}

    def infer(self, a, x):
        return TensorType(a.dtype, x.shape)

    def flops(self, a, types, out):
        return (2 if a.offset else 1) * out.size

    def numpy(self, a, x):
        return x.astype(DTYPES[a.dtype]) * a.by + a.offset

    def scalar(self, t, a, x):
        value = t.cast(x, a.dtype) * t.const(a.by, a.dtype)
        return value + t.const(a.offset, a.dtype) if a.offset else value

    def grad(self, b, a, xs, y, g):
        if not xs[0].type.is_float:
            return [None]
        return [b.op("scale", g, by=a.by, offset=0.0, dtype=a.dtype)]


@register
class Copy(Op):
    """The value itself, in memory of its own."""

    name = "copy"
    pointwise = True

    def infer(self, a, x):
        return x

    def numpy(self, a, x):
        return x

    def scalar(self, t, a, x):
        return x

    def grad(self, b, a, xs, y, g):
        return [g]
