"""The first values of weights: the initializers of the language, each tensor from a random stream of its own.

A tensor's stream depends on the seed and the weight's path only: adding a layer changes no other layer's first weights,
and the order in which tensors are made does not matter.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from compiler.ir import DTYPES, Graph, Node

# name → its arguments
INITIALIZERS: dict[str, tuple[str, ...]] = {
    "he": (), "xavier": (), "orthogonal": (), "zeros": (), "ones": (), "constant": ("v",), "normal": ("std",),
    "uniform": ("bound",),
}


def initialize(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """The first value of every `parameter` node by its name, in the node's dtype. `seed` is a whole number from 0."""
    return {node.name: initial(node, seed) for node in graph.leaves("parameter")}


def initial(node: Node, seed: int) -> np.ndarray:
    """The first value of a parameter node: attrs `init` is (name, argument…) or an array, `fans` (fan_in, fan_out)."""
    dtype = DTYPES[node.type.dtype]
    init, shape = node.attrs["init"], node.type.shape
    if isinstance(init, np.ndarray):
        return np.ascontiguousarray(np.broadcast_to(init, shape), dtype)
    return draw(init[0], init[1:], shape, node.attrs["fans"], stream(seed, node.name)).astype(dtype)


def stream(seed: int, path: str) -> np.random.Generator:
    """The random stream of the weight at `path`: Philox keyed by SHA-256 of seed and path, alike on every machine."""
    digest = hashlib.sha256(f"{seed}\0{path}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw(name: str, args: tuple[float, ...], shape: tuple[int, ...], fans: tuple[int, int],
         random: np.random.Generator) -> np.ndarray:
    """An f64 array of `shape`.

    he: normal, variance 2 / fan_in (He et al., arXiv:1502.01852). xavier: uniform, bound sqrt(6 / (fan_in + fan_out))
    (Glorot and Bengio, AISTATS 2010). orthogonal: rows or columns orthonormal, all axes but the first taken as one
    (Saxe et al., arXiv:1312.6120). normal(std), uniform(bound): around 0.
    """
    fan_in, fan_out = fans
    if name in ("zeros", "ones", "constant"):
        return np.full(shape, {"zeros": 0.0, "ones": 1.0}.get(name, args[0] if args else 0.0))
    if name == "he":
        return random.normal(0.0, math.sqrt(2.0 / fan_in), shape)
    if name == "xavier":
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        return random.uniform(-bound, bound, shape)
    if name == "normal":
        return random.normal(0.0, args[0], shape)
    if name == "uniform":
        return random.uniform(-args[0], args[0], shape)
    if name == "orthogonal":
        return orthogonal(shape, random)
    raise ValueError(f"no initializer {name!r}")


def orthogonal(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """A matrix with orthonormal rows (or columns, whichever are fewer), by QR of a normal matrix, signs made unique."""
    if len(shape) < 2:
        return random.normal(0.0, 1.0, shape)
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return (q if rows >= columns else q.T).reshape(shape)
