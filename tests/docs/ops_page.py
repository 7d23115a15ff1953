"""docs/ops.md from the registry of ops: `python -m tests.docs.ops_page` writes it."""

from __future__ import annotations

from compiler.ops import REGISTRY
from compiler.ops.base import KINDS
from tests.docs.examples import ROOT

PAGE = ROOT / "docs" / "ops.md"

HEAD = """# The ops

Made from the registry by `python -m tests.docs.ops_page`; `netc ops` and `netc ops NAME` print the same. Arguments are given by
position or name; tensors come by pipe, `x -> conv(8, 3x3)`, or as arguments, `add(a, b)`. [language.md](language.md) says how.

"""

ORDER = ("conv", "pool", "dense", "activation", "normalize", "random", "softmax", "elementwise", "reduce", "shape", "loss", "metric")


def text() -> str:
    """The whole page."""
    families: dict[str, list] = {}
    for op in REGISTRY.values():
        if op.signature is not None:
            families.setdefault(op.family, []).append(op)
    ordered = sorted(families, key=lambda family: (ORDER.index(family) if family in ORDER else len(ORDER), family))
    parts = [HEAD, " · ".join(f"[{family}](#{family})" for family in ordered), "\n"]
    for family in ordered:
        parts.append(f"\n## {family}\n")
        for op in families[family]:
            parts.append(f"\n**`{op.name}({op.signature})`**  \n{' '.join(op.doc.split())}\n")
    parts.append("\n## Kinds of arguments\n\n| kind | what |\n| --- | --- |\n")
    parts += [f"| `{kind}` | {what} |\n" for kind, what in KINDS.items()]
    parts.append("| words joined by `\\|` | one of the words |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text())
