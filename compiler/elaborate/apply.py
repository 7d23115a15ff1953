"""One op call becomes nodes: its weights as `parameter` nodes, and the node of the op."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.build import Builder
from compiler.elaborate.arguments import TENSORS, Bound
from compiler.elaborate.values import Quantity, Results, Tensor, describe, is_number, made_by, show
from compiler.ir import DTYPES, Node, Origin, TensorType
from compiler.ops import REGISTRY, Op, OpError, Weight, namespace
from dsl import tree
from dsl.diagnostics import Span

if TYPE_CHECKING:
    from compiler.elaborate.body import Body, Place

MAX_NODES = 20_000
OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}


def default_of(kind: str, value: Any) -> Any:
    """A default of a signature as the op wants it: initializers are tuples."""
    if kind == "init" and isinstance(value, str):
        match = re.fullmatch(r"(\w+)(?:\(([-+.\deE]+)\))?", value)
        return (match[1],) if match[2] is None else (match[1], float(match[2]))
    if kind == "axes" and value is not None and not isinstance(value, tuple):
        return (value,)
    return value


def apply_op(body: Body, op: Op, bound: dict[str, Bound], place: Place, span: Span) -> Tensor | Results:
    """Adds the nodes of one call; `bound` has the given arguments, `span` is the call."""
    operands, given = split_arguments(op, bound)
    if given.get("lr") is not None and given["lr"] < 0:
        body.fail("E0425", f"`lr` of `{op.name}` multiplies the learning rate: it is not negative", bound["lr"].span)
    types = [tensor.type for tensor in operands]
    arguments = SimpleNamespace(**given)

    def step(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OpError as problem:
            report_op_error(body, op, problem, bound, operands, span)

    attrs = step(lambda: op.attrs(arguments, *types))
    if op.has("expand_results"):
        return apply_several(body, op, attrs, operands, place, span)
    weights = step(lambda: op.weights(arguments, namespace(attrs), *types))
    result = step(lambda: op.infer(namespace(attrs), *types, *(weight_type(w, types) for w in weights.values())))
    room(body, span)
    path = body.session.unique(place.path)
    origins = frozenset({Origin(path, span.place)})
    owner = path if place.shared is None else owner_in_shared(place)
    names = [add_weight(body, f"{owner}.{name}", weight, weight_type(weight, types), origins, span, place)
             for name, weight in weights.items()]
    body.graph.add(Node(path, op.name, (*(t.node for t in operands), *names), result, attrs, origins))
    return Tensor(path, result, op.name, span)


def apply_several(body: Body, op: Op, attrs: dict[str, Any], operands: list[Tensor], place: Place, span: Span) -> Any:
    """The nodes of an op with several results, under the call's path: there is no node of the op itself."""
    room(body, span)
    path = body.session.unique(place.path)
    builder = Builder(body.graph)
    with builder.within(path, frozenset({Origin(path, span.place)})):
        values = op.expand_results(builder, namespace(attrs), *(builder.value(t.node) for t in operands))
    body.session.taken.update(value.name for value in values)
    tensors = tuple(Tensor(value.name, value.type, op.name, span) for value in values)
    return tensors[0] if len(tensors) == 1 else Results(op.name, tensors)


def split_arguments(op: Op, bound: dict[str, Bound]) -> tuple[list[Tensor], dict[str, Any]]:
    """The tensors of a call in operand order, and all other arguments, defaults filled in."""
    operands: list[Tensor] = []
    given: dict[str, Any] = {}
    for arg in op.args():
        if arg.kind in TENSORS:
            value = bound[arg.name].value if arg.name in bound else ()
            operands += value if isinstance(value, tuple) else [value]
        else:
            given[arg.name] = bound[arg.name].value if arg.name in bound else default_of(arg.kind, arg.default)
    return operands, given


def report_op_error(body: Body, op: Op, problem: OpError, bound: dict[str, Bound], operands: list[Tensor],
                    span: Span) -> None:
    """The error at the argument it names; one about tensors at the call, with where they were made."""
    kinds = {arg.name: arg.kind for arg in op.args()}
    at = bound.get(problem.argument) if kinds.get(problem.argument) not in TENSORS else None
    if at is not None:
        body.fail(problem.code, problem.message, at.span, problem.hint)
    body.fail(problem.code, problem.message, span, problem.hint, made_by(operands))


def room(body: Body, span: Span) -> None:
    if len(body.graph) >= MAX_NODES:
        body.fail("E0213", f"the net has more than {MAX_NODES} operations", span,
                  "are blocks or `**` nested by mistake?")


def weight_type(weight: Weight, types: list[TensorType]) -> TensorType:
    """Weights have the element type of the layer's first floating operand."""
    return TensorType(next((t.dtype for t in types if t.is_float), "f32"), tuple(weight.shape))


def owner_in_shared(place: Place) -> str:
    """The owner of a call's weights inside a shared layer: the same at each use, different for two calls of one use."""
    number, owner = 1, place.weights
    while owner in place.shared:
        number += 1
        owner = f"{place.weights}{number}"
    place.shared.add(owner)
    return owner


def add_weight(body: Body, name: str, weight: Weight, type: TensorType, origins: frozenset[Origin], span: Span,
               place: Place) -> str:
    """The parameter node of a weight; a shared layer's is there from its second use on."""
    if place.shared is not None and name in body.graph:
        earlier = body.graph[name]
        if earlier.type != type:
            first = min(earlier.origins)
            body.fail("E0322", f"the shared weight `{name}` is {earlier.type}, this use needs {type}", span,
                      f"its first use is at {first.place}: a shared layer takes tensors of one shape")
        body.graph.update(name, origins=earlier.origins | origins)
        return name
    attrs = {"init": weight.init, "fans": tuple(weight.fans), "trainable": weight.trainable, "state": weight.state,
             "decay": weight.decay, "lr": weight.lr}
    return body.graph.add(Node(name, "parameter", (), type, attrs, origins))


def apply_arithmetic(body: Body, part: tree.Binary, left: Any, right: Any, place: Place) -> Tensor:
    """`a + b` and `0.3 * a`: an op node; a number becomes a constant of the tensor's element type."""
    if part.operator not in OPERATORS:
        body.fail("E0424", f"`{part.operator}` needs compile-time values, got "
                  f"{describe(left if isinstance(left, Tensor) else right)}", part.span,
                  "a tensor's values are known only when the binary runs; + - * / work on tensors")
    for value, operand in ((left, part.left), (right, part.right)):
        if not isinstance(value, Tensor) and not is_number(value):
            code, hint = "E0423", None
            if isinstance(value, Quantity):
                code, hint = "E0426", f"write {value.value / 100 if value.is_percent else value.value}"
            body.fail(code, f"`{part.operator}` needs tensors or numbers, got {describe(value)}", operand.span, hint)
    room(body, part.span)
    operands = [value if isinstance(value, Tensor) else constant(body, value, other, place, operand.span)
                for value, other, operand in ((left, right, part.left), (right, left, part.right))]
    op = REGISTRY[OPERATORS[part.operator]]
    sides = zip(op.args(), operands, (part.left, part.right))
    bound = {arg.name: Bound(value, side.span) for arg, value, side in sides}
    return apply_op(body, op, bound, place, part.span)


def apply_negation(body: Body, part: tree.Unary, value: Tensor, place: Place) -> Tensor:
    """`-a`."""
    op = REGISTRY["neg"]
    return apply_op(body, op, {op.args()[0].name: Bound(value, part.operand.span)}, place, part.span)


def constant(body: Body, value: int | float, like: Tensor, place: Place, span: Span) -> Tensor:
    dtype = like.type.dtype
    if not like.type.is_float:
        limits = np.iinfo(DTYPES[dtype]) if dtype != "bool" else None
        if not isinstance(value, int) or limits is None or not limits.min <= value <= limits.max:
            body.fail("E0324", f"{show(value)} is not a value of {dtype}, the elements of the other operand", span,
                      "put `-> cast(f32)` behind the tensor first")
    path = body.session.unique(f"{place.path}.const")
    type = TensorType(dtype, ())
    attrs = {"value": np.asarray(value, DTYPES[dtype])}
    body.graph.add(Node(path, "constant", (), type, attrs, frozenset({Origin(place.path, span.place)})))
    return Tensor(path, type, "number", span)
