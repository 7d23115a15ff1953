"""Hypothesis strategies for whole syntax trees: every tree that some text parses to can come out."""

from __future__ import annotations

from hypothesis import strategies as st

from dsl import tree as t
from dsl.diagnostics import Source, Span
from dsl.lexer import MAX_INT, RESERVED

NOWHERE = Span(Source("generated", ""), 1, 1, 1, 1)

# The soft keywords and unit-like words are drawn often: they are where a printer and a parser may disagree.
WORDS = [
    "x",
    "y",
    "conv",
    "relu",
    "N",
    "lang",
    "import",
    "as",
    "let",
    "block",
    "net",
    "data",
    "train",
    "input",
    "label",
    "output",
    "loss",
    "metric",
    "layer",
    "x3",
    "e5",
    "epochs",
    "f32",
    "_",
    "If",
]
names = st.one_of(
    st.sampled_from(WORDS),
    st.builds(str.__add__, st.sampled_from("abxN_"), st.text("ax_Z09", max_size=4)).filter(
        lambda word: word not in RESERVED
    ),
)
units = st.one_of(st.none(), st.none(), names, st.just("%"))
numbers = st.builds(
    t.Number,
    st.just(NOWHERE),
    st.one_of(st.integers(0, 300), st.integers(0, MAX_INT), st.floats(0, allow_infinity=False, allow_nan=False)),
    units,
)
dims = st.builds(t.Dims, st.just(NOWHERE), st.lists(st.integers(0, 300), min_size=2, max_size=4).map(tuple))
strings = st.builds(t.String, st.just(NOWHERE), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
bools = st.builds(t.Bool, st.just(NOWHERE), st.booleans())
references = st.builds(t.Name, st.just(NOWHERE), st.one_of(names.map(lambda n: (n,)), st.tuples(names, names)))
atoms = st.one_of(numbers, dims, strings, bools, references)
OPERATORS = ["or", "and", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "//", "%"]


def _arguments(values):
    return st.lists(st.builds(t.Argument, st.just(NOWHERE), values, st.one_of(st.none(), names)), max_size=4).map(tuple)


def _calls(values):
    return st.builds(t.Call, st.just(NOWHERE), references, _arguments(values))


def _stage_calls(values):
    bare = st.builds(t.Call, st.just(NOWHERE), references, st.just(()), st.just(True))
    return st.one_of(bare, _calls(values))


def _compound(values):
    stages = st.builds(
        t.Stage, st.just(NOWHERE), _stage_calls(values), st.one_of(st.none(), names), st.one_of(st.none(), values)
    )
    tuples = st.builds(t.Tuple, st.just(NOWHERE), st.lists(values, min_size=2, max_size=3).map(tuple))
    return st.one_of(
        _calls(values),
        st.builds(t.List, st.just(NOWHERE), _arguments(values)),
        st.builds(t.Unary, st.just(NOWHERE), st.sampled_from(["-", "not"]), values),
        st.builds(t.Binary, st.just(NOWHERE), st.sampled_from(OPERATORS), values, values),
        st.builds(
            t.Pipe, st.just(NOWHERE), st.one_of(values, tuples), st.lists(stages, min_size=1, max_size=3).map(tuple)
        ),
    )


_all_expressions = st.recursive(atoms, _compound, max_leaves=6)
expressions = st.deferred(lambda: _all_expressions)  # deferred: its repr in a failure stays short

whole_numbers = st.builds(t.Number, st.just(NOWHERE), st.integers(0, 300))
type_dims = st.recursive(
    st.one_of(whole_numbers, references),
    lambda inner: st.one_of(
        st.builds(t.Unary, st.just(NOWHERE), st.just("-"), inner),
        st.builds(t.Binary, st.just(NOWHERE), st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner, inner),
    ),
    max_leaves=4,
)
tensor_types = st.builds(
    t.TensorSpec, st.just(NOWHERE), names, st.lists(st.deferred(lambda: type_dims), max_size=3).map(tuple)
)
types = st.one_of(tensor_types, st.builds(t.TypeName, st.just(NOWHERE), names))

targets = st.lists(
    st.builds(t.Target, st.just(NOWHERE), names, st.one_of(st.none(), tensor_types)), min_size=1, max_size=3
).map(tuple)
maybe_expression, maybe_name = st.one_of(st.none(), expressions), st.one_of(st.none(), names)
simple_statements = st.one_of(
    st.builds(t.Binding, st.just(NOWHERE), targets, expressions),
    st.builds(t.Let, st.just(NOWHERE), names, expressions),
    st.builds(t.Layer, st.just(NOWHERE), names, _stage_calls(expressions)),
    st.builds(t.Input, st.just(NOWHERE), names, tensor_types),
    st.builds(t.Label, st.just(NOWHERE), names, tensor_types, maybe_expression),
    st.builds(t.Output, st.just(NOWHERE), names, maybe_expression),
    st.builds(t.Loss, st.just(NOWHERE), expressions, maybe_name),
    st.builds(t.Metric, st.just(NOWHERE), expressions, maybe_name),
)
_all_statements = st.recursive(
    simple_statements,
    lambda inner: st.builds(
        t.If,
        st.just(NOWHERE),
        expressions,
        st.lists(inner, max_size=2).map(tuple),
        st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=4,
)
statements = st.deferred(lambda: _all_statements)
bodies = st.lists(statements, max_size=3).map(tuple)

parameters = st.lists(
    st.builds(t.Parameter, st.just(NOWHERE), names, st.one_of(st.none(), types), maybe_expression).filter(
        lambda p: p.type is not None or p.default is not None
    ),
    max_size=3,
).map(tuple)
sides = st.one_of(
    expressions, st.builds(t.Tuple, st.just(NOWHERE), st.lists(expressions, min_size=2, max_size=3).map(tuple))
)
declarations = st.one_of(
    st.builds(t.Import, st.just(NOWHERE), strings, names),
    st.builds(t.Let, st.just(NOWHERE), names, expressions),
    st.builds(t.Block, st.just(NOWHERE), names, parameters, targets, bodies),
    st.builds(t.Net, st.just(NOWHERE), names, parameters, bodies),
    st.builds(t.Rule, st.just(NOWHERE), names, parameters, sides, sides, maybe_expression),
    st.builds(
        t.Section,
        st.just(NOWHERE),
        st.sampled_from(["data", "train"]),
        names,
        st.lists(st.builds(t.Setting, st.just(NOWHERE), names, expressions), max_size=5).map(tuple),
    ),
)
files = st.builds(t.File, st.just(NOWHERE), st.just(1), st.lists(declarations, max_size=3).map(tuple))
