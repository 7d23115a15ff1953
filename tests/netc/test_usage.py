"""Wrong command lines: each kind has its code, says what is wrong with which verb, and what was probably meant."""

import pytest

from tests.netc.command import netc

WRONG = [
    ("complie x.net", "E0450", "`netc` has no verb `complie`", "did you mean `compile`?"),
    ("frobnicate", "E0450", "`netc` has no verb `frobnicate`", "`netc --help`"),
    ("--nope", "E0451", "`netc` has no option `--nope`", "`netc --help`"),
    ("run x.netb --ato 1", "E0451", "`netc run` has no option `--ato`", "did you mean `--atol`?"),
    ("run x.netb --frobnicate", "E0451", "`netc run` has no option `--frobnicate`", "`netc run --help`"),
    ("run", "E0452", "`netc run` needs the argument `ARTIFACT`", "`netc run --help`"),
    ("data", "E0452", "`netc data` needs the argument", "`netc data --help`"),
    ("run x.netb --atol much", "E0453", "`--atol` of `netc run`: `much` is not", "`netc run --help`"),
    ("run x.netb --threads 0", "E0453", "`--threads` of `netc run`: 0 is not in the range", "`netc run --help`"),
    ("run x.netb y.netb", "E0454", "`netc run`: got unexpected extra argument (y.netb)", "`netc run --help`"),
    ("run x.netb --input", "E0454", "option `--input` requires an argument", "--help"),
    ("train specs/digits.net --resume --fresh", "E0454", "exclude each other", "`netc train --help`"),
]


@pytest.mark.parametrize(("line", "code", "message", "hint"), WRONG, ids=[line for line, *_ in WRONG])
def test_wrong_usage(line, code, message, hint):
    done = netc(*line.split())
    assert done.code == 2 and done.out == ""
    first, second = done.err.splitlines()
    assert first.startswith(f"error[{code}]: ") and message in first
    assert second.startswith("  = help: ") and hint in second


def test_an_unknown_verb_of_a_verb():
    done = netc("rule", "chek")
    assert done.code == 2 and "`chek`" in done.err and "did you mean `check`?" in done.err


def test_no_verb_at_all_prints_the_help():
    done = netc()
    assert done.code == 2 and "Usage: netc" in done.err and "compile" in done.err and "error[" not in done.err


@pytest.mark.parametrize("code", sorted({code for _, code, *_ in WRONG}))
def test_each_kind_is_explained(code):
    done = netc("explain", code)
    assert done.code == 0 and code in done.out
