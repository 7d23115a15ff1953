"""Reverse-mode differentiation: adds to a graph the gradient of its losses with respect to every trainable parameter.

Gradients are ordinary nodes, named `grad/<node>/…`, with the origins of the node they belong to; so passes, cost
tables and kernels treat them like the forward pass.
"""

from __future__ import annotations

from compiler.build import Builder, Value
from compiler.ir import Graph, Node
from compiler.ops import REGISTRY, namespace
from compiler.passes.expand import expand


def differentiate(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """(a new graph, trainable parameter → node of its gradient) for the sum of the losses of `graph`.

    A trainable parameter that no loss depends on is left out. Losses are scalars of a floating dtype; a path through
    an op that is not differentiable passes no gradient.
    """
    graph = expand(graph, lambda node: not REGISTRY[node.op].has("grad") and not REGISTRY[node.op].undifferentiable)
    needing = _needing_gradient(graph)
    order = graph.sorted()
    builder = Builder(graph)
    gradients: dict[str, Value] = {}
    for loss in graph.losses.values():
        if loss in needing:
            _accumulate(builder, gradients, graph[loss], builder.constant(1, graph[loss].type.dtype,
                                                                          name=f"grad/{loss}/seed"))
    for node in reversed(order):
        if node.name not in gradients or not node.inputs or REGISTRY[node.op].undifferentiable:
            continue
        operands = [builder.value(i) for i in node.inputs]
        with builder.within(f"grad/{node.name}", node.origins):
            given = REGISTRY[node.op].grad(builder, namespace(node.attrs), operands, builder.value(node.name),
                                           gradients[node.name])
            for operand, gradient in zip(operands, given, strict=True):
                if gradient is not None and operand.name in needing:
                    _accumulate(builder, gradients, graph[operand.name], gradient)
    found = {node.name: gradients[node.name].name for node in order if is_trainable(node) and node.name in gradients}
    kept = set(found.values())
    return graph.prune(keep=lambda node: node.name in kept), found


def is_trainable(node: Node) -> bool:
    """Whether the optimizer changes this parameter."""
    return node.op == "parameter" and node.attrs.get("trainable", True)


def _needing_gradient(graph: Graph) -> set[str]:
    """The nodes a trainable parameter reaches through differentiable ops."""
    needing: set[str] = set()
    for node in graph.sorted():
        if is_trainable(node) or (any(i in needing for i in node.inputs) and node.type.is_float
                                  and not REGISTRY[node.op].undifferentiable):
            needing.add(node.name)
    return needing


def _accumulate(builder: Builder, gradients: dict[str, Value], node: Node, gradient: Value) -> None:
    if gradient.type != node.type:
        raise ValueError(f"the gradient of {node.name} ({node.op}) is {gradient.type}, not {node.type}")
    gradients[node.name] = gradients[node.name] + gradient if node.name in gradients else gradient
