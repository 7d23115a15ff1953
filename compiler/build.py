"""Writing graphs from Python: `Value` handles with arithmetic, for gradients, expansions and passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.ir import DTYPES, Graph, Node, Origin, TensorType
from compiler.ops import REGISTRY, namespace


@dataclass(frozen=True)
class Value:
    """A node of a graph under construction. `+ - * /` and unary minus add nodes; numbers become scalar constants."""

    builder: Builder = field(repr=False, compare=False)
    name: str

    @property
    def type(self) -> TensorType:
        return self.builder.graph[self.name].type

    @property
    def shape(self) -> tuple:
        return self.type.shape

    def __add__(self, other: Any) -> Value:
        return self.builder.op("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.builder.op("add", self.builder.lift(other, self), self)

    def __sub__(self, other: Any) -> Value:
        return self.builder.op("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.builder.op("sub", self.builder.lift(other, self), self)

    def __mul__(self, other: Any) -> Value:
        return self.builder.op("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Value:
        return self.builder.op("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.builder.op("div", self.builder.lift(other, self), self)

    def __neg__(self) -> Value:
        return self.builder.op("neg", self)


class Builder:
    """Adds nodes to a graph. New nodes are named under `prefix` and carry `origins`, both set by `within`."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.prefix = ""
        self.origins: frozenset[Origin] = frozenset()

    @contextmanager
    def within(self, prefix: str, origins: frozenset[Origin]) -> Iterator[None]:
        """Nodes added inside are named `prefix/op` and come from `origins`."""
        saved = self.prefix, self.origins
        self.prefix, self.origins = prefix, origins
        try:
            yield
        finally:
            self.prefix, self.origins = saved

    def value(self, name: str) -> Value:
        return Value(self, name)

    def op(self, op: str, *operands: Any, name: str | None = None, **attrs: Any) -> Value:
        """A node of `op`; operands are Values (numbers are lifted to constants of the last Value's dtype)."""
        like = next((x for x in reversed(operands) if isinstance(x, Value)), None)
        values = [x if isinstance(x, Value) else self.lift(x, like) for x in operands]
        result = REGISTRY[op].infer(namespace(attrs), *[v.type for v in values])
        return self._add(name or op, op, values, result, attrs)

    def constant(self, value: Any, dtype: str = "f32", name: str = "const") -> Value:
        """A constant array (or scalar) of the language's dtype word `dtype`."""
        array = np.asarray(value, DTYPES[dtype])
        return self._add(name, "constant", [], TensorType(dtype, array.shape), {"value": array})

    def lift(self, value: Any, like: Value | None) -> Value:
        return value if isinstance(value, Value) else self.constant(value, like.type.dtype if like else "f32")

    def input(self, name: str, type: TensorType, role: str = "scalar") -> Value:
        """An input of the program: role "input", "label", or "scalar" for a number the runtime supplies each step.

        A scalar whose name is taken by the user's net is called `train/NAME`.
        """
        if name in self.graph and self.graph[name].attrs.get("role") != role:
            name = f"train/{name}"
        if name in self.graph:
            return self.value(name)
        self.graph.add(Node(name, "input", (), type, {"role": role}))
        return self.value(name)

    def sum_to(self, value: Value, shape: Iterable) -> Value:
        """Undoes broadcasting: sums `value` over the axes along which `shape` was repeated."""
        shape = tuple(shape)
        lead = value.type.rank - len(shape)
        axes = [*range(lead), *(lead + i for i, s in enumerate(shape) if s == 1 and value.shape[lead + i] != 1)]
        if axes:
            value = self.op("sum", value, axes=tuple(axes), keepdims=True)
        return value if value.shape == shape else self.op("reshape", value, shape=shape)

    def _add(self, name: str, op: str, values: list[Value], type: TensorType, attrs: dict[str, Any]) -> Value:
        path = self.graph.fresh(f"{self.prefix}/{name}" if self.prefix else name)
        self.graph.add(Node(path, op, tuple(v.name for v in values), type, attrs, self.origins))
        return self.value(path)
