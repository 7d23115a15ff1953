"""Everything that the documents say and a machine can check."""

from __future__ import annotations

import pytest

from compiler.elaborate import check, load
from tests.docs import ops_page
from tests.docs.examples import PAGES, ROOT, examples, programs

EXAMPLES = [example for page in PAGES for example in examples(page)]
PROGRAMS = [pytest.param(text, wanted, id=place)
            for example in EXAMPLES if example.language == "net" for place, text, wanted in programs(example)]
NAME = str(ROOT / "docs" / "example.net")


@pytest.mark.parametrize("text, wanted", PROGRAMS)
def test_net_examples_are_right_or_give_their_error(text, wanted):
    errors = [d for d in check(text, name=NAME) if d.severity == "error"]
    assert [d.code for d in errors] == wanted, "\n".join(d.render() for d in errors)


WEIGHTS = [(before, example) for before, example in zip(EXAMPLES, EXAMPLES[1:]) if example.language == "weights"]


@pytest.mark.parametrize("net, weights", WEIGHTS, ids=[weights.place for _, weights in WEIGHTS])
def test_weights_are_called_as_the_page_says(net, weights):
    (_, text, _), = programs(net)
    graph = load(text, name=NAME).graph
    assert [node.name for node in graph.leaves("parameter")] == weights.text.split()


def test_the_page_of_ops_is_up_to_date():
    assert ops_page.PAGE.read_text() == ops_page.text(), "python -m tests.docs.ops_page writes it"
