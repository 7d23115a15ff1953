"""Train and data sections: what they resolve to, and what is refused."""

import json

import pytest

from compiler.elaborate import check, load
from compiler.elaborate.sections import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from compiler.ops.base import parse_signature
from compiler.optimizer import OPTIMIZERS as FORMULAS
from dsl.diagnostics import DiagnosticError
from runtime.data.augment import AUGMENTATIONS as APPLIED
from runtime.data.augment import complete_args
from runtime.data.config import Augment, DataConfig
from runtime.schedule import KINDS
from runtime.train_config import TrainConfig
from tests.compiler.elaborate.programs import at

NET = """net n {
  input x: f32[N, 3, 8, 8]
  label y: i32[N] in 4
  logits = x -> flatten -> dense(4)
  output p = logits -> softmax
  loss cross_entropy(logits, y)
  metric accuracy(logits, y)
  metric error = mean_absolute_error(p, p)
}
"""
DATA = 'data d {\n  source = "npz:d.npz", batch = 16\n  %s\n}\n'
TRAIN = "train fit {\n  optimizer = %s\n  run = 15 epochs\n  %s\n}\n"


def trained(optimizer: str, more: str = ""):
    return load(NET + DATA % "" + TRAIN % (optimizer, more), name="t.net").train


def data(more: str) -> dict:
    return load(NET + DATA % more, name="t.net").data


def wrong(text: str) -> list[tuple[str, str]]:
    return [(d.code, at(d)) for d in check(text, name="t.net") if d.severity == "error"]


def test_a_whole_section():
    config = trained("sgd(lr = step(0.01, every = 5 epochs, gamma = 0.5), momentum = 0.9, weight_decay = 5e-4)",
                     "patience = 3 epochs, seed = 7, monitor = accuracy, net = n, data = d")
    assert config.to_json() == {
        "name": "fit", "net": "n", "data": "d",
        "optimizer": {"name": "sgd", "args": {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}},
        "schedule": {"kind": "step", "args": {"lr": 0.01, "every": {"epochs": 5}, "gamma": 0.5, "warmup": None}},
        "run": {"epochs": 15}, "patience": 3, "seed": 7, "monitor": {"name": "accuracy", "mode": "max"}}


@pytest.mark.parametrize("rate, schedule", [
    ("0.1", {"kind": "constant", "args": {"lr": 0.1, "warmup": None}}),
    ("constant(1, warmup = 500 steps)", {"kind": "constant", "args": {"lr": 1.0, "warmup": {"steps": 500}}}),
    ("multistep(0.1, [10 epochs, 12.5 epochs])",
     {"kind": "multistep", "args": {"lr": 0.1, "at": [{"epochs": 10}, {"epochs": 12.5}], "gamma": 0.1,
                                    "warmup": None}}),
    ("exp(0.1, 95%)", {"kind": "exp", "args": {"lr": 0.1, "gamma": 0.95, "every": {"epochs": 1}, "warmup": None}}),
    ("inv(0.01, power = 0.5)", {"kind": "inv", "args": {"lr": 0.01, "gamma": 1e-4, "power": 0.5, "warmup": None}}),
    ("poly(0.01)", {"kind": "poly", "args": {"lr": 0.01, "power": 1.0, "over": {"epochs": 15}, "end": 0.0,
                                             "warmup": None}}),
    ("cosine(0.01, over = 90 steps, end = 1e-5)",
     {"kind": "cosine", "args": {"lr": 0.01, "over": {"steps": 90}, "end": 1e-5, "warmup": None}}),
])
def test_schedules(rate, schedule):
    config = trained(f"sgd({rate})").to_json()
    assert config["schedule"] == schedule
    assert TrainConfig.from_json(json.loads(json.dumps(config))).rate(10, 100) > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_the_settings_of_its_formula(name):
    config = trained(f"{name}(lr = 0.5)")
    assert config.optimizer == {"name": name, "args": FORMULAS[name][1]}
    assert config.schedule["args"]["lr"] == 0.5


def test_optimizers_with_a_rate_of_their_own():
    assert trained("adam").schedule == {"kind": "constant", "args": {"lr": 1e-3, "warmup": None}}
    assert trained("rmsprop(centered)").optimizer["args"]["centered"] is True


def test_tables_are_those_of_the_runtime():
    assert {kind: [a.name for a in parse_signature(text)] for kind, text in SCHEDULES.items()} == {
        kind: [*entry.arguments, "warmup"] for kind, entry in KINDS.items()}
    for kind, text in SCHEDULES.items():
        for arg in parse_signature(text):
            if arg.name != "warmup":
                default = KINDS[kind].arguments[arg.name]
                assert (arg.required, arg.default) == (default is ..., None if default is ... else default)
    assert {op: [a.name for a in parse_signature(text)] for op, text in AUGMENTATIONS.items()} == {
        op: [p.name for p in entry.parameters] for op, entry in APPLIED.items()}


def test_defaults_of_a_section():
    config = trained("sgd(0.1)")
    assert (config.net, config.data, config.patience, config.seed, config.monitor) == (
        "n", "d", None, 0, {"name": "loss", "mode": "min"})
    assert trained("sgd(0.1)", "monitor = error").monitor == {"name": "error", "mode": "min"}


def test_data():
    config = data("""split = [train = 70%, validate = 10%, test = 20%], shuffle = false, seed = 3
  augment = [crop(pad = 2), jitter(0.1), flip, flip(vertical)]
  feed = [x = ["a", "b"], y = "c"], classes = ["one", "two", "three", "four"]""")
    assert config == {
        "name": "d", "source": "npz:d.npz", "root": ".", "batch": 16,
        "split": {"train": 0.7, "validate": 0.1, "test": 0.2},
        "augment": [{"op": "crop", "args": {"pad": 2}}, {"op": "jitter", "args": {"amount": 0.1}},
                    {"op": "flip", "args": {"direction": "horizontal"}},
                    {"op": "flip", "args": {"direction": "vertical"}}],
        "feed": {"x": ["a", "b"], "y": "c"}, "shuffle": False, "seed": 3, "classes": ["one", "two", "three", "four"]}
    read = DataConfig.from_json(json.loads(json.dumps(config)))
    assert read.to_json() == config
    for step in read.augment:
        assert isinstance(step, Augment) and complete_args(step) == step.args


def test_sources_of_parts():
    text = DATA.replace('"npz:d.npz"', '[train = "idx:a", test = "idx:b"]')
    assert load(NET + text % "", name="t.net").data["source"] == {"train": "idx:a", "test": "idx:b"}


def test_root_is_the_folder_of_the_file(tmp_path):
    (tmp_path / "t.net").write_text(NET + DATA % 'root = "images"')
    assert load(tmp_path / "t.net").data["root"] == str(tmp_path / "images")


@pytest.mark.parametrize("optimizer, more, code, text", [
    ("sgd", "", "E0421", "sgd"), ("sdg(0.1)", "", "E0522", "sdg"), ("0.1", "", "E0522", "0.1"),
    ("sgd(0.1, moment = 0.9)", "", "E0420", "moment = 0.9"), ("sgd(0.1, momentum = 1)", "", "E0425", "1"),
    ("sgd(0.1, nesterov)", "", "E0425", "sgd(0.1, nesterov)"), ("sgd(-0.1)", "", "E0425", "-0.1"),
    ("sgd(stp(0.1))", "", "E0522", "stp"), ("sgd(step(0.1))", "", "E0421", "step(0.1)"),
    ("sgd(step(0.1, every = 5))", "", "E0426", "5"), ("sgd(step(0.1, every = 5 epoch_s))", "", "E0426", "5 epoch_s"),
    ("sgd(step(0.1, every = 0 epochs))", "", "E0425", "0 epochs"),
    ("sgd(step(0.1, every = 1.5 steps))", "", "E0425", "1.5 steps"),
    ("sgd(multistep(0.1, at = [5 epochs, 3 epochs]))", "", "E0425", "3 epochs"),
    ("sgd(multistep(0.1, at = [5 epochs, 300 steps]))", "", "E0425", "300 steps"),
    ("sgd(multistep(0.1, at = []))", "", "E0426", "[]"), ("sgd(0.1)", "patience = 3", "E0426", "3"),
    ("sgd(0.1)", "patience = 3 steps", "E0426", "3 steps"), ("sgd(0.1)", "seed = -1", "E0425", "-1"),
    ("sgd(0.1)", "sead = 1", "E0520", "sead = 1"), ("sgd(0.1)", "run = 3 epochs", "E0520", "run = 3 epochs"),
    ("sgd(0.1)", "net = m", "E0524", "m"), ("sgd(0.1)", 'net = "n"', "E0524", '"n"'),
    ("sgd(0.1)", "data = e", "E0524", "e"),
    ("sgd(0.1)", "monitor = acuracy", "E0523", "acuracy"), ("adam(eps = 0)", "", "E0425", "0"),
    ("sgd(lr = true)", "", "E0423", "true"), ("sgd(cosine(0.1, end = -1))", "", "E0425", "-1"),
])
def test_wrong_train_sections(optimizer, more, code, text):
    assert wrong(NET + DATA % "" + TRAIN % (optimizer, more)) == [(code, text)]


def test_missing_settings():
    assert [(d.code, d.hint) for d in check(NET + "train fit {\n  seed = 1\n}\ndata d {\n  seed = 1\n}\n",
                                            name="t.net")] == [
        ("E0521", "add `optimizer = sgd(lr = 0.1), run = 10 epochs`"),
        ("E0521", 'add `source = "csv:file.csv", batch = 64`')]


@pytest.mark.parametrize("more, code, text", [
    ("split = [train = 70%, test = 20%]", "E0525", "[train = 70%, test = 20%]"), ("split = [train = 1]", "E0426", "1"),
    ("split = [70%, 30%]", "E0525", "70%"), ("split = [train = 70%, tset = 30%]", "E0525", "30%"),
    ("split = 3", "E0525", "3"),
    ("augment = [crp(2)]", "E0522", "crp"), ("augment = [crop]", "E0421", "crop"),
    ("augment = [crop(2.5)]", "E0423", "2.5"),
    ("augment = crop(2)", "E0423", "crop(2)"), ("augment = [flip(sideways)]", "E0423", "sideways"),
    ("feed = [x = 3]", "E0423", "3"), ("feed = [z = \"a\"]", "E0526", 'z = "a"'), ("feed = \"a\"", "E0423", '"a"'),
    ("shuffle = 1", "E0423", "1"), ("seed = 1.5", "E0423", "1.5"), ("classes = [\"a\", \"a\"]", "E0525", '["a", "a"]'),
    ("classes = \"a\"", "E0423", '"a"'), ("batches = 3", "E0520", "batches = 3"), ("root = 3", "E0423", "3"),
])
def test_wrong_data_sections(more, code, text):
    assert wrong(NET + DATA % more + TRAIN % ("adam", "")) == [(code, text)]


def test_wrong_sources():
    for source, code, text in (("3", "E0423", "3"), ('[test = "a"]', "E0525", '[test = "a"]'),
                               ('["a"]', "E0525", '"a"')):
        assert wrong(NET + DATA.replace('"npz:d.npz"', source) % "") == [(code, text)]


def test_choosing_sections():
    two = NET + DATA % "" + TRAIN % ("adam", "seed = 1") + (TRAIN % ("sgd(0.1)", "net = n")).replace("fit", "slow")
    assert load(two, name="t.net").train is None
    assert load(two, name="t.net", train="slow").train.optimizer["name"] == "sgd"
    assert load(two, name="t.net", net="slow").train.name == "slow"
    with pytest.raises(DiagnosticError) as caught:
        load(two, name="t.net", train="fitt")
    assert [(d.code, d.hint) for d in caught.value.diagnostics] == [("E0210", "did you mean `fit`?")]


def test_a_train_section_chooses_its_net():
    other = NET.replace("net n", "net m").replace("dense(4)", "dense(4, bias = false)")
    text = NET + other + DATA % "" + TRAIN % ("adam", "net = m")
    program = load(text, name="t.net", train="fit")
    assert program.net == "m" and program.train.net == "m"
    assert load(text, name="t.net", net="n").train is None
    with pytest.raises(DiagnosticError) as caught:
        load(text, name="t.net", train="fit", net="n")
    assert [d.code for d in caught.value.diagnostics] == ["E0211"]
