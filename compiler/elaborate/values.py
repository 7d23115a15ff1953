"""What names and expressions stand for while a program is elaborated, and the arithmetic of compile-time values.

Plain Python values serve where they can: int, float, bool, str, a tuple of ints for `3x3`, a `Poly` for a dim that is
known only when the binary runs. The rest are the classes below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compiler.dims import Poly
from compiler.ir import TensorType
from dsl import tree
from dsl.diagnostics import Note, Span

LARGEST = 2 ** 63 - 1  # a whole number of the language fits 64 bits: products of products must not eat the memory


@dataclass(frozen=True)
class Tensor:
    """A node of the graph; `made` and `span` say by what and where, `name` how the text at hand calls it."""

    node: str
    type: TensorType
    made: str
    span: Span
    name: str | None = None


@dataclass(frozen=True)
class Results:
    """What a call with several results gives; only a binding with as many names takes it."""

    callee: str
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Quantity:
    """A number with a unit: `5 epochs`, `70%`."""

    value: int | float
    unit: str

    @property
    def is_percent(self) -> bool:
        return self.unit == "%"

    def __str__(self) -> str:
        return f"{self.value}%" if self.is_percent else f"{self.value} {self.unit}"


@dataclass(frozen=True)
class Listed:
    """A list: (name or None, value, span) for each item."""

    items: tuple[tuple[str | None, Any, Span], ...]


@dataclass(frozen=True)
class Typed:
    """A value of a kind that plain Python values cannot tell apart: an initializer, a padding, an axis, …"""

    kind: str
    value: Any


@dataclass(frozen=True)
class LayerObject:
    """`layer tower = encoder(64)`: the bound arguments of a call that waits for its tensors.

    callee: an Op or a blocks.BlockRef; path: what its weights are called; arguments: name → Bound.
    """

    name: str
    callee: Any
    arguments: dict[str, Any]
    path: str
    call: tree.Call


class Poison:
    """The value of a name whose statement went wrong: using it is not an error of its own."""


POISON = Poison()


class ValueProblem(Exception):
    """Arithmetic that has no result: code, message, hint; the evaluator adds the place."""

    def __init__(self, code: str, message: str, hint: str | None = None):
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def show(value: Any) -> str:
    """A value as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value)


def describe(value: Any) -> str:
    """What a value is, for messages: "the number 2.5", "a tensor f32[N, 10]"."""
    if isinstance(value, Tensor):
        return f"a tensor {value.type}"
    if isinstance(value, Results):
        return f"the {len(value.tensors)} results of `{value.callee}`"
    if isinstance(value, Listed):
        return "a list"
    if isinstance(value, Typed):
        return f"a value of type {value.kind}"
    if isinstance(value, LayerObject):
        return f"the layer `{value.name}`"
    if isinstance(value, Quantity):
        return f"`{value}`"
    if isinstance(value, str):
        return f"the string {show(value)}"
    if isinstance(value, Poly):
        return f"{value}, which is known only when the binary runs"
    return show(value)


def made_by(tensors: Sequence[Tensor]) -> list[Note]:
    """Where operands come from: "`maps` is made by max_pool at …"."""
    return [Note(f"{f'`{t.name}`' if t.name else 'the value before it'} is made by {t.made}" if t.made != "input"
                 else f"`{t.name or t.node}` is declared", t.span) for t in tensors]


def unary(operator: str, value: Any) -> Any:
    """`-x` and `not x`. Raises ValueProblem."""
    if operator == "not":
        if not isinstance(value, bool):
            raise ValueProblem("E0424", f"`not` needs true or false, got {describe(value)}")
        return not value
    if isinstance(value, Quantity):
        return Quantity(-value.value, value.unit)
    if is_number(value) or isinstance(value, Poly):
        return -value
    raise ValueProblem("E0424", f"`-` needs a number, got {describe(value)}")


def binary(operator: str, left: Any, right: Any) -> Any:
    """Exact arithmetic and comparison: ints stay ints, `/` is one where it comes out even. Raises ValueProblem."""
    if operator in ("==", "!="):
        return _equal(left, right) == (operator == "==")
    if operator in ("<", "<=", ">", ">="):
        return _less(operator, left, right)
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        return _quantity(operator, left, right)
    for value in (left, right):
        if not is_number(value) and not isinstance(value, Poly):
            raise ValueProblem("E0424", f"`{operator}` needs numbers, got {describe(value)}")
    if isinstance(left, Poly) or isinstance(right, Poly):
        return _symbolic(operator, left, right)
    return _number(operator, left, right)


def _number(operator: str, left: int | float, right: int | float) -> int | float:
    try:
        if operator == "+":
            result = left + right
        elif operator == "-":
            result = left - right
        elif operator == "*":
            result = left * right
        elif operator == "//":
            result = left // right
        elif operator == "%":
            result = left % right
        elif is_int(left) and is_int(right) and left % right == 0:
            result = left // right
        else:
            result = left / right
    except ZeroDivisionError:
        raise ValueProblem("E0425", f"division by zero: {show(left)} {operator} {show(right)}") from None
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or abs(result) > LARGEST and isinstance(result, int):
        raise ValueProblem("E0425", f"{show(left)} {operator} {show(right)} is too large",
                           "whole numbers go up to 2^63 - 1")
    return result


def _symbolic(operator: str, left: Any, right: Any) -> Any:
    if isinstance(left, float) or isinstance(right, float):
        raise ValueProblem("E0424", f"a dim is a whole number: {show(left)} {operator} {show(right)}")
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if operator in ("/", "//") and is_int(right) and right > 0:
        quotient = left // right
        if operator == "/" and quotient * right != left:
            raise ValueProblem("E0323", f"{left} does not divide evenly by {right}", "`//` rounds down")
        return quotient
    raise ValueProblem("E0323", f"`{left} {operator} {right}` cannot be a dim",
                       "dims are made with + - * and division by a positive whole number")


def _quantity(operator: str, left: Any, right: Any) -> Quantity:
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        if operator in ("+", "-") and left.unit.rstrip("s") == right.unit.rstrip("s"):
            return Quantity(_number(operator, left.value, right.value), left.unit)
    elif operator == "*" and is_number(left):
        return Quantity(_number("*", left, right.value), right.unit)
    elif operator in ("*", "/") and is_number(right):
        return Quantity(_number(operator, left.value, right), left.unit)
    raise ValueProblem("E0426", f"the units do not fit: {show(left)} {operator} {show(right)}")


def _equal(left: Any, right: Any) -> bool:
    if is_number(left) and is_number(right):
        return left == right
    if isinstance(left, Poly) or isinstance(right, Poly):
        if left != right:
            raise ValueProblem("E0424", f"whether {show(left)} equals {show(right)} is known only when the binary runs")
        return True
    if type(left) is not type(right) or isinstance(left, (Tensor, Listed, Results, LayerObject)):
        raise ValueProblem("E0424", f"{describe(left)} and {describe(right)} cannot be compared")
    return left == right


def _less(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, Quantity) and isinstance(right, Quantity) and left.unit == right.unit:
        left, right = left.value, right.value
    for value in (left, right):
        if not is_number(value):
            raise ValueProblem("E0424", f"`{operator}` needs numbers, got {describe(value)}")
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]
