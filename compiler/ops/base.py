"""How an op is declared: once, as a subclass of `Op` in the file of its family.

An op says what the language may write (`signature`), what its node stores (`attrs`), which weights it owns, its result
type, its cost, its gradient as IR, its meaning in numpy, and one of
  * `scalar`: an element-wise expression,
  * `compute`: the value of one result element from elements of the inputs (a `Reduce` for sums and maxima), or
  * `expand`: the op written with other ops, for those that need more than one pass over their input.
Ops whose `signature` is None exist in the IR only (gradients, primitives).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compiler.dims import Dim
from compiler.ir import LOW, STORED, TensorType
from compiler.layout import PLAIN, Layout

if TYPE_CHECKING:
    from compiler.build import Builder, Value


class OpError(Exception):
    """An op that cannot be applied: a code, what is wrong, a hint, and the argument at fault (None: the call).

    Raised without a place by shape rules and argument checks; `elaborate` knows the span and reports it.
    """

    def __init__(self, code: str, message: str, hint: str | None = None, argument: str | None = None):
        super().__init__(message)
        self.code, self.message, self.hint, self.argument = code, message, hint, argument


@dataclass(frozen=True)
class Arg:
    """One parameter of a signature. `kind` is a key of KINDS or enum words joined by `|`; `required` has no default."""

    name: str
    kind: str
    default: Any = None
    required: bool = False


# What an argument may be. The elaborator turns the text into these Python values.
KINDS = {
    "tensor": "a tensor",
    "tensors": "one or more tensors",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "dims": "sizes such as 3x3 (a tuple of ints), or one number for all axes (an int)",
    "padding": "`same`, `valid`, sizes such as 1x1, or a list of [before, after] for each axis",
    "axis": "an axis: `batch`, `channel`, `height`, `width`, `time`, `feature`, or a number (negative counts from "
            "the end)",
    "axes": "an axis or a list of axes",
    "ints": "a list of whole numbers",
    "shape": "a list of dims, which may name symbols",
    "dtype": "an element type such as f32",
    "init": "an initializer: he, xavier, orthogonal, zeros, ones, constant(v), normal(std), uniform(bound)",
    "weight": "a fixed kernel as nested lists of numbers",
}

# Arguments that say how weights begin and learn; they go into the `Weight`s, not into the node.
SETTINGS = ("bias", "init", "bias_init", "lr", "bias_lr", "frozen", "weight")
WEIGHT_ARGS = ("bias: bool = true, init: init = {init}, bias_init: init = zeros, lr: float = 1.0, bias_lr: float = 1.0, "
               "frozen: bool = false")


@cache
def parse_signature(text: str) -> tuple[Arg, ...]:
    """`x: tensor, k: dims = 3x3, mode: max|mean = max` as Args. Defaults are numbers, dims, words, true/false or
    none."""
    args = []
    for part in re.split(r",\s*(?=\w+\s*:)", text.strip()) if text.strip() else []:
        head, _, default = part.partition("=")
        name, _, kind = (word.strip() for word in head.partition(":"))
        args.append(Arg(name, kind, _default(default.strip()), required=not default.strip()))
    return tuple(args)


def _default(text: str) -> Any:
    if text in ("", "none"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"\d+(x\d+)+", text):
        return tuple(int(size) for size in text.split("x"))
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Weight:
    """A tensor that belongs to a layer.

    init: ("he",), ("normal", std), … or a numpy array for a fixed value; fans: (fan_in, fan_out) for scaled
    initializers.
    trainable: changed by the optimizer. state: changed by the training step itself (running statistics).
    decay: whether weight decay applies.
    """

    shape: tuple[int, ...]
    init: tuple | np.ndarray = ("zeros",)
    fans: tuple[int, int] = (1, 1)
    trainable: bool = True
    state: bool = False
    decay: bool = True
    lr: float = 1.0


@dataclass(frozen=True)
class Reduce:
    """The value of a result element as a reduction.

    kind: "sum", "max", "min", or "argmax" (flat row-major index of the first maximum, i32).
    extents: sizes of the reduced loops (ints or TVM expressions); value(*r) is the element at r;
    where(*r), if given, says which elements count (others are left out); finish(acc) makes the result of the reduced
    value.
    """

    kind: str
    extents: Sequence[Any]
    value: Any
    where: Any = None
    finish: Any = None


class Op:
    """Base of all op declarations. `a` is the node's attrs as a namespace; `types` are the operand types."""

    name: ClassVar[str]
    signature: ClassVar[str | None] = None
    doc: ClassVar[str] = ""
    family: ClassVar[str] = ""
    pointwise: ClassVar[bool] = False   # result[i] depends on operands at i only (after broadcasting)
    roles: ClassVar[tuple[str, ...]] = ("layer",)  # where the language allows it: layer, loss, metric
    modal: ClassVar[bool] = False       # what it says here is what it does outside training; see `training`
    undifferentiable: ClassVar[str] = ""  # why no gradient passes through it; empty where one does

    def args(self) -> tuple[Arg, ...]:
        """The parsed signature."""
        return parse_signature(self.signature or "")

    # --- language → node -----------------------------------------------------------------------------------------

    def attrs(self, given: SimpleNamespace, *types: TensorType) -> dict[str, Any]:
        """The attributes of the node from the checked arguments of the call (tensors and layer settings left out).

        Everything that depends on the operand types (`same` padding, a named axis) is resolved here. Raises OpError.
        """
        left_out = {arg.name for arg in self.args() if arg.kind in ("tensor", "tensors")} | set(SETTINGS)
        return {key: value for key, value in vars(given).items() if key not in left_out}

    def weights(self, given: SimpleNamespace, a: SimpleNamespace, *types: TensorType) -> dict[str, Weight]:
        """The weights a call owns, in operand order; they follow the tensor operands. Empty for most ops."""
        return {}

    # --- node ----------------------------------------------------------------------------------------------------

    def infer(self, a: SimpleNamespace, *types: TensorType) -> TensorType:
        """The result type. Raises OpError with code E03xx when the operands do not fit."""
        raise NotImplementedError(self.name)

    def macs(self, a: SimpleNamespace, types: Sequence[TensorType], out: TensorType) -> Dim:
        """Multiply-accumulate operations (convolutions and matrix products); 0 for the rest."""
        return 0

    def flops(self, a: SimpleNamespace, types: Sequence[TensorType], out: TensorType) -> Dim:
        """Floating-point operations: 2 per MAC, or one per result element and scalar operation."""
        return 2 * self.macs(a, types, out) or out.size

    def grad(self, b: Builder, a: SimpleNamespace, xs: Sequence[Value], y: Value, g: Value) -> Sequence[Value | None]:
        """Gradients with respect to the operands, given that of the result; None where there is none to give.

        An op without a gradient of its own that has `expand` is differentiated through its expansion.
        """
        raise NotImplementedError(self.name)

    def numpy(self, a: SimpleNamespace, *arrays: np.ndarray) -> np.ndarray:
        """The meaning of the op. Computes in the precision of its floating operands (float32 or float64)."""
        raise NotImplementedError(self.name)

    # --- lowering: one of these ----------------------------------------------------------------------------------

    def scalar(self, t: Any, a: SimpleNamespace, *values: Any) -> Any:
        """Element-wise ops: the result element from the operand elements. `t` is `compiler.scalar`."""
        raise NotImplementedError(self.name)

    def compute(self, t: Any, a: SimpleNamespace, out: Operand, idx: Sequence[Any], *xs: Operand) -> Any:
        """The result element at `idx`: a TVM expression, or a Reduce. `xs[i](*index)` reads operand i."""
        if not self.pointwise:
            raise NotImplementedError(self.name)
        return self.scalar(t, a, *[x.broadcast(idx) for x in xs])

    def expand(self, b: Builder, a: SimpleNamespace, *xs: Value) -> Value:
        """The op in terms of others."""
        raise NotImplementedError(self.name)

    # --- special forms -------------------------------------------------------------------------------------------

    def training(self, b: Builder, a: SimpleNamespace, *xs: Value) -> Value:
        """Modal ops: what takes the node's place in a training step. New values of state go into `b.graph.updates`."""
        raise NotImplementedError(self.name)

    def expand_results(self, b: Builder, a: SimpleNamespace, *xs: Value) -> list[Value]:
        """Ops of the language with several results (`split`): there is no node of such an op, the elaborator calls this
        with the resolved attrs (`attrs` raises the errors) and binds the Values in order."""
        raise NotImplementedError(self.name)

    @classmethod
    def has(cls, method: str) -> bool:
        """Whether this op declares `method` itself."""
        return getattr(cls, method) is not getattr(Op, method)


@dataclass(frozen=True)
class Operand:
    """A tensor as lowering sees it: type, shape as TVM expressions, and how to read one element.

    buffer: the TVM buffer it lies in, or None where reading an element computes it; layout: that of its memory.
    """

    type: TensorType
    shape: tuple[Any, ...]
    read: Any = field(repr=False)
    buffer: Any = field(default=None, repr=False)
    layout: Layout = PLAIN

    def __call__(self, *index: Any) -> Any:
        return self.read(tuple(index))

    @property
    def dtype(self) -> str:
        """The element type of its memory in TVM's words."""
        return STORED[self.type.dtype]

    @property
    def computed(self) -> bool:
        """Whether elements, as they are read, are f32."""
        return self.type.dtype in ("f32", *LOW)

    def at(self, *index: Any) -> Any:
        """The element at an index of the buffer."""
        from compiler.scalar import widened
        return widened(self.buffer[index], self.type.dtype)

    def broadcast(self, idx: Sequence[Any]) -> Any:
        """The element at the result index `idx` under numpy's broadcasting (trailing axes align, size 1 repeats)."""
        if not self.type.shape:
            return self.read(())
        tail = list(idx)[len(idx) - self.type.rank:]
        return self.read(tuple(0 if size == 1 else i for i, size in zip(tail, self.type.shape)))


REGISTRY: dict[str, Op] = {}


def register(cls: type[Op]) -> type[Op]:
    """Class decorator: makes the op known by its name."""
    if cls.name in REGISTRY:
        raise ValueError(f"op {cls.name!r} is declared twice")
    cls.family = cls.__module__.rsplit(".", 1)[-1]
    REGISTRY[cls.name] = cls()
    return cls


def initializer(given: Any) -> tuple:
    """An `init` argument as Weight wants it; a default of a signature is still the bare word."""
    return (given,) if isinstance(given, str) else given


def resolve_axis(axis: str | int, x: TensorType, argument: str = "axis") -> int:
    """The index of a named or numbered axis of [N, C, spatial…] or [N, time, feature]. Raises OpError E0401."""
    names = {"batch": 0, "channel": 1, "time": 1, "feature": x.rank - 1}
    if x.rank >= 3:
        names["width"] = x.rank - 1
    if x.rank >= 4:
        names["height"] = x.rank - 2
    number = axis if isinstance(axis, int) else names.get(axis)
    require(number is not None and -x.rank <= number < x.rank, "E0401", f"there is no axis {axis} in {x}",
            argument=argument)
    return number % x.rank


def resolve_axes(axes: Any, x: TensorType, argument: str = "axes") -> tuple[int, ...]:
    """Several axes (one alone, or None for all) as sorted indices. Raises OpError E0401, E0402 for one named twice."""
    if axes is None:
        return tuple(range(x.rank))
    found = [resolve_axis(axis, x, argument) for axis in ((axes,) if isinstance(axes, (str, int)) else axes)]
    require(len(set(found)) == len(found), "E0402", f"`{argument}` names an axis twice", argument=argument)
    return tuple(sorted(found))


def namespace(attrs: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**attrs)


def products(a: SimpleNamespace) -> str | None:
    """How a convolution or matrix product rounds its operands: "tf32", or None where it takes them as they are."""
    return getattr(a, "products", None)


def rounded(a: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """An operand of a product with attributes `a`: tf32 has 10 bits of fraction, the nearest, the even one of two."""
    if products(a) != "tf32":
        return x
    bits = x.astype("float32").view("uint32")
    nearest = ((bits + (0xFFF + (bits >> 13 & 1)).astype("uint32")) & np.uint32(0xFFFFE000)).view("float32")
    return np.where(np.isnan(x), x, nearest).astype(x.dtype)


def require(condition: bool, code: str, message: str, hint: str | None = None, argument: str | None = None) -> None:
    """Raises OpError unless `condition` holds."""
    if not condition:
        raise OpError(code, message, hint, argument)


def broadcast_shapes(*types: TensorType) -> tuple[Dim, ...]:
    """The shape that operands broadcast to (numpy's rule, dims compared by normal form). Raises OpError E0302."""
    rank = max((t.rank for t in types), default=0)
    shape: list[Dim] = [1] * rank
    for t in types:
        for axis, size in enumerate(t.shape, rank - t.rank):
            if shape[axis] == 1:
                shape[axis] = size
            elif size not in (1, shape[axis]):
                names = " and ".join(map(str, types))
                raise OpError("E0302", f"{names} do not broadcast: axis {axis - rank} has {shape[axis]} and {size}")
    return tuple(shape)
