"""Evaluating what a rule says about a match: conditions, arguments and dims, and the replacement as nodes.

Names stand for what the pattern has bound. Layers take their weights as operands, a name of a layer of the pattern is
called like an op, and comparisons go through dims: `stride == 1` holds if all strides are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.elaborate.apply import apply_op, report_op_error, weight_type
from compiler.elaborate.arguments import TENSORS, Binder, Bound, Callee
from compiler.elaborate.body import Body, Place, Session
from compiler.elaborate.files import BlockRef, Unit
from compiler.elaborate.report import Report
from compiler.elaborate.values import LayerObject, Results, Tensor, Typed, describe, show
from compiler.ir import Graph, Node, Origin
from compiler.ops import Op, OpError, namespace
from compiler.rules.arguments import OPTIONAL, WEIGHTS, complete, from_weights, parameters
from dsl import tree
from dsl.diagnostics import Note, Span

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


class Terms(Body):
    """Elaborates expressions of a rule, in a graph of their own."""

    def inner(self, unit: Unit, place: Place, results: tuple[str, ...], chain: tuple[Note, ...]) -> Terms:
        return Terms(self.session, unit, place, results, chain)

    # --- numbers -------------------------------------------------------------------------------------------------

    def binary(self, part: tree.Binary, left: Any, right: Any) -> Any:
        left, right = (value.value if isinstance(value, Typed) else value for value in (left, right))
        if not (isinstance(left, tuple) or isinstance(right, tuple)) or isinstance(left, Tensor) \
                or isinstance(right, Tensor):
            return super().binary(part, left, right)
        sides = [_flat(side) for side in (left, right)]
        size = max(map(len, sides))
        if any(len(side) not in (1, size) for side in sides):
            if part.operator in ("==", "!="):
                return part.operator == "!="
            self.fail("E0424", f"{describe(left)} and {describe(right)} have different lengths", part.span)
        rows = list(zip(*(side * size if len(side) == 1 else side for side in sides)))
        if part.operator == "!=":
            return any(super(Terms, self).binary(part, a, b) for a, b in rows)
        values = tuple(super(Terms, self).binary(part, a, b) for a, b in rows)
        return all(values) if part.operator in COMPARISONS else values

    # --- layers --------------------------------------------------------------------------------------------------

    def signature(self, target: Op | BlockRef) -> Callee:
        return super().signature(target) if isinstance(target, BlockRef) else Callee(target.name, parameters(target))

    def call(self, part: tree.Call, piped: Sequence[Tensor], repetition: int = 0) -> Any:
        target = self.resolve(part.callee)
        if isinstance(target, BlockRef):
            return super().call(part, piped, repetition)
        before: dict[str, Bound] = {}
        if isinstance(target, LayerObject):
            before, target = dict(target.arguments), target.callee
        absent = [item for item in part.arguments if (target.name, item.name) in OPTIONAL
                  and isinstance(item.value, tree.Bool) and not item.value.value]
        for item in part.arguments:
            before.pop(item.name, None)
        arguments = [item for item in part.arguments if item not in absent]
        for name in WEIGHTS.get(target.name, ()):
            if (target.name, name) not in OPTIONAL and name not in before and not any(
                    item.name == name for item in arguments):
                self.fail("E0421", f"`{target.name}` has no `{name}` of its own in a rule", part.span,
                          f"give it one: `{target.name}(…, {name} = w)`")
        bound = Binder(self, self.signature(target), self.is_tensor).bind(arguments, part.span, piped, before=before)
        place = self.place_of(part, repetition)
        if target.name in WEIGHTS:
            return self.layer_call(target, bound, place, part.span)
        return apply_op(self, target, bound, place, part.span)

    def layer_call(self, op: Op, bound: dict[str, Bound], place: Place, span: Span) -> Tensor:
        """A node of an op whose weights are operands."""
        weights = {name: bound[name].value for name in WEIGHTS[op.name] if name in bound}
        operands = [bound[arg.name].value for arg in op.args() if arg.kind in TENSORS]
        types = [tensor.type for tensor in operands]
        given = {arg.name: bound[arg.name].value for arg in parameters(op)
                 if arg.kind not in TENSORS and arg.name in bound}
        shapes = {name: tensor.type for name, tensor in weights.items()}
        if shapes["weight"].rank:
            given |= from_weights(op, shapes)
        try:
            attrs = op.attrs(complete(op, given), *types)
            owned = op.weights(complete(op, {**given, **({"bias": "bias" in weights} if (op.name, "bias") in OPTIONAL
                                                         else {})}), namespace(attrs), *types)
            for name, weight in owned.items():
                wanted = weight_type(weight, types)
                if shapes[name] != wanted:
                    self.fail("E0447", f"`{name}` of `{op.name}` is {shapes[name]}, it needs {wanted}",
                              bound[name].span)
            result = op.infer(namespace(attrs), *types, *shapes.values())
        except OpError as problem:
            report_op_error(self, op, problem, bound, operands, span)
        path = self.session.unique(place.path)
        names = (*(tensor.node for tensor in operands), *(tensor.node for tensor in weights.values()))
        self.graph.add(Node(path, op.name, names, result, attrs, frozenset({Origin(path, span.place)})))
        return Tensor(path, result, op.name, span)

    def made(self, parts: Sequence[tree.Expression]) -> list[Tensor]:
        """The tensors of a replacement; one expression may make several."""
        found: list[Tensor] = []
        for part in parts:
            value = self.valued(part, None)
            for tensor in value.tensors if isinstance(value, Results) else (value,):
                if not isinstance(tensor, Tensor):
                    self.fail("E0422", f"a replacement is a tensor, this is {describe(tensor)}", part.span,
                              f"to make a constant of {show(tensor)}, add it to a tensor or multiply by it")
                found.append(tensor)
        return found


def terms(report: Report, unit: Unit) -> Terms:
    """For a rule of the file `unit`, with an empty graph."""
    return Terms(Session(Graph("replacement"), report), unit, Place("new", "new"))


def _flat(value: Any) -> tuple:
    return tuple(x for item in value for x in _flat(item)) if isinstance(value, tuple) else (value,)
