"""The reference interpreter: what a graph means, in numpy, in float32 or float64. Every pass and kernel is held
against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dims
from compiler.dims import Poly
from compiler.ir import DTYPES, LOW, Graph, Node
from compiler.ops import REGISTRY, namespace


def run(graph: Graph, feeds: Mapping[str, Any], params: Mapping[str, Any], dtype: str = "float32",
        every: bool = False) -> dict[str, np.ndarray]:
    """The values of all results (of `every` node, if asked for) by node name.

    feeds: input → array; params: parameter → array. With `dtype` float64 all f32 of the graph is computed in float64. What is
    bf16 or f16 is computed as f32 is, and rounded; once kernels are chosen, only where one stores it.
    Raises ValueError for an array that is missing or does not fit.
    """
    values: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    unstored = set() if graph.kernels is None else {name for k in graph.kernels for name in k.nodes} - {
        name for k in graph.kernels for name in k.results}
    for node in graph.sorted():
        values[node.name] = _evaluate(node, values, feeds, params, sizes, dtype, node.name in unstored)
    return values if every else {name: values[name] for name in graph.results()}


def _evaluate(node: Node, values: Mapping[str, np.ndarray], feeds: Mapping[str, Any], params: Mapping[str, Any],
              sizes: dict[str, int], dtype: str, unstored: bool) -> np.ndarray:
    wanted = dtype if node.type.dtype == "f32" or node.type.dtype in LOW and unstored else DTYPES[node.type.dtype]
    if node.op in ("input", "parameter"):
        given = feeds if node.op == "input" else params
        if node.name not in given:
            raise ValueError(f"no value for the {node.op} {node.name}")
        value = np.asarray(given[node.name]).astype(wanted)
        _bind(node, value.shape, sizes)
        return value
    attrs = namespace({key: _resolve(value, sizes, dtype) for key, value in node.attrs.items()})
    operands = [_computed(values[i], dtype) for i in node.inputs]
    value = np.asarray(REGISTRY[node.op].numpy(attrs, *operands))
    shape = tuple(dims.evaluate(size, sizes) for size in node.type.shape)
    if value.shape != shape:
        raise ValueError(f"{node.name} ({node.op}) has shape {value.shape}, its type says {shape}")
    return value.astype(wanted, copy=False)


def _computed(value: np.ndarray, dtype: str) -> np.ndarray:
    """A value as ops compute with it."""
    return value.astype(dtype) if value.dtype in (np.dtype("float16"), np.dtype("bfloat16")) else value


def _bind(node: Node, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Learns what symbols stand for from the shape of an input."""
    if len(shape) != node.type.rank:
        raise ValueError(f"{node.name} is {node.type}, got an array of shape {shape}")
    for size, got in zip(node.type.shape, shape):
        if isinstance(size, Poly) and size == next((dims.symbol(s) for s in size.symbols), None):
            sizes.setdefault(str(size), got)
        if dims.symbols(size) <= sizes.keys() and dims.evaluate(size, sizes) != got:
            raise ValueError(f"{node.name} is {node.type} with {sizes}, got an array of shape {shape}")


def _resolve(value: Any, sizes: Mapping[str, int], dtype: str) -> Any:
    """An attribute with dims as numbers, and f32 as what it is computed in."""
    if isinstance(value, Poly):
        return dims.evaluate(value, sizes)
    if isinstance(value, tuple):
        return tuple(_resolve(item, sizes, dtype) for item in value)
    if isinstance(value, str) and (value in LOW or value == "f32" and dtype == "float64"):
        return "f64" if dtype == "float64" else "f32"  # rounded behind the op
    return value


@dataclass(frozen=True)
class Difference:
    """The first node at which two runs differ; error: max abs difference divided by max abs of the reference."""

    node: str
    op: str
    error: float


def first_difference(graph: Graph, reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray],
                     tolerance: float = 1e-5) -> Difference | None:
    """The first node, in the order of computation, whose value in `other` is more than `tolerance` off; None if there
    is none. Nodes that only one of the runs has are skipped."""
    for node in graph.sorted():
        if node.name in reference and node.name in other:
            error = relative_error(reference[node.name], other[node.name])
            if not error <= tolerance:
                return Difference(node.name, node.op, error)
    return None


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """Max abs difference divided by max abs of the reference; inf where shapes differ or only one is not a number."""
    if reference.shape != other.shape:
        return float("inf")
    if reference.size == 0:
        return 0.0
    left, right = reference.astype("float64"), other.astype("float64")
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    if same.all():
        return 0.0
    if not (np.isfinite(left) & np.isfinite(right))[~same].all():
        return float("inf")
    with np.errstate(over="ignore"):
        return float(np.abs(left - right)[~same].max() / max(np.abs(left[np.isfinite(left)]).max(),
                                                             np.finfo("float64").tiny))
