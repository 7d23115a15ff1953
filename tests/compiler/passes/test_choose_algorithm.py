"""Where Winograd's algorithm or Fourier transforms take the place of a direct sum, and that they compute the same."""

import pytest

from compiler import programs
from compiler.layout import Layout
from tests.compiler.passes.kernels import BLOCK, check_numbers, planned, source

NET = "  output y = x -> conv(16, 3x3, pad = same) -> relu -> conv(8, 3x3) -> global_avg_pool"


def algorithms(graph) -> list[tuple[str, int]]:
    return [(n.op, n.attrs.get("tile", 0)) for n in graph.sorted() if n.op in ("conv", "winograd_conv", "fft_conv")]


def test_large_maps_take_tiles_of_four(tmp_path):
    net = source(tmp_path, NET, "16, 28, 30")
    graph, steps = planned(net)
    assert algorithms(graph) == [("winograd_conv", 4)] * 2
    assert all(r.taken and r.gain > 0 for r in steps["choose_algorithm"])
    weights = [graph[n.inputs[1]] for n in graph.nodes() if n.op == "winograd_conv"]
    assert all(w.op == "parameter" and w.attrs["packed"] for w in weights)
    assert all(graph.layouts[w.name] == Layout(BLOCK, axis=0) for w in weights)
    assert not any(n.op == "copy" for n in graph.nodes())
    check_numbers(net)


def test_the_input_has_zeros_around_it(tmp_path):
    body = "  output y = x -> conv(16) -> relu -> conv(16, 3x3, pad = 1) -> global_avg_pool"
    graph, _ = planned(source(tmp_path, body, "16, 28, 28"))
    conv, = (n for n in graph.nodes() if n.op == "winograd_conv")
    assert graph.layouts[conv.inputs[0]].halo == (1, 1, 1, 1)


@pytest.mark.parametrize("body, shape", [
    ("x -> conv(64, 3x3, pad = same)", "512, 3, 3"),             # four times the weights for one tile
    ("x -> conv(16, 3x3, stride = 2)", "16, 28, 28"),
    ("x -> conv(16, 3x3, dilation = 2)", "16, 28, 28"),
    ("x -> conv(16, 3x3, groups = 2)", "16, 28, 28"),
    ("x -> conv(16, 5x5)", "16, 5, 5"),                          # transforms for one result
    ("x -> conv(64, 5x5, pad = same)", "64, 7, 7"),              # larger weights for one tile
    ("x -> conv(64, 7x7, pad = same, groups = 64)", "64, 28, 28"),  # two transforms for one channel
    ("x -> conv(8, 11x11)", "1, 56, 56"),
    ("x -> conv(64, 7x7, stride = 2)", "64, 56, 56"),
    ("x -> conv(64, 7x7, groups = 4)", "64, 56, 56"),
    ("x -> conv(12, 11x11)", "16, 56, 56"),
    ("x -> conv(16, 3x3)", "3, 28, 28"),                         # channels of the image are no block
    ("x -> conv(12, 3x3)", "16, 28, 28"),
])
def test_what_stays_direct(tmp_path, body, shape):
    graph, steps = planned(source(tmp_path, f"  output y = {body} -> relu -> global_avg_pool", shape))
    assert {op for op, _ in algorithms(graph)} == {"conv"}
    assert not any(r.taken for r in steps["choose_algorithm"])


@pytest.mark.parametrize("conv, tile", [("conv(8, 15x11, pad = same)", 32), ("conv(16, 31x31, pad = same, groups = 16)", 64)])
def test_large_windows_take_transforms(tmp_path, conv, tile):
    net = source(tmp_path, f"  output y = x -> conv(16) -> relu -> {conv} -> relu -> global_avg_pool", "16, 30, 40")
    graph, steps = planned(net)
    assert ("fft_conv", tile) in algorithms(graph)
    assert all(r.gain > 0 for r in steps["choose_algorithm"] if r.taken)
    fft, = (n for n in graph.nodes() if n.op == "fft_conv")
    assert graph[fft.inputs[1]].attrs["packed"] and graph.layouts[fft.inputs[1]] == Layout(BLOCK, axis=0)
    check_numbers(net)


def test_exact_results_are_direct_sums(tmp_path):
    options = programs.Options(block=BLOCK, exact=True, check=True)
    net = NET.replace("conv(8, 3x3)", "conv(8, 11x11) -> conv(8, 3x3)")
    graph = programs.build(source(tmp_path, net, "16, 28, 28").program, ["run"], options)["run"]
    assert {op for op, _ in algorithms(graph)} == {"conv"}
    step, = (s for s in options.steps if s.name == "choose_algorithm")
    assert [r.why for r in step.rewrites] == ["results have to be exact"] * 3
