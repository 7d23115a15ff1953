"""PyTorch as a peer on a GPU: a net's source graph op by op, eagerly or through torch.compile, in f32, tf32 or f16."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import _eager
from compiler.ir import Graph, Node
from compiler.passes.select_mode import select_mode


class Peer:
    """A net with its weights on a device. run() is one inference, step() one step of training; both leave work under way."""

    def __init__(self, source: Graph, values: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray], device: str = "cuda",
                 precision: str = "f32", optimizer: Mapping | None = None):
        """optimizer: of the train section; with it losses are computed, else outputs. precision: f32, tf32 or f16."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self.training = optimizer is not None
        self.device, self.dtype = device, torch.float16 if precision == "f16" else torch.float32
        self.graph = source if self.training else select_mode(source, "deploy")
        self.wanted = list((self.graph.losses if self.training else self.graph.outputs).values())
        self.order = [node for node in self.graph.sorted() if node.name in _needed(self.graph, self.wanted)]
        self.held = {n.name: self._there(n.attrs["value"]) for n in self.order if n.op == "constant"}
        self.weights = {n.name: self._there(values[n.name]) for n in self.order if n.op == "parameter"}
        self.feeds = {n.name: self._there(feeds[n.name]) for n in self.order if n.op == "input"}
        if optimizer:
            trained = [w.requires_grad_() for n, w in self.weights.items() if self.graph[n].attrs.get("trainable")]
            args = optimizer.get("args", {})
            self.optimizer = torch.optim.SGD(trained, lr=0.01, momentum=args.get("momentum", 0.0), fused=device == "cuda",
                                             weight_decay=args.get("weight_decay", 0.0))

    def _there(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array)).to(self.device)
        tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor.long() if tensor.dtype == torch.int32 else tensor
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def forward(self, feeds: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        found = {**self.held, **self.weights, **feeds}
        for node in self.order:
            if node.name not in found:
                found[node.name] = self._call(node, [found[name] for name in node.inputs])
        return [found[name] for name in self.wanted]

    def _call(self, node: Node, xs: list[torch.Tensor]) -> torch.Tensor:
        a = node.attrs
        if node.op == "scale":
            return xs[0].to(self.dtype) * a["by"] + a["offset"]
        if node.op == "cross_entropy":
            return F.cross_entropy(xs[0], xs[1])
        if self.training and node.op == "dropout":
            return F.dropout(xs[0], a["rate"])
        if self.training and node.op == "batch_norm":
            return F.batch_norm(xs[0], xs[3], xs[4], xs[1], xs[2], training=True, eps=a["eps"])
        return _eager(torch, node, xs)

    def compiled(self) -> None:
        """From now on through torch.compile."""
        self.forward = torch.compile(self.forward)

    def run(self) -> list[torch.Tensor]:
        with torch.inference_mode():
            return self.forward(self.feeds)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        sum(self.forward(self.feeds)).backward()
        self.optimizer.step()

    def milliseconds(self, repeats: int) -> float:
        """Median of a run, or of a step, with the wait for its end."""
        call = self.step if self.training else self.run
        for _ in range(3):
            self._seconds(call)
        return statistics.median(self._seconds(call) for _ in range(repeats)) * 1e3

    def _seconds(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _needed(graph: Graph, names: list[str]) -> set[str]:
    found, waiting = set(names), list(names)
    while waiting:
        new = [name for name in graph[waiting.pop()].inputs if name not in found]
        found.update(new)
        waiting += new
    return found
