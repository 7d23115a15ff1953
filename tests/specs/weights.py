"""Weights for nets with batch normalization: statistics that differ, so that folding them wrongly shows."""

import numpy as np

from compiler.initialize import initialize
from compiler.ir import Graph


def random_weights(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for all weights of a source graph, none of them a neutral one; variances are positive, and factors below 1
    keep sums of residuals from growing."""
    stream = np.random.default_rng(seed)
    ranges = {"running_var": (0.5, 1.5), "weight": (0.3, 0.9)}
    return {path: value if value.ndim > 1 else
            stream.uniform(*ranges.get(path.split(".")[-1], (-0.2, 0.2)), value.shape).astype("f4")
            for path, value in initialize(graph, seed).items()}
