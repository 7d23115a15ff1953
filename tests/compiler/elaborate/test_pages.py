"""The pages that `netc explain` shows: each code has one, and its example makes the error that it explains."""

import re
from pathlib import Path

import pytest

from compiler.elaborate import check

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "netc/errors.d/elaborate.md").read_text()
PAGES = {part[:5]: part for part in re.split(r"^## (?=E\d{4})", TEXT, flags=re.MULTILINE)[1:]}
EXAMPLES = {code: example[1] for code, page in PAGES.items()
            if (example := re.search(r"```net\n(.*?)```", page, re.DOTALL))}


@pytest.mark.parametrize("code", EXAMPLES)
def test_example(code):
    found = check(EXAMPLES[code], name="example.net")
    assert {d.code for d in found if d.severity == "error" or d.code == code} == {code}


def test_every_code_has_a_page():
    files = (ROOT / "compiler/elaborate").glob("*.py")
    used = {code for file in files for code in re.findall(r'"(E0[2-5]\d\d)"', file.read_text())}
    assert used == set(PAGES)
