"""Products on emulated tensor cores: operands of tf32, f16 and bf16, beside the interpreter's."""

import pytest

from compiler.build import Builder
from compiler.ir import Graph
from tests.compiler.schedule.emulated import LAST, PACKED, N, check, f32, graph_of, kernels
from tests.compiler.schedule.test_cuda_gemm import ODD, SAME
from tests.runtime.emulated import needs_emulator

pytestmark = needs_emulator


def multiplied(source):
    """Whether a kernel uses tensor cores."""
    return any("netc_mma_m16n8k8_tf32(" in text for text in kernels(source))


@pytest.mark.parametrize("attrs, layouts, result", [(SAME, (LAST, PACKED), LAST), (SAME, (), None), (ODD, (LAST, None), LAST)])
def test_tf32(attrs, layouts, result):
    kernel = attrs["kernel"]
    graph = graph_of("conv", attrs | {"products": "tf32"}, [f32(N, 8, 7, 8), f32(24, 8, *kernel), f32(24)], layouts, result,
                     lambda b, y: b.op("relu", y))
    assert multiplied(check(graph, rtol=2e-3))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_operands_of_16_bits(dtype):
    graph = Graph()
    b = Builder(graph)
    low = [b.op("cast", b.input(name, f32(N, size), "input"), dtype=dtype) for name, size in (("x", 40), ("y", 20))]
    graph.outputs |= {f"same{i}": b.op("cast", value, dtype="f32").name for i, value in enumerate(low)}
    graph.outputs["z"] = b.op("cast", b.op("matmul", *low, transpose_a=True, transpose_b=False), dtype="f32").name
    assert multiplied(check(graph, batches=(1, 37), rtol=1e-6, whole=True))  # products are exact


def test_parts_of_long_sums():
    graph = graph_of("conv", SAME | {"products": "tf32"}, [f32(N, 128, 5, 5), f32(32, 128, 3, 3)], (LAST, PACKED), LAST)
    source = check(graph, rtol=5e-3, order="random:2")
    assert multiplied(source) and source.count("netc_last_block(") > 1
