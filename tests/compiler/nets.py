"""Random nets for property tests: hypothesis draws calls of the language's ops, wired into branches and joins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from compiler.build import Builder, Value
from compiler.dims import symbol
from compiler.initialize import initialize
from compiler.ir import Graph, Origin, TensorType

from compiler.ops.base import OpError
from tests.compiler.modules import module
from tests.compiler.ops.table import call

N = symbol("N")
CLASSES = 3
SMOOTH = ("tanh", "sigmoid", "silu", "softplus", "elu", "gelu", "square", "hard_swish")
KINKED = ("relu", "leaky_relu", "abs", "relu6", "hard_tanh", "clip", "prelu")


@dataclass
class Net:
    """A source graph under construction, and how each of its nodes was called (what hypothesis prints on failure)."""

    graph: Graph = field(default_factory=lambda: Graph("random"), repr=False)
    calls: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list, repr=False)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("\n".join(self.calls))

    @property
    def builder(self) -> Builder:
        return Builder(self.graph)

    def call(self, op: str, *operands: Value, **given: Any) -> Value | None:
        """Adds a call as the elaborator would; None where the op does not fit its operands."""
        name = f"v{len(self.calls)}"
        b = self.builder
        b.origins = frozenset({Origin(name, f"random.net:{len(self.calls) + 1}:1")})
        before = set(self.graph.nx)
        try:
            value = call(b, op, [b.value(x.name) for x in operands], name=name, **given)
        except OpError:
            for extra in [n for n in self.graph.nx if n not in before]:
                self.graph.remove(extra)
            return None
        self.calls.append(f"{name} = {op}({', '.join(x.name for x in operands)}, {given}) : {value.type}")
        self.values.append(value)
        return value

    def parameters(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Values for all weights, none of them zero, variances positive."""
        stream = np.random.default_rng(seed)
        values = initialize(self.graph, seed)
        return {p: v if v.ndim > 1 else (stream.uniform(0.5, 1.5, v.shape) if "var" in p else
                                         v + stream.uniform(-0.5, 0.5, v.shape)).astype(v.dtype) for p, v in values.items()}

    def feeds(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Inputs for all of the net's inputs and labels."""
        stream = np.random.default_rng(seed)
        out = {}
        for node in self.graph.leaves("input"):
            shape = tuple(batch if d == N else d for d in node.type.shape)
            out[node.name] = stream.integers(0, CLASSES, shape).astype("i4") if node.type.dtype == "i32" \
                else stream.integers(0, 256, shape).astype("u1") if node.type.dtype == "u8" \
                else stream.standard_normal(shape).astype("f4")
        return out


def pairs(low: int, high: int) -> Any:
    """A number for both axes, or one for each."""
    return st.one_of(st.integers(low, high), st.tuples(st.integers(low, high), st.integers(low, high)))


def paddings() -> Any:
    return st.one_of(st.sampled_from(["same", "valid"]), pairs(0, 2), st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * 2))


@st.composite
def nets(draw: Any, smooth: bool = False, steps: int = 8, modules: int = 0) -> Net:
    """A net on an image (or on rows) with 2 to `steps` random calls, a softmax output, a loss and a metric.

    smooth: without kinks (relu, max pooling, …), so that finite differences are meaningful everywhere. modules: how
    many of the calls at most are whole structures (`modules.py`).
    """
    net = Net()
    b = net.builder
    if draw(st.booleans()) and not smooth:
        image = b.input("image", TensorType("u8", (N, draw(st.integers(1, 3)), draw(st.integers(3, 9)),
                                                   draw(st.integers(3, 9)))), "input")
        net.call("scale", image, by=1 / 128, offset=-1.0)
    else:
        size = draw(st.integers(3, 7 if smooth else 10))
        net.values.append(b.input("image", TensorType("f32", (N, draw(st.integers(1, 4)), size, size + 1)), "input"))
    for _ in range(draw(st.integers(2, steps))):
        if modules and draw(st.integers(0, 2)) == 0:
            modules -= 1
            module(draw, net, smooth)
        else:
            _step(draw, net, smooth)
    _head(draw, net)
    return net


def _step(draw: Any, net: Net, smooth: bool) -> None:
    # Late values more often than early ones, so that nets become deep.
    x = draw(st.sampled_from(net.values[-3:] + net.values[-1:]))
    rank = x.type.rank
    kind = draw(st.sampled_from(["activation", "activation", "layer", "layer", "join", "shape", "normalize", "reduce"]))
    if kind == "activation":
        op = draw(st.sampled_from(SMOOTH if smooth else SMOOTH + KINKED))
        net.call(op, x, **({"low": -0.5, "high": 0.9} if op == "clip" else {}))
    elif kind == "layer" and rank == 4:
        _window(draw, net, x, smooth)
    elif kind == "layer" and rank == 2:
        net.call("dense", x, units=draw(st.integers(1, 9)), bias=draw(st.booleans()))
    elif kind == "join":
        _join(draw, net, x, smooth)
    elif kind == "normalize":
        op = draw(st.sampled_from(["batch_norm", "lrn", "softmax", "log_softmax", "layer_norm"]))
        # One element a channel has no variance to speak of: what then comes out is rounding noise.
        if op == "batch_norm" and rank == 2 or op == "layer_norm" and x.shape[-1] == 1:
            op = "softmax"
        net.call(op, x, **({"alpha": 0.5, "size": draw(st.sampled_from([3, 5]))} if op == "lrn" else
                           {"eps": 0.1} if op in ("batch_norm", "layer_norm") else {}))
    elif kind == "reduce" and rank > 2:
        op = draw(st.sampled_from(["mean", "sum"] + ([] if smooth else ["max", "min"])))
        net.call(op, x, axes=draw(st.sampled_from(["channel", "width", (1, rank - 1), (2,)])), keepdims=draw(st.booleans()))
    else:
        _reshape(draw, net, x)


def _window(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    op = draw(st.sampled_from(["conv", "conv", "conv", "avg_pool"] + ([] if smooth else ["max_pool", "max_pool"])))
    given = {"k": draw(pairs(1, 4)), "stride": draw(pairs(1, 3)), "pad": draw(paddings())}
    if op == "conv":
        groups = draw(st.sampled_from([g for g in (1, 1, 2, 3) if x.shape[1] % g == 0]))
        given |= {"ch": groups * draw(st.integers(1, 5)), "groups": groups, "dilation": draw(pairs(1, 2)),
                  "bias": draw(st.booleans())}
    else:
        given |= {"ceil": draw(st.booleans())}
        given |= {"count_include_pad": draw(st.booleans())} if op == "avg_pool" else {
            "dilation": draw(pairs(1, 2)) if min(x.shape[2:]) > 2 else 1}  # else a window may lie in the padding, all of it
    net.call(op, x, **given)


def _join(draw: Any, net: Net, x: Value, smooth: bool) -> None:
    op = draw(st.sampled_from(["add", "add", "sub", "mul", "concat", "div"] + ([] if smooth else ["maximum", "minimum"])))
    rank = x.type.rank
    if op == "concat":
        axis = draw(st.integers(1, rank - 1))
        alike = [v for v in net.values if v.type.rank == rank and all(
            a == b for i, (a, b) in enumerate(zip(v.shape, x.shape)) if i != axis)]
        net.call("concat", x, draw(st.sampled_from(alike)), *([x] if draw(st.booleans()) else []), axis=axis)
        return
    alike = [v for v in net.values if v.shape == x.shape and v.name != x.name and v.type.is_float]
    other = draw(st.sampled_from(alike)) if alike else None
    if other is None or draw(st.integers(0, 3)) == 0:  # what broadcasts: as in squeeze-and-excitation
        other = net.call("global_avg_pool", x) if rank > 2 else net.call("mean", x, axes=1, keepdims=True)
    if op in ("mul", "div"):  # keeps numbers from running away
        other = net.call("scale", net.call("sigmoid", other), by=1.0, offset=0.5)
    net.call(op, *((other, x) if op in ("sub", "add") and draw(st.booleans()) else (x, other)))


def _reshape(draw: Any, net: Net, x: Value) -> None:
    rank = x.type.rank
    op = draw(st.sampled_from(["flatten", "transpose", "slice", "pad", "global_avg_pool", "reshape"]))
    if op == "transpose":
        net.call(op, x, order=(0, *draw(st.permutations(range(1, rank)))))
    elif op == "slice":
        axis = draw(st.integers(1, rank - 1))
        net.call(op, x, axis=axis, start=draw(st.integers(-2, 1)), stop=draw(st.sampled_from([None, -1, 2, 3])))
    elif op == "pad":
        net.call(op, x, pad=draw(st.integers(0, 2)), value=draw(st.sampled_from([0.0, 1.5])))
    elif op == "reshape" and rank == 4:
        n, c, h, w = x.shape
        net.call(op, x, shape=draw(st.sampled_from([(n, c, h * w), (n, c * h, w), (n, c, w, h), (n, 1, c * h, w)])))
    elif op in ("flatten", "global_avg_pool"):
        net.call(op, x)


def _head(draw: Any, net: Net) -> None:
    """Logits from the last value (and an older one, so that branches matter), output, loss and metric."""
    b, graph = net.builder, net.graph
    label = b.input("label", TensorType("i32", (N,)), "label")
    parts = [net.values[-1]]
    if draw(st.booleans()):
        parts.append(draw(st.sampled_from(net.values)))
    flat = [v if v.type.rank == 2 else net.call("flatten", v) for v in parts]
    joined = flat[0] if len(flat) == 1 else net.call("concat", *flat, axis=1)
    logits = net.call("dense", joined, units=CLASSES)
    graph.outputs["p"] = net.call("softmax", logits).name
    if draw(st.booleans()):
        graph.outputs["inner"] = draw(st.sampled_from([v for v in net.values if graph[v.name].op != "input"])).name
    graph.losses["loss"] = net.call("cross_entropy", logits, b.value(label.name)).name
    if draw(st.booleans()):
        graph.losses["second"] = net.call("mean", net.call("square", net.values[0])).name \
            if net.values[0].type.is_float else graph.losses["loss"]
    graph.metrics["accuracy"] = net.call("accuracy", logits, b.value(label.name)).name
