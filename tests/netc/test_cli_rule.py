"""`netc rule` and `netc opt --rules`: what a user of rules sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.netc.command import netc

RULES = """lang 1

rule twice(x: tensor) { x -> relu -> relu => x -> relu }
rule negation(x: tensor) { --x => x }
"""
WRONG = "lang 1\n\nrule mean(x: tensor) { x -> relu -> p: avg_pool => x -> p -> relu }\n"
NET = """lang 1

net small {
  input x: f32[N, 8]
  output y = x -> dense(4) -> relu -> relu
}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in (("mine", RULES), ("wrong", WRONG), ("small", NET)):
        (tmp_path / f"{name}.net").write_text(text)
    return tmp_path


def test_right_rules(folder):
    done = netc("rule", "check", "mine.net", "--samples", 20, cwd=folder)
    assert done.code == 0 and not done.err
    assert [line.split(",")[0] for line in done.out.splitlines()] == ["twice: right on 20 nets", "negation: right on 20 nets"]


def test_one_of_them(folder):
    done = netc("rule", "check", "mine.net:negation", "--samples", 5, cwd=folder)
    assert done.code == 0 and done.out.startswith("negation: right on 5 nets")


def test_a_wrong_rule_and_its_counterexample(folder):
    done = netc("rule", "check", "wrong.net", cwd=folder)
    assert done.code == 1 and done.out.startswith("mean: wrong on 100 nets")
    for part in ("error[E0444]: `mean` changes", "--> wrong.net:3:1", "for x: f32[", "= note: x = [",
                 "the pattern makes", "the replacement makes", "max error", "1 error"):
        assert part in done.err, part


def test_as_data(folder):
    done = netc("rule", "check", "wrong.net", "--json", cwd=folder)
    report = json.loads(done.out)
    assert done.code == 1 and not done.err
    (rule,), (problem,) = report["rules"], report["errors"]
    assert (rule["name"], rule["wrong"], rule["samples"]) == ("mean", True, 100) and rule["error"] > 1e-3
    assert problem["code"] == "E0444" and problem["span"]["line"] == 3


@pytest.mark.parametrize("arguments, code", [
    (["rule", "check", "mine.net:twise"], "E0440"), (["rule", "check", "small.net"], "E0440"),
    (["rule", "check", "nix.net"], "E0120"), (["rule", "list", "nix.net"], "E0120"),
    (["opt", "small.net", "--rules", "mine.net:twise"], "E0440"), (["opt", "small.net", "--rules", "nix.net"], "E0120"),
    (["opt", "small.net", "--rules", "mine.net", "--off", "twice"], "E0411"),
])
def test_mistakes(folder, arguments, code):
    done = netc(*arguments, cwd=folder)
    assert done.code == 1 and f"error[{code}]" in done.err and "Traceback" not in done.err


def test_the_list(folder):
    assert netc("rule", "list", "mine.net", cwd=folder).out.split() == ["twice", "mine.net:3", "negation", "mine.net:4"]


def test_rules_are_a_pass(folder):
    done = netc("opt", "small.net", "--rules", "mine.net", "--explain", "--verify", cwd=folder)
    assert done.code == 0, done.err
    row = next(line for line in done.out.splitlines() if line.startswith("mine "))
    assert row.split()[1:3] == ["1", "0"]
    assert "taken: twice: relu · relu -> relu" in done.out and "y/relu1, y/relu2" in done.out


def test_their_pass_can_be_switched_off_and_is_gone_afterwards(folder):
    for choice in (["--off", "mine"], ["--only", "clean"]):
        report = json.loads(netc("opt", "small.net", "--rules", "mine.net", *choice, "--json", cwd=folder).out)
        assert report["passes"][0]["name"] == "mine" and report["passes"][0]["skipped"] == "switched off"
    report = json.loads(netc("opt", "small.net", "--json", cwd=folder).out)
    assert "mine" not in [entry["name"] for entry in report["passes"]]


def test_netc_check_reads_rules(folder):
    assert netc("check", "mine.net", cwd=folder).code == 0
    (folder / "types.net").write_text("lang 1\n\nrule f(x: tensor) { x -> max_pool => x -> relu }\n")
    done = netc("check", "types.net", cwd=folder)
    assert done.code == 1 and "E0443" in done.err


def test_rules_stand_next_to_nets(folder):
    (folder / "both.net").write_text(NET + "\n" + RULES.removeprefix("lang 1\n\n"))
    done = netc("opt", "both.net", "--rules", "both.net:twice", "--json", cwd=folder)
    assert json.loads(done.out)["passes"][0]["taken"] == 1
    assert netc("fmt", "--check", "both.net", cwd=folder).code == 0
