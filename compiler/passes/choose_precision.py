"""Operands of products, and tensors between layers, in 16 bits; or products of operands rounded to tf32.

Precision is not structure: a text says nothing of it, results and inputs keep their types, and parameters stay f32
where the user sees them. A product takes 16-bit operands and sums in f32. What only moves or bends values follows its
operands, and rounds where it stores. Everything else (softmax, losses, statistics, powers) is computed and kept in f32.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from compiler.cost import PRODUCTS
from compiler.group import is_view
from compiler.ir import LOW, Graph, Node, TensorType
from compiler.ops import REGISTRY
from compiler.passes.base import Context, Rewrite, graph_pass, layers
from compiler.passes.price import all_fixed
from runtime.errors import NetcError

PRECISIONS = ("f32", *sorted(LOW), "tf32")
# What may be rounded behind it, as it stores: it moves values, takes one of several, a mean, or bends them.
FOLLOW = ("add", "avg_pool", "broadcast_to", "clip", "concat", "copy", "elu", "flatten", "gelu", "hard_sigmoid",
          "hard_swish", "hard_tanh", "leaky_relu", "max", "max_pool", "maximum", "mean", "minimum", "mul", "neg", "pad",
          "relu", "relu6", "reshape", "selu", "sigmoid", "silu", "slice", "softplus", "sub", "tanh", "transpose", "where")


def check(precision: str, names: Collection[str], backend: Any) -> None:
    """Raises NetcError where programs cannot be compiled in a precision: E0752 for an unknown one, E0751 for
    training, E0750 where the target does not compute in it."""
    if precision not in PRECISIONS:
        raise NetcError("E0752", f"there is no precision `{precision}`", f"known are {', '.join(PRECISIONS)}")
    if precision != "f32" and "step" in names:
        raise NetcError("E0751", f"training steps are computed in f32, not in {precision}",
                        f"train in f32, and compile what is deployed with --precision {precision} and without --train")
    known = backend.precisions()
    if precision not in known:
        raise NetcError("E0750", f"{backend.describe()['name']} does not compute in {precision}",
                        f"what it knows is {', '.join(known)}")


@graph_pass("choose_precision", training=False,
            reason="steps are computed in f32: small gradients would be rounded away")
def choose_precision(graph: Graph, context: Context) -> list[Rewrite]:
    """Reads operands of products in the precision that was asked for, and keeps what lies between layers in it."""
    if context.precision == "f32":
        return []
    if not context.packed:
        return [Rewrite("products stay in f32", (), taken=False, why="weights change while this is used")]
    fixed = all_fixed(graph)
    products = [node for node in graph.sorted()
                if node.op in PRODUCTS and node.type.dtype == "f32" and node.name not in fixed]
    if context.precision == "tf32":
        for node in products:
            graph.update(node.name, attrs={**node.attrs, "products": "tf32"})
        return [Rewrite(f"{node.name} rounds its operands to tf32", layers(node)) for node in products]
    return _store(graph, context, products, fixed)


def _store(graph: Graph, context: Context, products: list[Node], fixed: set[str]) -> list[Rewrite]:
    word = context.precision
    chosen = {node.name for node in products}
    for node in graph.sorted():
        if node.name not in chosen and node.name not in fixed and _follows(graph, node, chosen):
            chosen.add(node.name)
    before = {node.name: context.seconds(graph, [node]) for node in products}
    for name in chosen:
        graph.update(name, type=TensorType(word, graph[name].type.shape))
    casts: dict[tuple[str, str], str] = {}
    for node in graph.sorted():
        inputs = [_wanted(graph, node, position, word, chosen) for position in range(len(node.inputs))]
        inputs = tuple(_cast(graph, source, dtype, node, casts) for source, dtype in inputs)
        if inputs != node.inputs:
            graph.update(node.name, inputs=inputs)
    for table in (graph.outputs, graph.losses, graph.metrics):
        for key, name in table.items():
            if name in chosen:
                table[key] = _cast(graph, name, "f32", graph[name], casts)
    return [*_taken(graph, context, products, before), *_declined(graph, casts)]


def _follows(graph: Graph, node: Node, chosen: set[str]) -> bool:
    """Whether a node takes the type of its operands: one of which is chosen, and of which no number needs more bits."""
    if node.op not in FOLLOW or node.type.dtype != "f32" or not any(i in chosen for i in node.inputs):
        return False
    return all(_exact(graph[i]) for i in node.inputs if graph[i].op == "constant")


def _exact(constant: Node) -> bool:
    """Whether 8 bits of fraction hold all of a constant."""
    value = constant.attrs["value"]
    return value.dtype != "float32" or bool((value == value.astype("bfloat16").astype("float32")).all())


def _wanted(graph: Graph, node: Node, position: int, word: str, chosen: set[str]) -> tuple[str, str]:
    """An operand, and the element type in which a node reads it."""
    source = node.inputs[position]
    dtype = graph[source].type.dtype
    if dtype not in ("f32", word):
        return source, dtype
    low = node.name in chosen and (node.op not in PRODUCTS or position < 2)
    return source, word if low or node.op == "cast" and source in chosen else "f32"


def _cast(graph: Graph, name: str, dtype: str, reader: Node, casts: dict[tuple[str, str], str]) -> str:
    """The name of a node's value in another element type."""
    node = graph[name]
    if node.type.dtype == dtype:
        return name
    if (name, dtype) not in casts:
        type = TensorType(dtype, node.type.shape)
        casts[name, dtype] = graph.add(Node(graph.fresh(f"{name}/{dtype}"), "cast", (name,), type, {"dtype": dtype},
                                            node.origins or reader.origins))
    return casts[name, dtype]


def _taken(graph: Graph, context: Context, products: list[Node], before: dict[str, float]) -> list[Rewrite]:
    """What was done: a line for each product."""
    return [Rewrite(f"{node.name} reads {context.precision}, sums in f32", layers(node), True,
                    before[node.name] - context.seconds(graph, [graph[node.name]])) for node in products]


def _declined(graph: Graph, casts: dict[tuple[str, str], str]) -> list[Rewrite]:
    """What reads a tensor of 16 bits, and stays in f32."""
    found = {user.name: user for (_, dtype), cast in casts.items() if dtype == "f32" for user in graph.users(cast)
             if not is_view(user)}
    why = {True: "it loses more than its operands do", False: "it sums, or compares, many values"}
    return [Rewrite(f"{node.name} ({node.op}) stays in f32", layers(node), False, 0.0, why[REGISTRY[node.op].pointwise])
            for node in found.values()]
