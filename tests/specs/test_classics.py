"""The classic networks: as large as published, layer by layer, and their numbers those of ONNX Runtime.

Whole networks run through the passes and the interpreter on small images, and their blocks are compiled; the networks
at their full size, compiled, are what `benchmarks/inference.py` holds against ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import netc
from compiler import programs
from compiler.interpret import relative_error, run as interpret
from compiler.ir import Graph
from compiler.summary import summarize
from compiler.verify import verify
from dsl.diagnostics import DiagnosticError
from tests.onnx_model import to_onnx
from tests.specs.weights import random_weights

SPECS = Path(__file__).parent.parent.parent / "specs"

COUNTS = [
    ("squeezenet", {"version": 1.0}, 1_248_424), ("squeezenet", {}, 1_235_496), ("mobilenet", {}, 3_504_872),
    ("inception_v3", {}, 23_834_568), ("inception_v3", {"aux": True}, 27_161_264),
    ("resnet", {"depth": 18}, 11_689_512), ("resnet", {"depth": 34}, 21_797_672), ("resnet", {}, 25_557_032),
    ("resnet", {"depth": 101}, 44_549_160), ("vgg", {}, 138_357_544), ("vgg", {"deep": 4}, 143_667_240),
]

# name, settings → channels and height of each conv, pool and concat that changes either, in order.
MAPS = [
    ("squeezenet", {"version": 1.0}, "96x109 96x54 128x54 256x54 256x27 384x27 512x27 512x13 1000x13 1000x1"),
    ("squeezenet", {}, "64x111 64x55 128x55 128x27 256x27 256x13 384x13 512x13 1000x13 1000x1"),
    ("vgg", {}, "64x224 64x112 128x112 128x56 256x56 256x28 512x28 512x14 512x7"),
    ("resnet", {"depth": 18}, "64x112 64x56 128x28 256x14 512x7 512x1"),
    ("resnet", {}, "64x112 64x56 256x56 512x28 1024x14 2048x7 2048x1"),
    ("mobilenet", {}, "32x112 16x112 24x56 32x28 64x14 96x14 160x7 320x7 1280x7 1280x1"),
    ("inception_v3", {}, "32x149 32x147 64x147 64x73 80x73 192x71 192x35 256x35 288x35 768x17 1280x8 2048x8 2048x1"),
]
# What lies within a branch or block, of which only the result is one of the maps above.
INSIDE = ("/s/", "/e1/", "/e3/", "/h/", "/z/", "/shortcut/", "/b1/", "/b3/", "/b5/", "/b7/", "/bd/", "/bp", "/r3/",
          "/rd/", "/cbr")

# name, settings with small images → for the interpreter.
SMALL = [
    ("squeezenet", {"version": 1.0, "side": 48}), ("squeezenet", {"side": 48}), ("mobilenet", {"side": 40}),
    ("resnet", {"depth": 18, "side": 40}), ("resnet", {"side": 40}), ("inception_v3", {"side": 79}),
    ("vgg", {"side": 32, "hidden": 64}),
]

# file, calls → blocks that are compiled, on 19x17 pixels.
BLOCKS = [
    ("squeezenet", "b.fire(8, 24) -> b.pool"),
    ("vgg", "b.stage(24, 2)"),
    ("resnet", "b.bottleneck(4, stride = 2) -> b.basic(16)"),
    ("mobilenet", "b.inverted(12, expansion = 1) -> b.inverted(12) -> b.inverted(20, stride = 2)"),
    ("inception_v3", "b.inception_a(32) -> b.reduction_a"),
    ("inception_v3", "b.inception_b(16) -> b.reduction_b"),
]


@pytest.mark.parametrize("name, settings, parameters", COUNTS, ids=str)
def test_parameters_are_those_that_were_published(name, settings, parameters):
    net = netc.load(SPECS / f"{name}.net", settings=settings)
    assert summarize(verify(net.graph))[1]["params"] == parameters


@pytest.mark.parametrize("name, settings, maps", MAPS, ids=str)
def test_maps_are_those_of_the_published_layers(name, settings, maps):
    found = []
    for row in summarize(netc.load(SPECS / f"{name}.net", settings=settings).graph)[0]:
        shape = row["output"].rstrip("]").split(", ")
        inside = any(part in row["layer"] for part in INSIDE) and not row["layer"].startswith("stem/")
        if len(shape) != 4 or inside and "/project/" not in row["layer"]:
            continue
        if f"{shape[1]}x{shape[2]}" not in found[-1:]:
            found.append(f"{shape[1]}x{shape[2]}")
    assert " ".join(found) == maps


@pytest.mark.parametrize("name, setting", [("squeezenet", {"version": 1.2}), ("resnet", {"depth": 20})])
def test_there_is_no_other_version(name, setting):
    with pytest.raises(DiagnosticError) as caught:
        netc.load(SPECS / f"{name}.net", settings=setting)
    assert "maps" in str(caught.value)


def test_the_auxiliary_head_is_left_out_of_what_is_deployed():
    graph = netc.load(SPECS / "inception_v3.net", settings={"aux": True}).graph
    assert len(graph.losses) == 2
    assert not any("side_logits" in node.name for node in programs.run(graph).nodes())


def peer(graph: Graph, values: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by ONNX Runtime."""
    session = onnxruntime.InferenceSession(to_onnx(graph, values), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {name.removeprefix("output:"): array for name, array in zip(names, session.run(names, feeds))}


@pytest.mark.parametrize("name, settings", SMALL, ids=str)
def test_what_is_optimized_computes_what_onnx_runtime_does(name, settings):
    graph = netc.load(SPECS / f"{name}.net", settings=settings).graph
    graph.outputs["logits"] = graph[graph.outputs["p"]].inputs[0]  # a softmax alone would hide much
    values = random_weights(graph)
    feeds = {"image": np.random.default_rng(1).standard_normal((2, 3, settings["side"], settings["side"])).astype("f4")}
    options = programs.Options(check=True)
    optimized = programs.run(graph, options)
    folded = [r for step in options.steps if step.name == "fold_batch_norm" for r in step.rewrites if r.taken]
    assert len(folded) == sum(node.op == "batch_norm" for node in graph.nodes())
    got, want = interpret(optimized, feeds, values), peer(graph, values, feeds)
    for key, node in optimized.outputs.items():
        assert relative_error(want[key], got[node]) <= 1e-5, key


@pytest.mark.parametrize("name, calls", BLOCKS, ids=str)
def test_blocks_compile(name, calls, tmp_path):
    path = tmp_path / "block.net"
    path.write_text(f'import "{name}.net" as b\n\nnet block {{\n  input x: f32[N, 12, 19, 17]\n'
                    f"  output y = x -> {calls}\n}}\n")
    net = netc.load(path)
    values = random_weights(net.graph)
    exe = net.compile(params=values)
    x = np.random.default_rng(1).standard_normal((2, 12, 19, 17)).astype("f4")
    assert relative_error(peer(net.graph, values, {"x": x})["y"], exe(x=x)["y"]) <= 1e-5
