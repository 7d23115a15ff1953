"""A whole net on the emulated GPU: deployed, evaluated and trained, it must do what the same net does on the CPU."""

import subprocess
import sys

import numpy as np

from compiler.artifact import build
from compiler.elaborate import load
from runtime.execute import Executable
from runtime.format import Artifact, read, write
from tests.compiler import emulator

# No bias before the batch norm: its gradient is zero but for rounding, which adam would blow up.
NET = """
lang 1

net small(classes: int = 5) {
  input image: u8[N, 2, 6, 6]
  label kind: i32[N] in classes

  maps = image -> scale(1/255) -> conv(4, 3x3, pad = same, bias = false) -> batch_norm -> relu -> max_pool(2x2)
  logits = maps -> flatten -> dropout(0.3) -> dense(classes)

  output p = logits -> softmax
  loss cross_entropy(logits, kind)
  metric accuracy(logits, kind)
}

data none { source = "npz:none.npz", batch = 7 }

train fit {
  net = small, data = none
  optimizer = adam(lr = 0.01)
  run = 1 epochs, seed = 3
}
"""


def train(path: str, results: str, device: str = "auto") -> None:
    """Two steps, then evaluation and deployment, of the artifact at `path`; all outputs and parameters to `results`."""
    exe = Executable(read(path), device)
    rng = np.random.default_rng(0)
    feeds = {"image": rng.integers(0, 256, (7, 2, 6, 6)).astype(np.uint8),
             "kind": rng.integers(0, 5, 7).astype(np.int32)}
    out = {}
    for call, program in enumerate(("step", "step", "evaluate", "run")):
        given = {"seed": np.uint32(call), "step": np.float32(call + 1), "lr": np.float32(0.01), **feeds}
        wanted = {a["name"] for a in exe.programs[program]["arguments"] if a["kind"] == "input"}
        for name, value in exe.call(program, {k: v for k, v in given.items() if k in wanted}).items():
            out[f"{call}.{program}.{name}"] = value
    np.savez(results, **out, **exe.parameters.tensors())


def test_a_net_trains_as_on_the_cpu(tmp_path):
    emulator.compiler_or_skip()
    emulator.gpu_or_skip()
    (tmp_path / "small.net").write_text(NET)
    program = load(tmp_path / "small.net")
    for target in ("cpu", "cuda:sm_80"):
        manifest, members = build(program, target, names=["run", "evaluate", "step"], seed=1)
        write(tmp_path / f"{target[:4].strip(':')}.netb", manifest, members)
    assert Artifact(manifest, members).manifest["target"]["archs"] == ["sm_80"]
    train(tmp_path / "cpu.netb", tmp_path / "cpu.npz")
    environment = emulator.build(tmp_path, members["kernels.cu"].decode(), "sm_80")
    subprocess.run([sys.executable, "-P", __file__, str(tmp_path / "cuda.netb"), str(tmp_path / "cuda.npz")],
                   env=environment, check=True)
    train(tmp_path / "cuda.netb", tmp_path / "emulated.npz", "cuda-emulator")
    cpu = np.load(tmp_path / "cpu.npz")
    assert "1.step.loss" in cpu.files and not np.array_equal(cpu["0.step.loss"], cpu["1.step.loss"])
    for results in ("cuda.npz", "emulated.npz"):
        gpu = np.load(tmp_path / results)
        assert set(cpu.files) == set(gpu.files)
        for name in cpu.files:
            np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-4, atol=1e-5, err_msg=f"{results} {name}")


if __name__ == "__main__":
    train(*sys.argv[1:])
