"""Whole networks against ONNX Runtime: the deployed program of every classifier that is shipped."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import netc
from runtime.measure import random_feeds
from tests.onnx_model import to_onnx

SPECS = Path(__file__).parent.parent.parent / "specs"


@pytest.mark.parametrize("name", ["digits", "googlenet", "lenet", "logistic", "mlp", "traffic_sign"])
def test_deployed_nets_agree_with_onnx_runtime(name):
    net = netc.load(SPECS / f"{name}.net")
    exe = net.compile(seed=3)
    session = onnxruntime.InferenceSession(to_onnx(net.graph, exe.parameters.tensors("weight", "state")),
                                           providers=["CPUExecutionProvider"])
    for batch in (1, 3) if name != "googlenet" else (2,):
        feeds = random_feeds(exe, "run", {s: batch for s in exe.programs["run"]["symbols"]}, seed=batch)
        got = exe(**feeds)
        for output, want in zip(session.get_outputs(), session.run(None, dict(feeds))):
            ours = got[output.name.removeprefix("output:")]
            assert np.abs(ours - want).max() <= 1e-5 * np.abs(want).max()
