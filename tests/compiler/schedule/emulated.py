"""Compiles a small graph with the CUDA schedules and runs it on the emulated GPU, with all its checks, against numpy."""

from __future__ import annotations

import json
import os
import re
from unittest import mock

import numpy as np

from compiler import cuda, dims, interpret, lower
from compiler.build import Builder
from compiler.ir import DTYPES, Graph, Node, TensorType
from compiler.kernels import with_kernels
from compiler.layout import Layout
from compiler.schedule.cuda import emit
from runtime.execute import Executable
from runtime.format import Artifact

N = dims.symbol("N")
LAST = Layout(order=(0, 2, 3, 1))  # channels innermost
PACKED = Layout(order=(2, 3, 1, 0))  # outputs innermost


def f32(*shape) -> TensorType:
    return TensorType("f32", shape)


def graph_of(op: str, attrs: dict, types: list[TensorType], layouts: list[Layout | None] = (), result: Layout | None = None,
             tail=None) -> Graph:
    """`op` of inputs (types with a symbol) and parameters, which copies bring into their layouts. tail(builder, value): what
    follows."""
    graph = Graph()
    b = Builder(graph)
    operands = []
    for i, type in enumerate(types):
        if dims.symbols(type.size):
            value = b.input(f"x{i}", type, "input")
        else:
            graph.add(Node(f"w{i}", "parameter", (), type, {}))
            value = b.value(f"w{i}")
        if layout := layouts[i] if i < len(layouts) else None:
            value = b.op("copy", value)
            graph.layouts[value.name] = layout
            graph.outputs[f"same{i}"] = b.op("copy", value).name  # what has two readers is a kernel of its own
        operands.append(value)
    y = b.op(op, *operands, **attrs)
    if tail:
        y = tail(b, y)
    if result:
        graph.layouts[y.name] = result
        y = b.op("copy", y)
    graph.outputs["y"] = y.name
    return graph


def compiled(graph: Graph, design: int = 1) -> tuple[Executable, str]:
    graph = with_kernels(graph)
    lowering = lower.Lowering(emit, lower.layout([graph]), counters=True)
    entry = lowering.program("run", graph, design)
    built = cuda.build(lowering.module, [])
    members = {"host.o": built.host_object, "kernels.cu": built.source.encode(), "kernels.json": json.dumps(built.functions).encode(),
               **{f"kernels.{arch}.cubin": binary for arch, binary in built.binaries.items()}}  # none, but on a GPU
    slots = lowering.slots
    manifest = {"net": "test", "target": {"name": "cuda-emulator", "kind": "cuda", "archs": []}, "programs": {"run": entry},
                "parameter_bytes": lowering.parameter_bytes,
                "parameters": [{"path": name, "dtype": DTYPES[graph[name].type.dtype], "shape": list(graph[name].type.shape),
                                "offset": s.offset, "bytes": s.bytes, "kind": "weight"} for name, s in slots.items()]}
    return Executable(Artifact(manifest, members), "cuda-emulator"), built.source


def check(graph: Graph, batches=(1, 3), design: int = 1, order: str = "random:1", rtol: float = 1e-4,
          whole: bool = False) -> str:
    """Every batch computes what the interpreter does in f64; returns the CUDA source. whole: of small whole numbers."""
    rng = np.random.default_rng(0)

    def draw(type, n):
        shape = [dims.evaluate(d, {"N": n}) for d in type.shape]
        if whole:
            return rng.integers(-2, 3, shape).astype(DTYPES[type.dtype])
        return rng.normal(size=shape).astype("f4") if type.is_float else rng.integers(0, 5, shape).astype(DTYPES[type.dtype])

    with mock.patch.dict(os.environ, {"NETC_EMULATOR_CHECK": "1", "NETC_EMULATOR_ORDER": order}):
        exe, source = compiled(graph, design)
        params = {p.name: draw(p.type, 0) for p in graph.leaves("parameter")}
        for name, value in params.items():
            exe.parameters[name] = value
        for n in batches:
            feeds = {x.name: draw(x.type, n) for x in graph.leaves("input")}
            got = exe(**feeds)
            want = interpret.run(graph, feeds, params, "float64")
            for key, name in graph.outputs.items():
                np.testing.assert_allclose(got[key], want[name], rtol=rtol, atol=rtol * 0.1 * max(1.0, abs(want[name]).max(initial=0)))
    return source


def kernels(source: str) -> list[str]:
    """The bodies of the kernels of a CUDA source."""
    return re.split(r'(?=extern "C" __global__)', source)[1:]
