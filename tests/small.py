"""Small nets that several tests compile, and what one of their steps of training takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import netc
from runtime.execute import Executable

ROWS = """lang 1
net small {
  input x: f32[N, 4]
  label y: i32[N] in 3
  logits = x -> dense(8) -> softmax -> dense(3)
  output p = logits -> softmax
  loss cross_entropy(logits, y)
}
data none { source = "npz:none.npz", batch = 5 }
train fit { optimizer = sgd(lr = 0.1), run = 1 epochs }
"""
IMAGES = """lang 1
net tiny {
  input image: u8[N, 1, 5, 5]
  label kind: i32[N] in 3
  logits = image -> scale(1/255) -> conv(4, 3x3) -> relu -> max_pool(2x2, stride = 1) -> flatten -> dense(3)
  output p = logits -> softmax
  loss cross_entropy(logits, kind)
}
data none { source = "npz:none.npz", batch = 6 }
train fit { optimizer = adam(lr = 0.01), run = 1 epochs }
"""


def loaded(folder: Path, text: str) -> netc.Net:
    """The net of a text, from a file in `folder`."""
    path = folder / "x.net"
    path.write_text(text)
    return netc.load(path)


def step_feeds(exe: Executable, step: int, lr: float, **batch: np.ndarray) -> dict[str, np.ndarray]:
    """What the program `step` reads of a batch and of the scalars of step number `step`, from 0."""
    given = {**batch, "lr": np.float32(lr), "step": np.float32(step + 1), "seed": np.uint32(step)}
    return {a["name"]: given[a["name"]] for a in exe.programs["step"]["arguments"] if a["kind"] == "input"}
