"""Every op of the language at several shapes and settings, and how to build and check one call of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from compiler.build import Builder, Value
from compiler.ir import DTYPES, Graph, Node, TensorType
from compiler.ops import REGISTRY, namespace


@dataclass(frozen=True)
class T:
    """A tensor operand: shape, dtype, and the range its values are drawn from (integers: below `high`)."""

    shape: tuple[int, ...]
    dtype: str = "f32"
    low: float = -2.0
    high: float = 2.0

    def draw(self, stream: np.random.Generator) -> np.ndarray:
        if self.dtype == "bool":
            return stream.integers(0, 2, self.shape).astype(bool)
        if self.dtype != "f32":
            return stream.integers(0, int(self.high), self.shape).astype(DTYPES[self.dtype])
        # All values of a tensor differ and keep away from 0, so that kinks and ties are not met by accident.
        steps = stream.permutation(int(np.prod(self.shape))).reshape(self.shape)
        values = self.low + (self.high - self.low) * (steps + 0.5 + 0.2 * stream.random(self.shape)) / steps.size
        return np.where(np.abs(values) < 0.02, 0.05, values)


@dataclass(frozen=True)
class Case:
    op: str
    operands: tuple[T, ...]
    given: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = ",".join(f"{k}={v}" for k, v in self.given.items() if not isinstance(v, np.ndarray))
        return f"{self.op}({settings})[{' '.join('x'.join(map(str, t.shape)) for t in self.operands)}]"

    def arrays(self) -> list[np.ndarray]:
        stream = np.random.default_rng(zlib.crc32(str(self).encode()))
        return [t.draw(stream) for t in self.operands]


def call(b: Builder, op: str, xs: list[Value], name: str = "y", **given: Any) -> Value:
    """One call as the elaborator makes it: attributes from arguments, weights as `parameter` nodes named
    `name.weight`."""
    declared = REGISTRY[op]
    known = {arg.name: arg.default for arg in declared.args() if arg.kind not in ("tensor", "tensors")}
    assert given.keys() <= known.keys(), f"{op} has no {given.keys() - known.keys()}"
    arguments = SimpleNamespace(**{**known, **given})
    types = [x.type for x in xs]
    attrs = declared.attrs(arguments, *types)
    weights = declared.weights(arguments, namespace(attrs), *types)
    for weight, w in weights.items():
        b.graph.add(Node(f"{name}.{weight}", "parameter", (), TensorType("f32", tuple(w.shape)), {
            "init": w.init, "fans": w.fans, "trainable": w.trainable, "state": w.state, "decay": w.decay, "lr": w.lr}))
    return b.op(op, *xs, *(b.value(f"{name}.{w}") for w in weights), name=name, **attrs)


def graph_of(case: Case) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph whose node `y` is the call; floating operands x0, x1, … and weights are parameters, so that all have
    gradients; the others are constants. With the parameters' values."""
    graph = Graph(case.op)
    b = Builder(graph)
    stream = np.random.default_rng(zlib.crc32(str(case).encode()) + 1)
    xs, values = [], {}
    for i, (operand, array) in enumerate(zip(case.operands, case.arrays())):
        if operand.dtype == "f32":
            graph.add(Node(f"x{i}", "parameter", (), TensorType("f32", operand.shape), {"trainable": True}))
            values[f"x{i}"] = array
            xs.append(b.value(f"x{i}"))
        else:
            xs.append(b.constant(array, operand.dtype, name=f"x{i}"))
    graph.outputs["y"] = call(b, case.op, xs, **case.given).name
    for node in graph.leaves("parameter"):
        if node.name not in values:
            positive = "var" in node.name
            values[node.name] = stream.uniform(0.3 if positive else -0.8, 1.2 if positive else 0.8, node.type.shape)
    return graph, values


IMAGE, LINE, ROW = T((2, 4, 5, 6)), T((2, 4, 7)), T((3, 8))
PLUS = T((2, 3, 4), low=0.2, high=3.0)

CASES = [
    *(Case(op, (IMAGE, other)) for op in ("add", "sub", "mul", "maximum", "minimum")
      for other in (T((2, 4, 5, 6)), T((4, 1, 1)), T((1, 4, 5, 1)), T(()))),
    *(Case("div", (x, T(y, low=0.5))) for x, y in ((IMAGE, (2, 4, 5, 6)), (IMAGE, (6,)), (T((6,)), (2, 6)))),
    *(Case(op, (IMAGE,)) for op in ("neg", "abs", "sign", "square", "exp", "relu", "leaky_relu", "elu", "selu", "erf",
                                    "gelu",
                                    "relu6", "hard_tanh", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "tanh",
                                    "softplus")),
    *(Case(op, (T((3, 50), low=-9.0, high=9.0),)) for op in ("relu6", "hard_sigmoid", "hard_swish", "hard_tanh",
                                                             "sigmoid",
                                                            "tanh", "softplus", "gelu", "elu", "selu", "erf", "silu")),
    *(Case(op, (PLUS,)) for op in ("log", "sqrt", "rsqrt")),
    *(Case("pow", (PLUS,), {"exponent": e}) for e in (2.0, -0.75, 0.5, 3.0, 0.3, 1.25, -1.0, 0.0)),
    *(Case(op, (T((3, 4), "i32", high=4), T((3, 4), "i32", high=4)))
      for op in ("less", "less_equal", "greater", "greater_equal", "equal")),
    Case("greater", (ROW, T((8,)))),
    Case("where", (T((3, 1), "bool"), ROW, T((8,)))),
    Case("cast", (T((3, 4), "u8", high=255),)), Case("cast", (ROW,)), Case("cast", (ROW,), {"dtype": "i32"}),
    Case("cast", (T((3, 4), "bool"),)),
    Case("scale", (T((2, 3, 4), "u8", high=255),), {"by": 1 / 255}), Case("scale", (ROW,), {"by": 3.0, "offset": -1.0}),
    Case("leaky_relu", (ROW,), {"slope": 0.3}), Case("elu", (ROW,), {"alpha": 0.5}),
    Case("gelu", (ROW,), {"approximate": "tanh"}), Case("clip", (IMAGE,), {"low": -0.5, "high": 1.0}),
    Case("prelu", (IMAGE,)), Case("prelu", (ROW,)),
    Case("maxout", (IMAGE,)), Case("maxout", (ROW,), {"pieces": 4}),

    Case("conv", (IMAGE,), {"ch": 3, "k": (3, 3)}),
    Case("conv", (IMAGE,), {"ch": 3, "k": (3, 2), "stride": 2, "pad": "same", "bias": False}),
    Case("conv", (IMAGE,), {"ch": 6, "k": 3, "stride": (2, 1), "pad": ((1, 0), (2, 1)), "groups": 2}),
    Case("conv", (IMAGE,), {"ch": 4, "k": 2, "dilation": 2, "pad": 1, "groups": 4}),
    Case("conv", (T((1, 1, 9, 9)),), {"ch": 2, "k": 3, "stride": 3, "dilation": (1, 3)}),
    Case("conv", (LINE,), {"ch": 2, "k": 3, "pad": "same"}),
    Case("conv", (LINE,), {"ch": 4, "k": 2, "stride": 3, "dilation": 2, "groups": 2, "bias": False}),
    Case("dense", (ROW,), {"units": 5}), Case("dense", (ROW,), {"units": 1, "bias": False}),
    *(Case("matmul", (T((4, 3) if ta else (3, 4)), T((5, 4) if tb else (4, 5))), {"transpose_a": ta, "transpose_b": tb})
      for ta in (False, True) for tb in (False, True)),

    *(Case("max_pool", (IMAGE,), g) for g in (
        {"k": (2, 2)}, {"k": (3, 3), "stride": 2, "pad": 1}, {"k": (3, 3), "stride": 1, "pad": "same"},
        {"k": (2, 3), "stride": (2, 1), "dilation": (2, 1)}, {"k": (3, 3), "stride": 2, "ceil": True},
        {"k": (2, 2), "stride": 3}, {"k": (2, 2), "stride": 2, "pad": 1, "ceil": True})),
    Case("max_pool", (LINE,), {"k": 3, "stride": 2, "pad": ((1, 0),)}),
    Case("max_pool", (LINE,), {"k": 3, "stride": 2, "dilation": 2, "pad": 1}),
    *(Case("avg_pool", (IMAGE,), g) for g in (
        {"k": (2, 2)}, {"k": (3, 3), "stride": 2, "pad": 1}, {"k": (3, 3), "stride": 2, "pad": 1,
                                                              "count_include_pad": True},
        {"k": (3, 3), "stride": 2, "ceil": True}, {"k": (2, 2), "stride": 2, "pad": 1, "ceil": True},
        {"k": (3, 3), "stride": 2, "pad": 1, "ceil": True, "count_include_pad": True},
        {"k": (2, 3), "stride": 1, "pad": "same"}, {"k": (2, 2), "stride": 3})),
    Case("avg_pool", (LINE,), {"k": 3, "stride": 2, "pad": ((1, 0),)}),
    *(Case(op, (x,), {"keepdims": keep}) for op in ("global_avg_pool", "global_max_pool") for x in (IMAGE, LINE)
      for keep in (True, False)),

    Case("flatten", (IMAGE,)), Case("flatten", (ROW,)),
    Case("reshape", (IMAGE,), {"shape": (2, -1, 3)}), Case("reshape", (IMAGE,), {"shape": (10, 24)}),
    Case("reshape", (IMAGE,), {"shape": (1, 2, 20, 3, 2)}), Case("reshape", (T((6, 4)),), {"shape": (4, 6)}),
    Case("transpose", (IMAGE,), {"order": (0, 2, 3, 1)}), Case("transpose", (ROW,), {"order": (1, 0)}),
    Case("broadcast_to", (T((4, 1)),), {"shape": (2, 4, 3)}),
    Case("pad", (IMAGE,), {"pad": 1}), Case("pad", (IMAGE,), {"pad": ((0, 2), (1, 0)), "value": 3.0}),
    Case("slice", (IMAGE,), {"axis": "channel", "start": 1, "stop": 3}),
    Case("slice", (ROW,), {"axis": 1, "start": -3}),
    Case("concat", (IMAGE, T((2, 1, 5, 6)), T((2, 3, 5, 6)))), Case("concat", (ROW, T((2, 8))), {"axis": 0}),

    *(Case(op, (x,), g) for op in ("sum", "mean", "max", "min") for x, g in (
        (IMAGE, {}), (IMAGE, {"axes": ("height", "width")}), (IMAGE, {"axes": (0, 2), "keepdims": True}),
        (ROW, {"axes": (1,)}))),
    Case("argmax", (ROW,)), Case("argmax", (IMAGE,), {"axis": "width", "keepdims": True}), Case("argmin", (IMAGE,)),
    *(Case(op, (x,), g) for op in ("softmax", "log_softmax") for x, g in (
        (ROW, {}), (IMAGE, {}), (IMAGE, {"axis": -1}), (T((3, 6), low=-80.0, high=80.0), {}))),

    Case("normalize", (IMAGE,), {"mean": [0.1, 0.2, 0.3, 0.4], "std": [1, 2, 3, 0.5]}),
    Case("batch_norm", (IMAGE,)), Case("batch_norm", (ROW,), {"eps": 0.1}),
    Case("layer_norm", (ROW,)), Case("layer_norm", (IMAGE,), {"axes": (1, 2, 3)}), Case("layer_norm", (T((2, 3, 5)),)),
    Case("lrn", (IMAGE,), {"alpha": 0.5}), Case("lrn", (T((2, 7, 3, 2)),),
                                                {"size": 3, "alpha": 2.0, "beta": 0.6, "k": 2.0}),
    Case("dropout", (ROW,)),

    *(Case(op, (T((5, 4)), T((5,), dtype, high=4))) for op in ("cross_entropy", "nll", "hinge", "accuracy")
      for dtype in ("i32", "u8")),
    *(Case(op, (T((2, 4, 3, 2)), T((2, 3, 2), "i32", high=4))) for op in ("cross_entropy", "nll", "hinge", "accuracy",
                                                                          "top_k")),
    Case("cross_entropy", (T((5, 4)), T((5,), "i32", high=4)), {"label_smoothing": 0.1}),
    Case("top_k", (T((9, 8)), T((9,), "i32", high=8)), {"k": 3}),
    *(Case(op, (T(s), T(s, low=-1.0))) for op in ("mse", "l1", "hinge", "mean_absolute_error", "binary_cross_entropy")
      for s in ((5,), (5, 3))),
    Case("binary_cross_entropy", (T((5, 1), low=-60.0, high=60.0), T((5, 1), "i32", high=2))),
    Case("mse", (T((4, 2)), T((4, 2), "i32", high=3))),
]
