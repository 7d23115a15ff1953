"""Optimized = unoptimized, a light sample: `python -m tests.compiler.equivalence` runs 500 random nets and every spec."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from compiler.passes.base import PASSES
from compiler.passes.pipeline import PIPELINE
from tests.compiler.equivalence import OPTIMIZER, SPECS, check, check_compiled, culprits, spec_problem
from tests.compiler.nets import nets

LIGHT = ("deep_linear", "digits", "lenet", "logistic", "mlp", "traffic_sign", "squeezenet")
FAST = settings(max_examples=8, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck))


@given(nets(modules=3, steps=6), OPTIMIZER)
@FAST
def test_passes_change_no_number_of_random_nets(net, optimizer):
    check(net, optimizer)


@given(nets(modules=1, steps=3), OPTIMIZER)
@settings(FAST, max_examples=2)
def test_passes_change_no_number_of_compiled_nets(net, optimizer):
    check_compiled(net, optimizer)


@pytest.mark.parametrize("name", LIGHT)
def test_passes_change_no_number_of_specs(name):
    assert not spec_problem(name, SPECS[name])


def test_a_wrong_pass_is_found_and_named(monkeypatch):
    """The harness itself: a fold that forgets the shift is caught, and it is to blame."""
    from compiler.passes import fold_batch_norm as module
    found = module._affine

    def without_shift(graph, node):
        affine = found(graph, node)
        return affine and module.Found(affine.x, affine.shifts, lambda b: module.Affine(affine.read(b).scale, None))

    monkeypatch.setattr(module, "_affine", without_shift)
    problem = spec_problem("resnet", SPECS["resnet"], backward=False)
    assert "run, output" in problem
    blame = culprits(lambda off: spec_problem("resnet", SPECS["resnet"], off, backward=False), ["fold_batch_norm", "clean"])
    assert blame == "right without any of ['fold_batch_norm'], wrong with any of ['fold_batch_norm'] alone"
    assert set(PIPELINE) <= set(PASSES)
