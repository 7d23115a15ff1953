"""The examples of the documents: fenced blocks with what an HTML comment above them says.

`<!-- in: net -->` puts a fragment into a net with a few inputs, `<!-- each: net -->` each of its lines on its own;
`<!-- true -->` takes each line as an expression that must hold; `<!-- long: why -->` leaves a block out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)((?: \w+=\w+)*)$")
COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$")
INLINE_ERROR = re.compile(r"#\s*(E\d{4})")

CONTEXTS = {
    "net": """net example {{
  input image: f32[N, 3, 32, 32]
  input x: f32[N, 16]
  label class: i32[N] in 10
  label target: f32[N, 1]
{0}
  output rest = x
}}
""",
    "data": """data example {{
  {0}
}}
""",
    "train": """net example {{
  input x: f32[N, 4]
  label y: f32[N, 1]
  output p = x -> dense(1)
  loss mse(p, y)
  metric mean_absolute_error(p, y)
}}

train fit {{
  {0}
}}
""",
}
DATA_DEFAULTS = {"source": '"csv:table.csv"', "batch": "64"}
TRAIN_DEFAULTS = {"optimizer": "sgd(0.1)", "run": "10 epochs"}


@dataclass(frozen=True)
class Example:
    """One fenced block. marks: what the comments right above say, key → value ("" where there is none)."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples(page: Path) -> list[Example]:
    """All fenced blocks of a page, in order."""
    found, marks, lines = [], {}, page.read_text().split("\n")
    i = 0
    while i < len(lines):
        line = lines[i].strip()
        if comment := COMMENT.match(line):
            for part in comment[1].split(";"):
                key, _, value = part.partition(":")
                marks[key.strip()] = value.strip()
        elif fence := FENCE.match(line):
            indent = len(lines[i]) - len(lines[i].lstrip())
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
            options = dict(option.split("=") for option in fence[2].split())
            text = "\n".join(part[indent:] for part in lines[i + 1:end]) + "\n"
            found.append(Example(page, i + 1, fence[1], options, text, marks))
            marks, i = {}, end
        elif line:
            marks = {}
        i += 1
    return found


def programs(example: Example) -> list[tuple[str, str, list[str]]]:
    """The whole texts that a ```net block stands for: (id, text, expected error codes)."""
    wanted = [example.options["error"]] if "error" in example.options else []
    if "true" in example.marks:
        return [(f"{example.place}+{i}", holds(line), []) for i, line in enumerate(code_lines(example.text), 1)]
    if "each" in example.marks:
        context = example.marks["each"]
        return [(f"{example.place}+{i}", wrap(context, line), INLINE_ERROR.findall(line))
                for i, line in enumerate(code_lines(example.text), 1)]
    text = wrap(example.marks["in"], example.text) if "in" in example.marks else example.text
    return [(example.place, text, wanted)]


def code_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def wrap(context: str, fragment: str) -> str:
    if context == "train":
        given = fragment.split("=")[0].strip()
        fragment = "\n  ".join([fragment.strip("\n"), *(f"{k} = {v}" for k, v in TRAIN_DEFAULTS.items() if k != given)])
    if context == "data":
        given = fragment.split("=")[0].strip()
        fragment = "\n  ".join([fragment.strip(), *(f"{k} = {v}" for k, v in DATA_DEFAULTS.items() if k != given)])
    return CONTEXTS[context].format(fragment.rstrip("\n"))


def holds(expression: str) -> str:
    """A net that has an output, and so is right, only where the expression is true."""
    return "net example(n: int = 4) {\n  input image: f32[N, 3, 32, 32]\n" \
        f"  if {expression} {{\n    output y = image\n  }}\n}}\n"
