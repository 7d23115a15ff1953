"""The networks that are shipped: exact parameter counts, shapes, and programs made from them by chance."""

import random
import re
from pathlib import Path

import pytest

from compiler.dims import product
from compiler.elaborate import check, load

SPECS = Path(__file__).parents[3] / "specs"


def parameters(program) -> int:
    return sum(product(node.type.shape) for node in program.graph.leaves("parameter") if not node.attrs["state"])


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.net")), ids=lambda path: path.name)
def test_no_errors(path):
    assert check(path) == []


@pytest.mark.parametrize("settings, count", [({}, 6_998_552), ({"aux": "true"}, 13_378_280)])
def test_googlenet(settings, count):
    program = load(SPECS / "googlenet.net", settings=settings)
    assert parameters(program) == count
    assert len(program.graph.losses) == (3 if settings else 1)
    maps = [node for node in program.graph.nodes() if node.type.rank == 4 and node.op != "parameter"
            and node.name[:2] not in ("a1", "a2")]
    assert list(dict.fromkeys(node.type.shape[2] for node in maps)) == [224, 112, 56, 28, 14, 7, 1]


def test_layer_names_of_an_inception_module():
    program = load(SPECS / "googlenet.net")
    layers = [node.name for node in program.graph.nodes() if node.name.startswith("i3a") and node.op == "conv"]
    assert layers == ["i3a/b1/conv", "i3a/b3/reduce/conv", "i3a/b3/conv_relu/conv", "i3a/b5/reduce/conv",
                      "i3a/b5/conv_relu/conv", "i3a/bp/conv_relu/conv"]


def test_mutilated_programs_get_errors_not_tracebacks():
    rng = random.Random(5)
    texts = [path.read_text() for path in SPECS.glob("*.net") if path.name != "googlenet.net"]
    words = [re.findall(r"\s+|\w+|->|\*\*|.", text) for text in texts]
    pool = [word for text in words for word in text if word.strip()]
    pool += ["-1", "2.5", "1e300", "50%", "3 epochs", "[[1], 2]"]
    for _ in range(300):
        text = list(rng.choice(words))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text[at:at + rng.randint(0, 1)] = [rng.choice(pool)] * rng.randint(0, 1)
        for diagnostic in check("".join(text) + "\n", name="specs/mutilated.net"):
            assert re.match(r"(error|warning)\[E\d{4}\]: ", diagnostic.render())
