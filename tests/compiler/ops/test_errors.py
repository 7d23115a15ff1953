"""Calls that cannot be: each gives its code, a message in the user's words, and the argument at fault."""

import numpy as np
import pytest

from compiler.build import Builder
from compiler.dims import symbol
from compiler.ir import Graph, TensorType
from compiler.ops import REGISTRY, OpError, namespace
from tests.compiler.ops.table import call

N = symbol("N")
IMAGE, BYTES, ROW = ("f32", (N, 8, 6, 6)), ("u8", (N, 1, 6, 6)), ("f32", (N, 10))
LABEL, NARROW = ("i32", (N,)), ("f32", (N, 8, 3, 3))

WRONG = [
    ("E0301", "dense", [IMAGE], {"units": 3}), ("E0301", "conv", [ROW], {"ch": 3}),
    ("E0301", "max_pool", [ROW], {"k": 2}),
    ("E0301", "global_avg_pool", [ROW], {}), ("E0301", "matmul", [IMAGE, ROW], {}), ("E0301", "pad", [ROW], {"pad": 1}),
    ("E0302", "add", [IMAGE, NARROW], {}), ("E0302", "broadcast_to", [ROW], {"shape": (N, 5)}),
    ("E0303", "conv", [BYTES], {"ch": 3}), ("E0303", "relu", [BYTES], {}), ("E0303", "add", [IMAGE, BYTES], {}),
    ("E0303", "cross_entropy", [ROW, ("f32", (N,))], {}), ("E0303", "mean", [BYTES], {}),
    ("E0303", "where", [ROW] * 3, {}),
    ("E0304", "conv", [("f32", (N, 3, N, N))], {"ch": 3, "k": 3, "stride": 2, "pad": "same"}),
    ("E0304", "dense", [("f32", (N, N))], {"units": 2}), ("E0304", "split", [ROW], {"parts": 2, "axis": 0}),
    ("E0304", "max_pool", [("f32", (N, 3, N, N))], {"k": 3, "stride": 2, "ceil": True}),
    ("E0305", "conv", [IMAGE], {"ch": 3, "k": 7}), ("E0305", "avg_pool", [IMAGE], {"k": 9}),
    ("E0306", "reshape", [ROW], {"shape": (N, 3, 3)}), ("E0306", "reshape", [ROW], {"shape": (N, 3, -1)}),
    ("E0307", "concat", [IMAGE, NARROW], {}), ("E0308", "matmul", [ROW, ROW], {}),
    ("E0309", "mse", [("f32", (N, 1)), ("f32", (N,))], {}), ("E0309", "accuracy", [IMAGE, LABEL], {}),
    ("E0401", "softmax", [ROW], {"axis": 2}), ("E0401", "softmax", [ROW], {"axis": "height"}),
    ("E0402", "transpose", [IMAGE], {"order": (0, 1, 2, 2)}), ("E0402", "sum", [IMAGE], {"axes": (1, -3)}),
    ("E0402", "layer_norm", [IMAGE], {"axes": (1,)}),
    ("E0403", "conv", [IMAGE], {"ch": 0}), ("E0403", "conv", [IMAGE], {"ch": 1, "k": 3, "pad": -1}),
    ("E0403", "dropout", [ROW], {"rate": 1.0}), ("E0403", "lrn", [IMAGE], {"size": 4}),
    ("E0403", "max_pool", [IMAGE], {"k": 2, "stride": 0}), ("E0403", "clip", [ROW], {"low": 1.0, "high": 0.0}),
    ("E0404", "conv", [IMAGE], {"ch": 6, "groups": 4}), ("E0404", "maxout", [IMAGE], {"pieces": 3}),
    ("E0405", "conv", [IMAGE], {"ch": 3, "k": (3, 3, 3)}), ("E0405", "normalize", [IMAGE], {"mean": [0], "std": [1]}),
    ("E0406", "conv", [IMAGE], {"ch": 3, "k": 3, "weight": np.ones((2, 2))}),
    ("E0406", "dense", [ROW], {"units": 2, "weight": [1]}),
    ("E0408", "slice", [IMAGE], {"axis": 1, "start": 3, "stop": 9}), ("E0408", "split", [IMAGE], {"sizes": (3, 3)}),
    ("E0409", "max_pool", [IMAGE], {"k": 2, "pad": 2}), ("E0410", "reshape", [ROW], {"shape": (-1, -1)}),
    ("E0410", "split", [IMAGE], {}),
]


@pytest.mark.parametrize("code, op, operands, given", WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_calls_have_their_code(code, op, operands, given):
    b = Builder(Graph())
    xs = [b.input(f"x{i}", TensorType(*t), "input") for i, t in enumerate(operands)]
    with pytest.raises(OpError) as problem:
        call(b, op, xs, **given)
    assert problem.value.code == code
    assert problem.value.argument is None or problem.value.argument in {arg.name for arg in REGISTRY[op].args()}


def test_dense_says_how_to_flatten():
    b = Builder(Graph())
    with pytest.raises(OpError) as problem:
        call(b, "dense", [b.input("x", TensorType("f32", (N, 10, 5, 5)), "input")], units=3)
    assert problem.value.message == "`dense` needs a rank-2 input, got f32[N, 10, 5, 5]"
    assert problem.value.hint == "put `-> flatten` before it"


@pytest.mark.parametrize("given", [{"parts": 4}, {"sizes": (2, 2, 2, 2)}])
def test_split_gives_its_pieces(given):
    b = Builder(Graph())
    x = b.input("x", TensorType(*IMAGE), "input")
    op = REGISTRY["split"]
    known = {arg.name: arg.default for arg in op.args() if arg.kind != "tensor"}
    pieces = op.expand_results(b, namespace(op.attrs(namespace({**known, **given}), x.type)), x)
    assert [piece.type for piece in pieces] == [TensorType("f32", (N, 2, 6, 6))] * 4
    assert [b.graph[piece.name].attrs["start"] for piece in pieces] == [0, 2, 4, 6]
