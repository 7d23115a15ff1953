"""Which of the user's blocks a node is drawn in: by its name, or by the layers that passes joined in it."""

from __future__ import annotations

from collections import Counter

from compiler.group import is_leaf
from compiler.ir import Graph, Node

PARTS = ("grad", "update")  # the backward pass and the optimizer, before the path of the layer they are about


def drawn(node: Node) -> bool:
    """Weights and numbers are drawn with the node that reads them."""
    return node.op not in ("parameter", "constant")


def blocks(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The paths of the blocks each drawn node is in, outermost first.

    A block that holds one thing only is none: a chain of those is its innermost. A node named like a block, such as the
    concat at the end of `i3a`, is in it.
    """
    nodes = [node for node in graph.nodes() if drawn(node)]
    folders = {node.name: _folder(node) for node in nodes}
    known = {path for folder in folders.values() for path in _above(folder)}
    paths = {node.name: node.name if node.name in known and not is_leaf(node) else folders[node.name] for node in nodes}
    held = Counter(path for folder in paths.values() for path in _above(folder))
    chains = {path for path in held
              if any(held[other] == held[path] and other.rpartition("/")[0] == path for other in held)}
    return {name: tuple(path for path in _above(folder) if held[path] > 1 and path not in chains)
            for name, folder in paths.items()}


def _folder(node: Node) -> str:
    """The path above a node. What became of several layers is in the innermost block that holds them all."""
    if "+" not in node.name:
        return node.name.rpartition("/")[0]
    part = node.name.partition("/")[0]
    folders = [origin.layer.split("/")[:-1] for origin in node.origins]
    common = []
    for words in zip(*folders):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return "/".join([part, *common] if part in PARTS else common)


def _above(path: str) -> list[str]:
    """A path and the paths above it, outermost first; none for the top."""
    words = path.split("/") if path else []
    return ["/".join(words[:i + 1]) for i in range(len(words))]
