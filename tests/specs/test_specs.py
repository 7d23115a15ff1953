"""The shipped nets: checked, formatted, with the published sizes; what is compiled is what the interpreter computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from compiler import programs
from compiler.elaborate import check
from compiler.interpret import relative_error, run as interpret
from compiler.summary import summarize
from compiler.verify import verify
from dsl.format import format_file
from dsl.parse import parse

SPECS = Path(__file__).parent.parent.parent / "specs"
FILES = sorted(SPECS.glob("*.net"))
NETS = ["digits", "lenet", "logistic", "mlp", "traffic_sign"]
SGD = {"optimizer": {"name": "sgd", "args": {"momentum": 0.9, "weight_decay": 5e-4}}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_right_and_formatted(path):
    text = path.read_text()
    assert not check(path)
    file, problems = parse(text, str(path))
    assert not problems and format_file(file, text) == text


@pytest.mark.parametrize("settings, parameters", [({}, 6_998_552), ({"aux": True}, 13_378_280)], ids=["plain", "aux"])
def test_googlenet_has_the_parameters_of_the_paper_s_caffe_model(settings, parameters):
    net = netc.load(SPECS / "googlenet.net", settings=settings)
    rows, totals = summarize(net.graph)
    assert totals["params"] == parameters
    sides = [int(row["output"].rstrip("]").split(", ")[-1]) for row in rows if row["output"].count(",") == 3]
    assert [s for i, s in enumerate(sides) if s in (112, 56, 28, 14, 7) and s not in sides[:i]] == [112, 56, 28, 14, 7]
    assert len(net.graph.losses) == (3 if settings else 1)


@pytest.mark.parametrize("name, parameters", [("digits", 38_282), ("lenet", 431_080), ("logistic", 15), ("mlp", 8_970),
                                              ("traffic_sign", 12_107)])
def test_parameters(name, parameters):
    net = netc.load(SPECS / f"{name}.net")
    assert summarize(net.graph)[1]["params"] == sum(int(np.prod(n.type.shape)) for n in net.graph.leaves("parameter"))
    assert summarize(net.graph)[1]["params"] == parameters


def feeds(net, batch: int) -> dict[str, np.ndarray]:
    stream = np.random.default_rng(batch)
    out = {}
    for field in net.fields:
        shape = tuple(batch if size == "N" else size for size in field["shape"])
        out[field["name"]] = stream.integers(0, field["classes"] or 256, shape).astype(field["dtype"]) \
            if field["dtype"] != "float32" else stream.standard_normal(shape).astype("f4")
    return out


@pytest.mark.parametrize("name", NETS)
def test_compiled_programs_are_what_the_interpreter_says(name):
    net = netc.load(SPECS / f"{name}.net")
    exe = net.compile("train", seed=1)
    values = {path: array.copy() for path, array in exe.parameters.tensors().items()}
    for batch in (1, 3):
        given = feeds(net, batch)
        inputs = {e["name"]: given[e["name"]] for e in net.fields if e["role"] == "input"}
        graph = programs.run(net.graph)
        want = interpret(graph, inputs, values)
        for key, array in exe(**inputs).items():
            assert relative_error(want[graph.outputs[key]], array) < 1e-4
    graph = programs.step(net.graph, net.train_config)
    given |= {"lr": np.float32(0.1), "step": np.float32(1), "seed": np.uint32(3)}
    given = {n.name: given[n.name] for n in graph.leaves("input")}
    want = interpret(graph, given, values)
    got = exe.call("step", given)
    for key, node in {**graph.losses, **graph.metrics}.items():
        assert relative_error(want[node], got[key]) < 1e-4
    for path, node in graph.updates.items():
        assert relative_error(want[node], exe.parameters[path]) < 1e-3, path


@pytest.mark.parametrize("aux", [False, True])
def test_googlenet_trains_as_a_right_graph(aux):
    net = netc.load(SPECS / "googlenet.net", settings={"aux": aux})
    graph = verify(programs.step(net.graph, SGD))
    trained = {path for path in graph.updates if not path.endswith("/momentum")}
    assert trained == {n.name for n in net.graph.leaves("parameter")}
