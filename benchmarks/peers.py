"""What inference is raced against: engines that take the ONNX model of a net, and PyTorch as it runs without compiling.

A peer is (title, call, result): `call()` runs the net once on the given inputs, `result()` is the first output of the last call.
"""

from collections.abc import Callable, Mapping

import numpy as np

from compiler.ir import Graph, Node
from compiler.passes.select_mode import select_mode

Peer = tuple[str, Callable[[], object], Callable[[], np.ndarray]]
HINTS = {"onnxruntime": "pip install -e '.[bench]'", "openvino": "pip install -e '.[bench]'",
         "torch": "pip install -e '.[bench]' (the CPU build is enough: pip install torch "
                  "--index-url https://download.pytorch.org/whl/cpu)"}


def open_peer(name: str, model: bytes, graph: Graph, values: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray],
              threads: int, precision: str = "f32") -> Peer:
    """The named peer with its inputs in place; OpenVINO in `precision`, where it can. Raises ModuleNotFoundError where it is
    not installed."""
    if name == "torch":
        return _torch(graph, values, feeds, threads)
    return _onnxruntime(model, feeds, threads) if name == "onnxruntime" else _openvino(model, feeds, threads, precision)


def _onnxruntime(model: bytes, feeds: Mapping[str, np.ndarray], threads: int) -> Peer:
    import onnxruntime
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return f"onnxruntime {onnxruntime.__version__}", lambda: session.run(None, feeds), lambda: session.run(None, feeds)[0]


def _openvino(model: bytes, feeds: Mapping[str, np.ndarray], threads: int, precision: str) -> Peer:
    import openvino
    core = openvino.Core()
    read = core.read_model(model, b"")
    read.reshape({name: list(array.shape) for name, array in feeds.items()})  # as ours: made for this batch
    compiled = core.compile_model(read, "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
                                                "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    for name, array in feeds.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    computed = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    note = "" if precision == "f32" else f" {computed}" if computed == precision else f" {computed}, no {precision} here"
    return (f"openvino {openvino.__version__.partition('-')[0]}{note}", request.infer,
            lambda: request.get_output_tensor(0).data.copy())


def _torch(source: Graph, values: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray], threads: int) -> Peer:
    import torch
    torch.set_num_threads(threads)
    graph = select_mode(source, "deploy")
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    weights = {n.name: torch.from_numpy(values[n.name]) for n in graph.sorted() if n.op == "parameter"}
    weights |= {n.name: torch.from_numpy(n.attrs["value"]) for n in graph.sorted() if n.op == "constant"}
    last = next(iter(graph.outputs.values()))

    def call() -> torch.Tensor:
        found = {**weights}
        with torch.inference_mode():
            for node in graph.sorted():
                if node.op == "input":
                    found[node.name] = given[node.name]
                elif node.name not in found:
                    found[node.name] = _eager(torch, node, [found[i] for i in node.inputs])
        return found[last]

    return f"torch {torch.__version__}", call, lambda: call().numpy()


def _eager(torch, node: Node, xs: list):
    """One op of a net in PyTorch."""
    F, a = torch.nn.functional, node.attrs
    if node.op in ("conv", "max_pool", "avg_pool"):
        low, high = [p[0] for p in a["pad"]], [p[1] for p in a["pad"]]
        pad = low
        if low != high:
            sides = [side for before, after in zip(reversed(low), reversed(high)) for side in (before, after)]
            xs, pad = [F.pad(xs[0], sides, value=-torch.inf if node.op == "max_pool" else 0.0), *xs[1:]], 0
        if node.op == "conv":
            return F.conv2d(*xs, stride=a["stride"], padding=pad, dilation=a["dilation"], groups=a["groups"])
        if node.op == "max_pool":
            return F.max_pool2d(xs[0], a["kernel"], a["stride"], pad, a["dilation"], a["ceil"])
        return F.avg_pool2d(xs[0], a["kernel"], a["stride"], pad, a["ceil"], a["count_include_pad"])
    if node.op == "batch_norm":
        return F.batch_norm(xs[0], xs[3], xs[4], xs[1], xs[2], eps=a["eps"])
    return {
        "relu": lambda: F.relu(xs[0]), "relu6": lambda: F.relu6(xs[0]), "tanh": lambda: torch.tanh(xs[0]),
        "sigmoid": lambda: torch.sigmoid(xs[0]), "add": lambda: xs[0] + xs[1], "mul": lambda: xs[0] * xs[1],
        "lrn": lambda: F.local_response_norm(xs[0], a["size"], a["alpha"], a["beta"], a["k"]),
        "concat": lambda: torch.cat(xs, a["axis"]), "flatten": lambda: xs[0].flatten(1), "dense": lambda: F.linear(*xs),
        "dropout": lambda: xs[0], "softmax": lambda: F.softmax(xs[0], -1),
        "global_avg_pool": lambda: F.adaptive_avg_pool2d(xs[0], 1),
        "scale": lambda: xs[0].float() * a["by"] + a["offset"],
    }[node.op]()
