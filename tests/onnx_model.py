"""A deployed net as an ONNX model, for ONNX Runtime to check and to race: the ops that the shipped specs use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compiler import dims
from compiler.ir import DTYPES, Graph, Node
from compiler.passes.select_mode import select_mode

TYPES = {"f32": TensorProto.FLOAT, "u8": TensorProto.UINT8, "i32": TensorProto.INT32}


def to_onnx(source: Graph, values: Mapping[str, np.ndarray]) -> bytes:
    """The source graph of a net, as it is deployed, with its weights by path; the batch stays symbolic."""
    graph = select_mode(source, "deploy")
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(op: str, inputs: list[str], output: str, **attributes) -> None:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))

    for node in graph.sorted():
        if node.op == "parameter":
            constant(node.name, values[node.name])
        elif node.op == "constant":
            constant(node.name, node.attrs["value"])
        elif node.op != "input":
            _translate(graph, node, add, constant)
    for name, result in graph.outputs.items():
        add("Identity", [result], f"output:{name}")
    inputs = [helper.make_tensor_value_info(n.name, TYPES[n.type.dtype],
                                            [str(d) if dims.symbols(d) else d for d in n.type.shape])
              for n in graph.leaves("input")]
    outputs = [helper.make_tensor_value_info(f"output:{name}", TYPES[graph[n].type.dtype], None)
               for name, n in graph.outputs.items()]
    model = helper.make_model(helper.make_graph(nodes, graph.name, inputs, outputs, constants),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _translate(graph: Graph, node: Node, add, constant) -> None:
    a, ins, out = node.attrs, list(node.inputs), node.name
    simple = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "add": "Add", "mul": "Mul", "dropout": "Identity",
              "global_avg_pool": "GlobalAveragePool"}
    if node.op in simple:
        add(simple[node.op], ins, out)
    elif node.op == "conv":
        add("Conv", ins, out, kernel_shape=a["kernel"], strides=a["stride"], dilations=a["dilation"], group=a["groups"],
            pads=_pads(a))
    elif node.op == "dense":
        add("Gemm", ins, out, transB=1)
    elif node.op == "max_pool":
        add("MaxPool", ins, out, kernel_shape=a["kernel"], strides=a["stride"], pads=_pads(a), ceil_mode=int(a["ceil"]))
    elif node.op == "avg_pool":
        add("AveragePool", ins, out, kernel_shape=a["kernel"], strides=a["stride"], pads=_pads(a),
            ceil_mode=int(a["ceil"]), count_include_pad=int(a["count_include_pad"]))
    elif node.op == "batch_norm":
        add("BatchNormalization", ins, out, epsilon=a["eps"])
    elif node.op == "relu6":
        add("Clip", [*ins, constant(f"{out}/low", np.array(0, "f4")), constant(f"{out}/high", np.array(6, "f4"))], out)
    elif node.op == "lrn":
        add("LRN", ins, out, alpha=a["alpha"], beta=a["beta"], bias=a["k"], size=a["size"])
    elif node.op == "concat":
        add("Concat", ins, out, axis=a["axis"])
    elif node.op == "flatten":
        add("Flatten", ins, out)
    elif node.op == "softmax":
        add("Softmax", ins, out, axis=-1)
    elif node.op == "scale":
        add("Cast", ins, f"{out}/cast", to=TensorProto.FLOAT)
        add("Mul", [f"{out}/cast", constant(f"{out}/by", np.array(a["by"], "f4"))], f"{out}/mul")
        add("Add", [f"{out}/mul", constant(f"{out}/offset", np.array(a["offset"], "f4"))], out)
    else:
        raise NotImplementedError(f"no translation of {node.op} ({node.type}, {DTYPES[node.type.dtype]})")


def _pads(a: Mapping) -> list[int]:
    return [p[0] for p in a["pad"]] + [p[1] for p in a["pad"]]
