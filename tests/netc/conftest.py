"""What the command-line tests share: small nets, a compiled one, and inputs for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.netc.command import netc

TINY = """lang 1

net tiny(classes: int = 2) {
  input x: f32[N, 3]
  label y: i32[N] in classes

  logits = x -> dense(classes)

  output p = logits -> softmax
  loss cross_entropy(logits, y)
  metric accuracy(logits, y)
}

data rows {
  source = "csv:rows.csv", batch = 4, split = [train = 50%, validate = 25%, test = 25%]
  feed = [x = ["a", "b", "c"], y = "y"]
}

train fit {
  net = tiny, data = rows, optimizer = sgd(lr = 0.1), run = 2 epochs
}
"""


def write_tiny(folder: Path, text: str = TINY) -> Path:
    """tiny.net with the table its data section reads."""
    stream = np.random.default_rng(0)
    rows = [",".join([*(f"{v:.3f}" for v in stream.standard_normal(3)), str(i % 2)]) for i in range(32)]
    (folder / "rows.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n")
    (folder / "tiny.net").write_text(text)
    return folder / "tiny.net"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with tiny.net, tiny.netb (run and evaluate), step.netb (all programs), x.npy of [5, 3]. Read only, please."""
    folder = tmp_path_factory.mktemp("made")
    write_tiny(folder)
    for arguments in (["tiny.net"], ["tiny.net", "--train", "-o", "step.netb"]):
        assert netc("compile", *arguments, cwd=folder).code == 0
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal((5, 3)).astype("f4"))
    return folder
