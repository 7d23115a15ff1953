"""specs/digits.net on the emulated GPU: the loss of every step is that of the CPU."""

from pathlib import Path

import numpy as np

import netc
from runtime.execute import Executable
from tests.runtime.emulated import needs_emulator
from tests.small import step_feeds

pytestmark = needs_emulator
SPECS = Path(__file__).parents[2] / "specs"
STEPS, CHECKED = 40, 2


def losses(artifact, steps: int) -> list[float]:
    exe = Executable(artifact)
    data = np.load(SPECS / "data" / "digits.npz")
    found = []
    for step in range(steps):
        examples = np.random.default_rng(step).integers(0, len(data["image"]), 32)
        feeds = step_feeds(exe, step, 2e-3, image=data["image"][examples], digit=data["digit"][examples].astype("i4"))
        found.append(float(exe.call("step", feeds)["loss"]))
    return found


def test_digits_trains_as_on_the_cpu(monkeypatch):
    net = netc.load(SPECS / "digits.net")
    cpu = losses(net.build("train", "cpu", seed=1), STEPS)
    emulated = net.build("train", "cuda-emulator", seed=1)
    monkeypatch.setenv("NETC_EMULATOR_CHECK", "0")
    np.testing.assert_allclose(losses(emulated, STEPS), cpu, rtol=0, atol=1e-4)
    assert cpu[-1] < cpu[0] / 2
    monkeypatch.setenv("NETC_EMULATOR_CHECK", "1")
    monkeypatch.setenv("NETC_EMULATOR_ORDER", "random:2")
    np.testing.assert_allclose(losses(emulated, CHECKED), cpu[:CHECKED], rtol=0, atol=1e-4)
