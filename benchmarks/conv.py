"""Every distinct convolution of GoogLeNet, with bias and ReLU, ours beside ONNX Runtime's blocked one, one thread each.

    python benchmarks/conv.py [--batch 1] [--repeats 15] [--exact] [--layers 3a 4e] [--json FILE]
    python benchmarks/conv.py --large [--batch 1]
    python benchmarks/conv.py --gradients [--batch 16] [--layers …]

Both kernels run alone in this process, interleaved, on tensors that stay in place; medians of processor time. `speed`
is ONNX Runtime's time divided by ours: above 1 we are faster. GFLOP/s count the direct sum, whatever the algorithm;
`--exact` leaves Winograd's and Fourier's out. The total weighs each shape by how often GoogLeNet has it.

`--large` takes windows of 5x5 to 31x31 on 64 maps of 56x56, and an image of one channel, in the place of GoogLeNet's.
`--gradients` measures the kernels of a training step instead: each convolution, its gradient of the input and of the weight
(with the bias's), and what share of the forward's GFLOP/s the gradients reach.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["NETC_NUM_THREADS"] = os.environ["TVM_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import netc  # noqa: E402
from runtime.measure import random_feeds  # noqa: E402

# Inputs, size of the map, outputs of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection (Szegedy et al. 2015).
INCEPTION = {"3a": (192, 28, 64, 96, 128, 16, 32, 32), "3b": (256, 28, 128, 128, 192, 32, 96, 64),
             "4a": (480, 14, 192, 96, 208, 16, 48, 64), "4b": (512, 14, 160, 112, 224, 24, 64, 64),
             "4c": (512, 14, 128, 128, 256, 24, 64, 64), "4d": (512, 14, 112, 144, 288, 32, 64, 64),
             "4e": (528, 14, 256, 160, 320, 32, 128, 128), "5a": (832, 7, 256, 160, 320, 32, 128, 128),
             "5b": (832, 7, 384, 192, 384, 48, 128, 128)}

CONVS = {"conv", "fft_conv", "winograd_conv"}
BLOCKED = "com.microsoft.nchwc"  # the domain of ONNX Runtime's ops on blocked channels

Shape = tuple[int, int, int, int, int, int]  # inputs, outputs, size, kernel, stride, padding


def shapes() -> dict[Shape, tuple[str, int]]:
    """Each distinct shape: the first layer that has it, and how many there are."""
    found: list[tuple[Shape, str]] = [((3, 64, 224, 7, 2, 3), "conv1"), ((64, 64, 56, 1, 1, 0), "conv2r"),
                                      ((64, 192, 56, 3, 1, 1), "conv2")]
    for name, (c, size, c1, r3, c3, r5, c5, proj) in INCEPTION.items():
        found += [((c, c1, size, 1, 1, 0), f"{name}/1x1"), ((c, r3, size, 1, 1, 0), f"{name}/3x3r"),
                  ((r3, c3, size, 3, 1, 1), f"{name}/3x3"), ((c, r5, size, 1, 1, 0), f"{name}/5x5r"),
                  ((r5, c5, size, 5, 1, 2), f"{name}/5x5"), ((c, proj, size, 1, 1, 0), f"{name}/pool")]
    count = Counter(shape for shape, _ in found)
    return {shape: (next(name for s, name in found if s == shape), count[shape]) for shape in count}


def large() -> dict[Shape, tuple[str, int]]:
    """Convolutions with large windows, as `shapes` gives them."""
    found = {(64, 64, 56, k, 1, k // 2): (f"{k}x{k}", 1) for k in (5, 7, 11, 15, 31)}
    return {**found, (1, 64, 56, 11, 1, 5): ("image", 1)}


def text(shape: Shape) -> str:
    """The layer behind a convolution and before a pooling, so that it reads and writes what it would in a network."""
    c, o, size, k, stride, pad = shape
    first = "x" if c < 8 else f"x -> conv({c}) -> relu"
    return f"""net layer {{
  input x: f32[N, {min(c, 8)}, {size}, {size}]
  first = {first}
  y = first -> conv({o}, {k}x{k}, stride = {stride}, pad = {pad}) -> relu
  output pooled = y -> max_pool(3x3, stride = 1, pad = 1)
}}
"""


def ours(shape: Shape, batch: int, folder: str, off: tuple[str, ...]):
    """A call of our layer's kernel, one of the whole net, the input, the weights, and seconds of compilation."""
    path = Path(folder) / "layer.net"
    path.write_text(text(shape))
    start = time.perf_counter()
    exe = netc.load(path).compile(batch=batch, off=off)
    seconds = time.perf_counter() - start
    c, _, size, *_ = shape
    x = np.random.default_rng(0).standard_normal((batch, min(c, 8), size, size), dtype=np.float32)
    bound = exe.bind("run", {"x": x})
    number = max(i for i, kernel in enumerate(exe.programs["run"]["kernels"]) if CONVS & set(kernel["ops"]))
    bound()
    return lambda: bound(number, number + 1), bound, x, exe.parameters.tensors("weight"), seconds


def gradients(shape: Shape, batch: int, repeats: int, folder: str) -> dict[str, float]:
    """GFLOP/s of a convolution in training, of its gradient of the input, and of that of weight and bias; medians."""
    c, o, size, k, stride, pad = shape
    path = Path(folder) / "step.net"
    body = text(shape).replace("  output pooled", "  label class: i32[N] in 10\n  output pooled").replace(
        "\n}", "\n  loss cross_entropy(pooled -> global_avg_pool -> flatten -> dense(10), class)\n}")
    path.write_text(body + f"""
data d {{ source = "npz:d.npz", batch = {batch} }}

train fit {{ net = layer, data = d, optimizer = sgd(lr = 0.01), run = 1 epochs }}
""")
    exe = netc.load(path).compile("train")
    bound = exe.bind("step", random_feeds(exe, "step", dict.fromkeys(exe.programs["step"]["symbols"], batch)))
    bound()
    out = (size + 2 * pad - k) // stride + 1
    flops, found = 2 * batch * o * out * out * c * k * k, {}
    for op in ("conv", "conv_input_grad", "conv_weight_grad"):
        kernels = [i for i, kernel in enumerate(exe.programs["step"]["kernels"])
                   if op in kernel["ops"] and any(layer.startswith("y") for layer in kernel["layers"])]
        if kernels:
            times = [seconds_of(lambda: [bound(i, i + 1) for i in kernels], 1) for _ in range(repeats)]
            found[op] = flops / statistics.median(times) / 1e9
    return found


def compare_gradients(options: argparse.Namespace) -> None:
    """The table of `--gradients`."""
    print(f"{'layer':<9} {'shape':<28}{'forward':>9}{'input':>9}{'ratio':>7}{'weight':>9}{'ratio':>7}")
    for shape, (name, _) in shapes().items():
        if not name.startswith(tuple(options.layers)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = gradients(shape, options.batch, options.repeats, folder)
        c, o, size, k, stride, _ = shape
        title = f"{c}->{o} {size}x{size} {k}x{k}" + (f" /{stride}" if stride > 1 else "")
        cells = "".join(f"{found[op]:9.1f}{found[op] / found['conv']:7.2f}" if op in found else f"{'':>16}"
                        for op in ("conv_input_grad", "conv_weight_grad"))
        print(f"{name:<9} {title:<28}{found['conv']:9.1f}{cells}", flush=True)


def session(nodes: list, tensors: dict[str, np.ndarray], x: np.ndarray, out: tuple[int, ...]):
    """A call of an ONNX graph x -> y on one thread, and where its result lies."""
    graph = helper.make_graph(nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
                              [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in tensors.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = made.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    result = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(out, np.float32))
    binding.bind_ortvalue_output("y", result)
    return lambda: made.run_with_iobinding(binding), result


def theirs(shape: Shape, x: np.ndarray, weights: dict[str, np.ndarray]):
    """A call of ONNX Runtime's own blocked convolution, and what its net of standard ops computes.

    The blocked op is what ONNX Runtime puts in the place of a convolution within a network; the layouts it converts to
    and from are not part of its time. Its weights would have to be reordered to mean the same, which changes no time.
    """
    c, o, size, k, stride, pad = shape
    sizes = dict(kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)
    out = (len(x), o, (size + 2 * pad - k) // stride + 1, (size + 2 * pad - k) // stride + 1)
    tensors = {name.replace("/", "_"): value for name, value in weights.items()}
    first = [helper.make_node("Conv", ["x", "first_conv.weight", "first_conv.bias"], ["f"], kernel_shape=[1, 1]),
             helper.make_node("Relu", ["f"], ["p"])] if c >= 8 else [helper.make_node("Identity", ["x"], ["p"])]
    call, result = session([*first, helper.make_node("Conv", ["p", "y_conv.weight", "y_conv.bias"], ["z"], **sizes),
                            helper.make_node("Relu", ["z"], ["r"]),
                            helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)],
                           tensors, x, out)
    call()
    conv = helper.make_node("Conv", ["x", "y_conv.weight", "y_conv.bias"], ["y"], domain=BLOCKED, activation="Relu",
                            dilations=[1, 1], group=1, **sizes)
    source = np.random.default_rng(1).standard_normal((len(x), c, size, size), dtype=np.float32)
    tensors = {name: value for name, value in tensors.items() if name.startswith("y_")}
    return session([conv], tensors, source, out)[0], result.numpy().copy()


def seconds_of(call, times: int) -> float:
    """Processor time of one call: what other processes take of a busy machine does not count."""
    start = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - start) / times


def measure(shape: Shape, batch: int, repeats: int, folder: str, off: tuple[str, ...]) -> dict:
    """One row of the table. Fails if the two results differ."""
    c, o, size, k, stride, pad = shape
    mine, net, x, weights, compile_s = ours(shape, batch, folder, off)
    peer, want = theirs(shape, x, weights)
    error = float(abs(net.results["pooled"] - want).max() / abs(want).max())
    if error > 3e-5:
        raise SystemExit(f"{shape}: results differ by {error:.1e} of the largest")
    times = max(1, int(2e-3 / seconds_of(mine, 2)))
    pairs = [(seconds_of(mine, times), seconds_of(peer, times)) for _ in range(repeats)]
    a, b = (statistics.median(column) for column in zip(*pairs))
    fastest = [min(column) for column in zip(*pairs)]
    out = (size + 2 * pad - k) // stride + 1
    flops = 2 * batch * o * out * out * c * k * k
    return {"shape": shape, "ours_ms": a * 1e3, "ort_ms": b * 1e3, "speed": b / a, "ours_gflops": flops / a / 1e9,
            "ort_gflops": flops / b / 1e9, "fastest_ms": [t * 1e3 for t in fastest], "compile_s": compile_s,
            "error": error}


def machine() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, onnxruntime {onnxruntime.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--layers", nargs="+", default=[""])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    print(machine())
    if options.gradients:
        compare_gradients(options)
        return
    print(f"{'layer':<9} {'shape':<28} {'ours ms':>9} {'GFLOP/s':>8} {'ORT ms':>9} {'GFLOP/s':>8} {'speed':>6}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape, (name, count) in (large() if options.large else shapes()).items():
            if not name.startswith(tuple(options.layers)):
                continue
            row = {"layer": name, "count": count, **measure(
                shape, options.batch, options.repeats, folder, ("choose_algorithm",) if options.exact else ())}
            rows.append(row)
            c, o, size, k, stride, _ = shape
            text = f"{c}->{o} {size}x{size} {k}x{k}" + (f" /{stride}" if stride > 1 else "")
            print(f"{name:<9} {text:<28} {row['ours_ms']:9.3f} {row['ours_gflops']:8.1f} {row['ort_ms']:9.3f} "
                  f"{row['ort_gflops']:8.1f} {row['speed']:6.2f}", flush=True)
    ours_ms, ort_ms = (sum(row[key] * row["count"] for row in rows) for key in ("ours_ms", "ort_ms"))
    best = [sum(row["fastest_ms"][who] * row["count"] for row in rows) for who in (0, 1)]
    slowest = min(rows, key=lambda row: row["speed"])
    print(f"all {sum(row['count'] for row in rows)} convolutions, batch {options.batch}: ours {ours_ms:.2f} ms, "
          f"ONNX Runtime {ort_ms:.2f} ms, speed {ort_ms / ours_ms:.2f}; "
          f"slowest {slowest['layer']} {slowest['speed']:.2f}")
    print(f"fastest of {options.repeats} instead of medians, for a busy machine: ours {best[0]:.2f} ms, "
          f"ONNX Runtime {best[1]:.2f} ms, speed {best[1] / best[0]:.2f}")
    if options.json:
        table = {"machine": machine(), "batch": options.batch, "layers": rows}
        Path(options.json).write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
