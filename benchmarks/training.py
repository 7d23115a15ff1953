"""One training step, ours beside PyTorch: forward, loss, backward and the optimizer's update, one thread each.

    python benchmarks/training.py [--nets lenet:64 digits:32 …] [--threads 1] [--repeats 15] [--compile] [--json FILE]

PyTorch runs the same graph eagerly, in both of its memory formats (and with --compile through torch.compile, which needs
a C++ compiler), from the same parameters on the same batch; interleaved in this process, medians, the fastest step beside
them. `ratio` is our time divided by the fastest PyTorch's. Where nothing is random, parameters after a step are compared.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OPTIMIZER = "sgd(lr = 0.01, momentum = 0.9, weight_decay = 2e-4)"
# 192 maps of 28x28 come from a 1x1 convolution, so that the module's input has a gradient.
MODULE = """lang 1

import "inception.net" as g

net inception3a() {
  input image: f32[N, 192, 28, 28]
  label class: i32[N] in 10
  y = image -> before: conv(192) -> relu -> g.inception(64, 96, 128, 16, 32, 32)
  logits = y -> global_avg_pool -> flatten -> dense(10)
  output p = logits -> softmax
  loss cross_entropy(logits, class)
}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["lenet:64", "digits:32", "inception3a:16", "googlenet:16"],
                        metavar="NET:BATCH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


OPTIONS = arguments()
os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)

import numpy as np  # noqa: E402

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("this benchmark races PyTorch, which is not installed: pip install -e '.[bench]'\n"
             "(the CPU build is enough: pip install torch --index-url https://download.pytorch.org/whl/cpu)")

import netc  # noqa: E402
from compiler.ir import Graph, Node  # noqa: E402
from runtime.execute import Executable  # noqa: E402
from runtime.measure import random_feeds  # noqa: E402

torch.set_num_threads(OPTIONS.threads)


class Peer:
    """The net of a source graph in PyTorch, with parameters by path and an optimizer of the same settings."""

    def __init__(self, graph: Graph, values: dict[str, np.ndarray], config: dict, format: torch.memory_format):
        self.graph, self.format = graph, format
        self.parameters = {path: torch.nn.Parameter(self._laid_out(torch.from_numpy(value.copy())))
                           for path, value in values.items()}
        args = {key: value for key, value in config["optimizer"].get("args", {}).items() if key != "lr"}
        groups = [{"params": [p], "lr": 0.01 * graph[path].attrs.get("lr", 1.0),
                   "weight_decay": args.get("weight_decay", 0.0) if graph[path].attrs.get("decay", True) else 0.0}
                  for path, p in self.parameters.items()]
        make = {"sgd": lambda: torch.optim.SGD(_joined(groups), lr=0.01, momentum=args.get("momentum", 0.0), foreach=True),
                "adam": lambda: torch.optim.Adam(_joined(groups), lr=0.01, foreach=True)}
        self.optimizer = make[config["optimizer"]["name"]]()

    def _laid_out(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(memory_format=self.format) if x.dim() == 4 else x

    def feeds(self, feeds: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        given = {n.name: torch.from_numpy(feeds[n.name]) for n in self.graph.leaves("input")}
        return {name: x.long() if x.dtype == torch.int32 else self._laid_out(x) for name, x in given.items()}

    def loss(self, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        values: dict[str, torch.Tensor] = {}
        wanted = {name for loss in self.graph.losses.values() for name in _needed(self.graph, loss)}
        for node in self.graph.sorted():
            if node.name in wanted:
                values[node.name] = feeds[node.name] if node.op == "input" else self.parameters[node.name] \
                    if node.op == "parameter" else _call(node, [values[i] for i in node.inputs])
        return sum(values[name] for name in self.graph.losses.values())

    def step(self, feeds: dict[str, torch.Tensor]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(feeds)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def _joined(groups: list[dict]) -> list[dict]:
    """Parameter groups of equal settings as one."""
    found: dict[tuple, list] = {}
    for group in groups:
        found.setdefault((group["lr"], group["weight_decay"]), []).extend(group["params"])
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in found.items()]


def _needed(graph: Graph, name: str) -> set[str]:
    found, waiting = {name}, [name]
    while waiting:
        new = [i for i in graph[waiting.pop()].inputs if i not in found]
        found.update(new)
        waiting += new
    return found


def _call(node: Node, xs: list) -> "torch.Tensor":
    """The ops that the nets raced here are made of."""
    a = node.attrs
    if node.op == "conv":
        return F.conv2d(*_padded(xs[0], a["pad"]), *xs[1:], stride=a["stride"], dilation=a["dilation"], groups=a["groups"]) \
            if _uneven(a["pad"]) else F.conv2d(xs[0], *xs[1:], stride=a["stride"], dilation=a["dilation"],
                                               groups=a["groups"], padding=[lo for lo, _ in a["pad"]])
    if node.op == "max_pool":
        return F.max_pool2d(xs[0], a["kernel"], a["stride"], [lo for lo, _ in a["pad"]], a["dilation"], a["ceil"])
    if node.op == "lrn":
        return F.local_response_norm(xs[0], a["size"], a["alpha"], a["beta"], a["k"])
    return {
        "relu": lambda: F.relu(xs[0]), "concat": lambda: torch.cat(xs, a.get("axis")), "flatten": lambda: xs[0].flatten(1),
        "dense": lambda: F.linear(*xs), "dropout": lambda: F.dropout(xs[0], a["rate"]),
        "global_avg_pool": lambda: xs[0].mean((2, 3), keepdim=a["keepdims"]),
        "scale": lambda: xs[0].float() * a["by"], "cross_entropy": lambda: F.cross_entropy(*xs),
    }[node.op]()


def _uneven(pad) -> bool:
    return any(lo != hi for lo, hi in pad)


def _padded(x, pad):
    return [F.pad(x, [size for ends in reversed(pad) for size in ends])]


def load(name: str, batch: int):
    """The net, with a data and a train section of this batch where its file has none."""
    spec = ROOT / f"specs/{name}.net"
    text = spec.read_text() if spec.exists() else MODULE
    if "train " not in text:
        text += f'\ndata d {{ source = "npz:d.npz", batch = {batch} }}\n\n' \
                f"train fit {{ net = {name}, data = d, optimizer = {OPTIMIZER}, run = 1 epochs }}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.net"
        path.write_text(text)
        net = netc.load(path)
    net.program.data["batch"] = batch
    return net


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def race(name: str, batch: int) -> dict:
    net = load(name, batch)
    start = time.perf_counter()
    exe: Executable = net.compile("train")
    compile_s = time.perf_counter() - start
    entry = exe.programs["step"]
    feeds = random_feeds(exe, "step", {s: batch for s in entry["symbols"]})
    feeds["lr"][...] = 0.01
    values = exe.parameters.tensors("weight")
    formats = {"eager": torch.contiguous_format, "channels_last": torch.channels_last}
    peers = {who: Peer(net.graph, values, net.train_config, format) for who, format in formats.items()}
    given = {who: peer.feeds(feeds) for who, peer in peers.items()}
    calls = {who: lambda who=who: peers[who].step(given[who]) for who in peers}
    if OPTIONS.compile:
        peers["compiled"] = Peer(net.graph, values, net.train_config, torch.channels_last)
        given["compiled"] = given["channels_last"]
        peers["compiled"].loss = torch.compile(peers["compiled"].loss)
        calls["compiled"] = lambda: peers["compiled"].step(given["compiled"])
    bound = exe.bind("step", feeds)
    calls = {"ours": bound, **calls}
    losses = {who: call() for who, call in calls.items()}
    losses["ours"] = float(sum(bound.results[loss].sum() for loss in net.graph.losses))
    check(net.graph, exe, peers["eager"], losses)
    times: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(OPTIONS.repeats):
        for who, call in calls.items():
            inner = max(1, int(2e-3 / seconds(call)))
            times[who].append(seconds(lambda: [call() for _ in range(inner)]) / inner * 1e3)
    medians = {who: statistics.median(times[who]) for who in times}
    peer = min((who for who in peers), key=medians.__getitem__)
    update = entry["update_from"]
    return {"net": name, "batch": batch, "threads": OPTIONS.threads, "precision": "f32", "ours_ms": medians["ours"],
            "peer": f"torch {torch.__version__} {peer}", "peer_ms": medians[peer], "ratio": medians["ours"] / medians[peer],
            "all_ms": medians, "fastest_ms": {who: min(times[who]) for who in times}, "compile_s": compile_s,
            "kernels": len(entry["kernels"]), "update_kernels": len(entry["kernels"]) - update}


def check(graph: Graph, exe: Executable, peer: Peer, losses: dict[str, float]) -> None:
    """The same loss, and the same parameters after the first step, unless dropout drew other numbers."""
    random = any(n.op == "dropout" for n in graph.nodes())
    if abs(losses["ours"] - losses["eager"]) > (0.1 if random else 1e-4) * abs(losses["eager"]):
        sys.exit(f"{graph.name}: our loss is {losses['ours']:.6f}, PyTorch's {losses['eager']:.6f}")
    if not random:
        for path, theirs in peer.parameters.items():
            want = theirs.detach().numpy()
            error = np.abs(exe.parameters[path] - want).max() / np.abs(want).max()
            if error > 1e-4:
                sys.exit(f"{graph.name}: {path} differs by {error:.1e} after a step")


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, {OPTIONS.threads} thread(s), torch {torch.__version__}, "
          f"load {os.getloadavg()[0]:.1f}")
    print(f"{'net':<14}{'batch':>6}{'kernels':>9}{'updates':>9}{'ours ms':>10}{'eager':>10}{'ch. last':>10}"
          + f"{'compiled':>10}" * OPTIONS.compile + f"{'ratio':>8}{'fastest: ours, theirs':>24}")
    rows = []
    for text in OPTIONS.nets:
        name, _, batch = text.partition(":")
        row = race(name, int(batch or 16))
        rows.append(row)
        medians, fastest = row["all_ms"], row["fastest_ms"]
        print(f"{name:<14}{row['batch']:>6}{row['kernels']:>9}{row['update_kernels']:>9}"
              + "".join(f"{ms:>10.3f}" for ms in medians.values())
              + f"{row['ratio']:>8.2f}{fastest['ours']:>12.3f}{min(v for k, v in fastest.items() if k != 'ours'):>12.3f}",
              flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if OPTIONS.json:
        Path(OPTIONS.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
