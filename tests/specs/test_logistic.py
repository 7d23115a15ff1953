"""logistic.net as it ships converges to scikit-learn's solution of the same problem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

import netc

SPEC = Path(__file__).parent.parent.parent / "specs" / "logistic.net"


def test_training_finds_the_solution_of_scikit_learn(tmp_path):
    """Weight decay d adds d/2 |W|^2 to the mean loss of n examples; scikit-learn minimizes |W|^2 / 2 + C times the sum of
    the losses: the same minimum where C = 1 / (n d). Neither penalizes the bias; the sum of the biases, which no
    probability depends on, stays 0 with both."""
    table = np.genfromtxt(SPEC.parent / "data" / "iris.csv", delimiter=",", skip_header=1, usecols=range(4))
    names = np.genfromtxt(SPEC.parent / "data" / "iris.csv", delimiter=",", skip_header=1, usecols=4, dtype=str)
    net = netc.load(SPEC)
    decay = net.train_config["optimizer"]["args"]["weight_decay"]
    peer = LogisticRegression(C=1 / (len(table) * decay), tol=1e-10, max_iter=100_000).fit(table, names)
    netc.train(SPEC, out=tmp_path / "run")
    exe = net.compile(params=tmp_path / "run" / "best.safetensors")
    np.testing.assert_allclose(exe.parameters["logits.weight"], peer.coef_, atol=1e-3)
    np.testing.assert_allclose(exe.parameters["logits.bias"], peer.intercept_, atol=1e-3)
    np.testing.assert_allclose(exe(x=table)["p"], peer.predict_proba(table), atol=1e-3)
