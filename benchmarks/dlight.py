"""What TVM makes of a net by itself: Relax's operators, its fusion, and dlight's default schedules for GPUs (f32).

The peer of `benchmarks/cuda.py`. Bytes are counted as ours are: the unique tensors of each launch, read or written once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, s_tir, tirx
from tvm.s_tir import dlight
from tvm.target import Target
from tvm.tirx.build import split_host_device_mods

from compiler.cubin import Usage, usage
from compiler.cuda import Nvcc, Nvrtc
from compiler.ir import Graph, Node
from compiler.passes.select_mode import select_mode

SCHEDULES = (dlight.gpu.Matmul(), dlight.gpu.GEMV(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction(),
             dlight.gpu.Fallback())


@dataclass(frozen=True)
class Launch:
    """One kernel launch: the function's name, what it takes of the GPU; bytes and flops of the call it belongs to are
    those of its first launch."""

    name: str
    taken: Usage
    bytes: int
    flops: float


def launches(source: Graph, batch: int, compiler: Nvcc | Nvrtc, arch: str) -> list[Launch]:
    """The launches of a net in inference, in order."""
    target = Target({"kind": "cuda", "arch": arch}, host={"kind": "llvm", "mcpu": "x86-64"})
    passes = [relax.transform.DecomposeOpsForInference(), relax.transform.LegalizeOps(),
              relax.transform.AnnotateTIROpPattern(), relax.transform.FoldConstant(), relax.transform.FuseOps(), relax.transform.FuseTIR(),
              relax.transform.DeadCodeElimination()]
    with target:
        fused = tvm.ir.transform.Sequential(passes)(_module(select_mode(source, "deploy"), batch))
        scheduled = dlight.ApplyDefaultSchedule(*SCHEDULES)(fused)
    functions = {gv.name_hint: f for gv, f in scheduled.functions.items() if isinstance(f, tirx.PrimFunc)}
    kernels, taken = _compile(functions, target, compiler, arch)
    found = []
    for name, moved in _calls(scheduled["main"]):
        flops = s_tir.analysis.estimate_tir_flops(tvm.IRModule({name: fused[name]}))
        for number, kernel in enumerate(kernels[name]):
            found.append(Launch(kernel, taken[kernel], 0 if number else moved, 0 if number else flops))
    return found


def _calls(main: relax.Function) -> list[tuple[str, int]]:
    """(function, bytes of its tensors) of each call in order."""
    found = []
    for block in main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and call.op == tvm.ir.Op.get("relax.call_tir"):
                tensors = {arg: arg.ty for arg in call.args[1]}
                results = call.ty_args[0]
                types = [*tensors.values(), *(results.fields if isinstance(results, relax.TupleType) else [results])]
                found.append((call.args[0].name_hint, sum(_bytes(t) for t in types)))
    return found


def _bytes(type: Any) -> int:
    count = 4
    for extent in type.shape:
        count *= int(extent)
    return count


def _compile(functions: Mapping[str, tirx.PrimFunc], target: Target, compiler: Nvcc | Nvrtc,
             arch: str) -> tuple[dict[str, list[str]], dict[str, Usage]]:
    """The kernels of each function, and what each takes."""
    mod = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    pipeline, _, finish = tirx.get_tir_pipeline("s_tir")
    _, devices = split_host_device_mods(pipeline(tirx.transform.BindTarget(target)(mod)))
    device_mod = finish()(next(iter(devices.values())))
    os.environ["TVM_COMPILE_FORCE_FALLBACK"] = "1"  # else TVM compiles by itself where it finds a GPU
    text = tvm.get_global_func("target.build.cuda")(device_mod, target).inspect_source()
    taken = usage(compiler.compile(text, arch, {}))
    kernels: dict[str, list[str]] = {name: [] for name in functions}
    for kernel in sorted(taken, key=lambda name: (len(name), name)):
        kernels[kernel.rpartition("_kernel")[0]].append(kernel)
    return kernels, taken


# --- the net in Relax ------------------------------------------------------------------------------------------------


def _module(graph: Graph, batch: int) -> tvm.IRModule:
    """Weights come as kernels like them best: biases and the scale and shift that a batch norm amounts to in inference lie
    along channels, matrices are transposed."""
    builder, values = relax.BlockBuilder(), {}
    shapes: dict[str, tuple[int, ...]] = {}
    for node in graph.sorted():
        for which in {"conv": (2,), "batch_norm": (1, 2)}.get(node.op, ()):
            if which < len(node.inputs):
                shapes[node.inputs[which]] = (1, *graph[node.inputs[which]].type.shape, 1, 1)
        if node.op == "dense":
            shapes[node.inputs[1]] = graph[node.inputs[1]].type.shape[::-1]
    leaves = [n for n in graph.sorted() if n.op in ("input", "parameter", "constant")]
    for node in leaves:
        shape = [d if isinstance(d, int) else batch for d in shapes.get(node.name, node.type.shape)]
        type = relax.TensorType(shape, {"f32": "float32", "u8": "uint8"}[node.type.dtype])
        values[node.name] = relax.Var(f"v{len(values)}", type)
    with builder.function("main", [values[n.name] for n in leaves]):
        with builder.dataflow():
            for node in graph.sorted():
                if node.name not in values:
                    values[node.name] = builder.emit(_op(node, [values[i] for i in node.inputs], builder))
            out = builder.emit_output(values[next(iter(graph.outputs.values()))])
        builder.emit_func_output(out)
    return builder.get()


def _op(node: Node, xs: list[relax.Expr], builder: relax.BlockBuilder) -> relax.Expr:
    """One op of a net in Relax."""
    op, nn, a = relax.op, relax.op.nn, node.attrs
    if node.op in ("conv", "max_pool", "avg_pool"):
        pad = [p[0] for p in a["pad"]] + [p[1] for p in a["pad"]]
        if node.op == "conv":
            y = nn.conv2d(xs[0], xs[1], a["stride"], pad, a["dilation"], a["groups"])
            return y if len(xs) == 2 else op.add(builder.emit(y), xs[2])
        if node.op == "max_pool":
            return nn.max_pool2d(xs[0], a["kernel"], a["stride"], pad, a["dilation"], a["ceil"])
        return nn.avg_pool2d(xs[0], a["kernel"], a["stride"], pad, (1, 1), a["ceil"], a["count_include_pad"])
    if node.op == "batch_norm":
        return op.add(builder.emit(op.multiply(xs[0], xs[1])), xs[2])
    if node.op == "lrn":
        return _lrn(xs[0], a, builder)
    if node.op == "dense":
        y = builder.emit(op.matmul(xs[0], xs[1]))
        return y if len(xs) == 2 else op.add(y, xs[2])
    if node.op == "scale":
        x = builder.emit(op.multiply(builder.emit(op.astype(xs[0], "float32")), relax.const(a["by"], "float32")))
        return op.add(x, relax.const(a["offset"], "float32"))
    return {
        "relu": lambda: nn.relu(xs[0]), "tanh": lambda: op.tanh(xs[0]), "sigmoid": lambda: op.sigmoid(xs[0]),
        "relu6": lambda: nn.relu6(xs[0]), "add": lambda: op.add(*xs), "mul": lambda: op.multiply(*xs),
        "concat": lambda: op.concat(xs, a["axis"]), "flatten": lambda: nn.batch_flatten(xs[0]), "dropout": lambda: xs[0],
        "softmax": lambda: nn.softmax(xs[0], -1), "global_avg_pool": lambda: op.mean(xs[0], (2, 3), keepdims=True),
    }[node.op]()


def _lrn(x: relax.Expr, a: Mapping[str, Any], builder: relax.BlockBuilder) -> relax.Expr:
    """Local response normalization by an average over neighbouring channels."""
    op, (n, c, h, w) = relax.op, [int(d) for d in x.ty.shape]
    half = a["size"] // 2
    squares = builder.emit(op.reshape(builder.emit(op.multiply(x, x)), (n, 1, c, h * w)))
    mean = builder.emit(op.nn.avg_pool2d(squares, (a["size"], 1), (1, 1), (half, 0, half, 0), count_include_pad=True))
    mean = builder.emit(op.reshape(mean, (n, c, h, w)))
    scaled = builder.emit(op.multiply(mean, relax.const(a["alpha"], "float32")))
    base = builder.emit(op.add(scaled, relax.const(a["k"], "float32")))
    return op.divide(x, builder.emit(op.power(base, relax.const(a["beta"], "float32"))))
