"""What ops mean in numpy: held against their expansions and, where it has the op, against ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compiler.interpret import relative_error, run
from compiler.ops import REGISTRY
from compiler.passes.expand import expand
from tests.compiler.ops.table import CASES, Case, T, graph_of

EXPANDING = [case for case in CASES if REGISTRY[case.op].has("expand")]


@pytest.mark.parametrize("case", EXPANDING, ids=str)
def test_expansions_mean_the_same(case):
    graph, values = graph_of(case)
    primitive = expand(graph)
    assert not any(REGISTRY[node.op].has("expand") for node in primitive.nodes())
    want, got = (run(g, {}, values, "float64")[g.outputs["y"]] for g in (graph, primitive))
    assert relative_error(want, got) < 1e-7  # constants are f32


@pytest.mark.parametrize("case", CASES, ids=str)
def test_single_precision_is_near_double(case):
    graph, values = graph_of(case)
    exact, single = (run(graph, {}, values, dtype)["y"] for dtype in ("float64", "float32"))
    assert str(single.dtype) != "float64"
    assert relative_error(exact, single) < 1e-5


ONNX = {  # op → (ONNX op, its attributes from ours and the operand's rank, names of further operands)
    "conv": ("Conv", lambda a: {"kernel_shape": a["kernel"], "strides": a["stride"], "dilations": a["dilation"],
                                "group": a["groups"], "pads": [*(p[0] for p in a["pad"]), *(p[1] for p in a["pad"])]}),
    "max_pool": ("MaxPool", lambda a: {"kernel_shape": a["kernel"], "strides": a["stride"], "dilations": a["dilation"],
                                       "pads": [*(p[0] for p in a["pad"]), *(p[1] for p in a["pad"])],
                                       "ceil_mode": int(a["ceil"])}),
    "avg_pool": ("AveragePool", lambda a: {"kernel_shape": a["kernel"], "strides": a["stride"],
                                           "pads": [*(p[0] for p in a["pad"]), *(p[1] for p in a["pad"])],
                                           "ceil_mode": int(a["ceil"]),
                                           "count_include_pad": int(a["count_include_pad"])}),
    "lrn": ("LRN", lambda a: {"size": a["size"], "alpha": a["alpha"], "beta": a["beta"], "bias": a["k"]}),
    "batch_norm": ("BatchNormalization", lambda a: {"epsilon": a["eps"]}),
    "layer_norm": ("LayerNormalization", lambda a: {"epsilon": a["eps"], "axis": a["axes"][0]}),
    "softmax": ("Softmax", lambda a: {"axis": a["axis"]}),
    "log_softmax": ("LogSoftmax", lambda a: {"axis": a["axis"]}),
    "gelu": ("Gelu", lambda a: {"approximate": a["approximate"]}),
    "elu": ("Elu", lambda a: {"alpha": a["alpha"]}),
    "leaky_relu": ("LeakyRelu", lambda a: {"alpha": a["slope"]}),
    "hard_sigmoid": ("HardSigmoid", lambda a: {"alpha": 1 / 6, "beta": 0.5}),
    "transpose": ("Transpose", lambda a: {"perm": a["order"]}),
    "concat": ("Concat", lambda a: {"axis": a["axis"]}),
    "matmul": ("Gemm", lambda a: {"transA": int(a["transpose_a"]), "transB": int(a["transpose_b"])}),
    **{ours: (theirs, lambda a: {}) for ours, theirs in {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "abs": "Abs", "sign": "Sign",
        "exp": "Exp",
        "log": "Log", "sqrt": "Sqrt", "relu": "Relu", "selu": "Selu", "erf": "Erf", "hard_swish": "HardSwish",
        "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "flatten": "Flatten"}.items()},
}


def onnx_runtime(case: Case, node, inputs: dict[str, np.ndarray]) -> np.ndarray:
    kind, attributes = ONNX[case.op]
    made = helper.make_node(kind, list(inputs), ["y"], **attributes(node.attrs))
    graph = helper.make_graph([made], "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape)
                                            for n, v in inputs.items()],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize("case", [case for case in CASES if case.op in ONNX], ids=str)
def test_onnx_runtime_agrees(case):
    graph, values = graph_of(case)
    node = graph["y"]
    inputs = {name: values[name].astype("float32") for name in node.inputs}
    want = onnx_runtime(case, node, inputs)
    assert relative_error(want, run(graph, {}, values, "float64")["y"]) < 2e-5


def test_class_labels_out_of_range_make_the_loss_not_a_number():
    x, y = np.zeros((2, 3), "float32"), np.array([0, 3], "int32")
    graph, values = graph_of(Case("cross_entropy", (T((2, 3)), T((2,), "i32", high=3))))
    graph.update("x1", attrs={"value": y})
    assert np.isnan(run(expand(graph), {}, {"x0": x})["y"])


def test_top_k_counts_no_equal_scores_twice():
    graph, _ = graph_of(Case("top_k", (T((4, 3)), T((4,), "i32", high=3)), {"k": 1}))
    graph.update("x1", attrs={"value": np.array([0, 1, 2, 0], "int32")})
    for scores, share in ((np.zeros((4, 3)), 0.5), (np.full((4, 3), np.nan), 0.0)):
        assert run(expand(graph), {}, {"x0": scores})[expand(graph).outputs["y"]] == share
