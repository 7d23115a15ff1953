"""How rules see an op: its tensors, its weights as tensors with names, and its arguments, read back from a node.

In a net a layer owns its weights; in a rule they are operands: `conv(weight = w, bias = b)`. How weights begin and
learn is no matter of rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

from compiler.elaborate.apply import default_of
from compiler.elaborate.arguments import TENSORS
from compiler.ir import Graph, Node, TensorType
from compiler.ops import REGISTRY, Arg, Op

WEIGHTS = {  # of the ops that own some, in operand order
    "conv": ("weight", "bias"), "dense": ("weight", "bias"), "prelu": ("weight",), "layer_norm": ("weight", "bias"),
    "batch_norm": ("weight", "bias", "running_mean", "running_var"),
}
OPTIONAL = {("conv", "bias"), ("dense", "bias")}  # `bias = false` says that there is none
LEARNING = ("bias", "init", "bias_init", "lr", "bias_lr", "frozen", "weight", "start")
DECIDED = ("ch", "units")  # by the shape of the weight
READ = {  # arguments that attributes keep in another form
    ("pad", "pad"): lambda attrs: tuple(zip(attrs["before"][2:], attrs["after"][2:])),
    ("argmax", "axis"): lambda attrs: attrs["axes"][0], ("argmin", "axis"): lambda attrs: attrs["axes"][0],
}


@cache
def parameters(op: Op) -> tuple[Arg, ...]:
    """What a call in a rule may be given: tensors and arguments as in a net, then weights."""
    weights = WEIGHTS.get(op.name, ())
    plain = tuple(replace(arg, required=arg.required and arg.name not in DECIDED) for arg in op.args()
                  if not weights or arg.name not in LEARNING)
    return (*plain, *(Arg(name, "tensor", required=(op.name, name) not in OPTIONAL) for name in weights))


def tensors(op: Op) -> tuple[Arg, ...]:
    """The tensor arguments of an op, weights apart."""
    return tuple(arg for arg in op.args() if arg.kind in TENSORS)


def values(op: Op) -> tuple[Arg, ...]:
    """The arguments of an op in a rule that are no tensors."""
    return tuple(arg for arg in parameters(op) if arg.kind not in TENSORS)


def operands(node: Node) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of a node's operands: its tensors, and its weights by name."""
    weights = WEIGHTS.get(node.op, ())
    count = len(tensors(REGISTRY[node.op])) if weights else len(node.inputs)
    return node.inputs[:count], dict(zip(weights, node.inputs[count:]))


def from_weights(op: Op, weights: dict[str, TensorType]) -> dict[str, Any]:
    """The arguments that the shape of a weight decides."""
    if op.name == "conv":
        return {"ch": weights["weight"].shape[0], "k": weights["weight"].shape[2:]}
    return {"units": weights["weight"].shape[0]} if op.name == "dense" else {}


def read(graph: Graph, node: Node) -> dict[str, Any]:
    """The arguments a node was made with, so that `resolve` makes its attributes of them again."""
    op = REGISTRY[node.op]
    decided = from_weights(op, {name: graph[i].type for name, i in operands(node)[1].items()})
    found = {}
    for arg in values(op):
        attr = "kernel" if arg.name == "k" and "kernel" in node.attrs else arg.name
        if (op.name, arg.name) in READ:
            found[arg.name] = READ[op.name, arg.name](node.attrs)
        elif attr in node.attrs:
            found[arg.name] = node.attrs[attr]
        else:
            found[arg.name] = decided.get(arg.name, default_of(arg.kind, arg.default))
    return found


def resolve(op: Op, given: dict[str, Any], types: Sequence[TensorType]) -> dict[str, Any]:
    """The attributes of a call: `given` arguments, defaults for the rest. Raises OpError."""
    return op.attrs(complete(op, given), *types)


def complete(op: Op, given: dict[str, Any]) -> SimpleNamespace:
    """All arguments of the op in a net: given ones, defaults for the rest (those about learning too)."""
    every = {arg.name: default_of(arg.kind, arg.default) for arg in op.args() if arg.kind not in TENSORS}
    return SimpleNamespace(**{**every, **given})
