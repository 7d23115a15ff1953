"""Optimized = unoptimized, a light sample; `python -m tests.compiler.equivalence` runs 500 random nets and all specs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from compiler.ir import TensorType
from compiler.passes import fold_batch_norm
from tests.compiler.equivalence import OPTIMIZER, SPECS, check, check_compiled, culprits, spec_problem, wrong
from tests.compiler.nets import N, Net, nets

LIGHT = {"deep_linear": {"depth": 40},
         **{name: SPECS[name] for name in ("digits", "lenet", "mlp", "traffic_sign", "squeezenet")}}
FAST = settings(max_examples=5, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck))


@given(nets(modules=2, steps=5), OPTIMIZER)
@FAST
def test_passes_change_no_number_of_random_nets(net, optimizer):
    check(net, optimizer)


@given(nets(modules=1, steps=3), OPTIMIZER)
@settings(FAST, max_examples=1)
def test_passes_change_no_number_of_compiled_nets(net, optimizer):
    check_compiled(net, optimizer)


@pytest.mark.parametrize("name", LIGHT)
def test_passes_change_no_number_of_specs(name):
    assert not spec_problem(name, LIGHT[name])


def test_a_wrong_pass_is_found_and_named(monkeypatch):
    """The harness itself: a fold that forgets the shift is caught, and it is to blame."""
    found = fold_batch_norm._affine

    def without_shift(graph, node):
        affine = found(graph, node)
        return affine and replace(affine, read=lambda b: replace(affine.read(b), shift=None))

    monkeypatch.setattr(fold_batch_norm, "_affine", without_shift)
    net = Net()
    x = net.builder.input("image", TensorType("f32", (N, 3, 5, 5)), "input")
    net.graph.outputs["y"] = net.call("batch_norm", net.call("conv", x, ch=4)).name

    def failing(off: Collection[str] = ()) -> str:
        return wrong(net.graph, net.feeds(2), net.parameters(), off=off)

    assert "run, output y" in failing()
    assert culprits(failing) == "right without any of ['fold_batch_norm'], wrong with any of ['fold_batch_norm'] alone"
