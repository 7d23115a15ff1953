"""A picture of a graph as SVG: blocks as boxes, kernels as colours; it follows the reader's light or dark theme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from compiler import tally
from compiler.group import is_view
from compiler.ir import Graph, Node
from compiler.ops import REGISTRY
from netc.view.blocks import blocks, drawn
from netc.view.layered import Drawing, draw
from netc.view.stages import History, Stage

MOST = 90  # things that are shown before blocks stay closed
PAD, HEAD, FOOT = 14.0, 34.0, 18.0
STYLE = """
  svg { --ground: #fbfbfa; --surface: #fff; --line: #c9c9c3; --text: #1f2328; --muted: #6b7076; --edge: #b4b8bd;
    --block: rgba(20, 24, 30, 0.03); --tint: 0.945 0.045; --mark: 0.66 0.13; background: var(--ground); }
  @media (prefers-color-scheme: dark) { svg { --ground: #14161a; --surface: #1c1f24; --line: #444a53; --text: #e4e6e9;
    --muted: #9aa1aa; --edge: #565d67; --block: rgba(255, 255, 255, 0.03); --tint: 0.315 0.05; --mark: 0.72 0.12; } }
  text { font: 11px "Inter", ui-sans-serif, system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--muted); }
  .title { font-size: 12.5px; font-weight: 600; fill: var(--text); }
  .head { font-size: 15px; font-weight: 650; fill: var(--text); }
  .block { fill: var(--block); stroke: var(--line); stroke-opacity: 0.6; }
  .thing { fill: var(--surface); stroke: var(--line); }
  .edge { fill: none; stroke: var(--edge); stroke-width: 1.2; }
  .arrow { fill: var(--edge); }
"""


@dataclass
class Box:
    """A node, a closed block, or an open block with what is in it. x, y: the corner."""

    id: str
    node: Node | None = None
    items: dict[str, Box] = field(default_factory=dict)
    edges: set[tuple[str, str, str]] = field(default_factory=set)  # from, to, and the thing whose value it is
    ins: dict[str, None] = field(default_factory=dict)
    outs: dict[str, None] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    drawing: Drawing | None = None
    ports: dict[str, float] = field(default_factory=dict)


def still(history: History, stage: Stage) -> str:
    """The SVG of a stage."""
    graph, batch = stage.lowered, history.options.batch
    homes = blocks(graph)
    root = _tree(graph, homes, _open(homes))
    made = tally.kernels(graph)
    kernel = {name: i for i, names in enumerate(made) for name in names}
    sizes = Counter(kernel.values())
    layers = dict.fromkeys(origin.layer for node in graph.sorted() for origin in sorted(node.origins))
    order = {name: i for i, name in enumerate(layers)}
    hues = [_hue(graph, names, order, batch) for names in made]
    _measure(root, homes, kernel)
    _move(root, 24.0, 62.0)
    shapes = _shapes(root, homes, kernel, sizes, hues)
    counts = history.counts(stage)
    width, height = max(root.width + 48, 420), root.height + 86
    about = (f"{history.program}, {'as written' if stage.step is None else 'after ' + stage.name}, batch {batch}: "
             f"{counts['kernels']:,} kernels, {counts['flops'] / 1e9:.3g} GFLOPs, {counts['bytes'] / 1e6:.3g} MB")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="img" aria-label="{escape(history.net)}">\n<style>{STYLE}</style>\n'
            f'<text class="head" x="24" y="30">{escape(history.net)}</text>\n'
            f'<text x="24" y="47">{escape(about)}</text>\n'
            + "\n".join(shapes) + "\n</svg>\n")


# --- what is shown ----------------------------------------------------------------------------------------------------

def _open(homes: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The blocks that are open: as many levels as leave a picture that can be read."""
    found: set[str] = set()
    for depth in range(1, 1 + max((len(chain) for chain in homes.values()), default=0)):
        if len({chain[depth] if len(chain) > depth else name for name, chain in homes.items()}) > MOST:
            break
        found = {path for chain in homes.values() for path in chain[:depth]}
    return found


def _tree(graph: Graph, homes: Mapping[str, tuple[str, ...]], opened: set[str]) -> Box:
    root = Box("")
    seen: dict[str, tuple[Box, list[Box]]] = {}  # what shows a node, and the boxes around that, outermost first
    for node in graph.sorted():
        if not drawn(node):
            continue
        around = [root]
        for path in homes[node.name]:
            box = around[-1].items.setdefault(f"b:{path}", Box(f"b:{path}"))
            around.append(box)
            if path not in opened:
                break
        else:
            around.append(around[-1].items.setdefault(f"n:{node.name}", Box(f"n:{node.name}", node)))
        seen[node.name] = around[-1], around[:-1]
    for name, (box, around) in seen.items():
        for source in graph[name].inputs:
            if source in seen and seen[source][0] is not box:
                _join(*seen[source], box, around)
    return root


def _join(source: Box, above: list[Box], target: Box, around: list[Box]) -> None:
    """An edge, in parts: out of the blocks that only its source is in, over, and into those of its target."""
    shared = sum(1 for one, other in zip(above, around) if one is other)
    start = source.id
    for box in reversed(above[shared:]):
        box.outs[source.id] = None
        box.edges.add((start, f"out:{source.id}", source.id))
        start = box.id
    inner = [*around[shared:], target]
    around[shared - 1].edges.add((start, inner[0].id, source.id))
    for box, then in zip(inner, inner[1:]):
        box.ins[source.id] = None
        box.edges.add((f"in:{source.id}", then.id, source.id))


def _hue(graph: Graph, names: list[str], order: Mapping[str, int], batch: int) -> float:
    main = max(names, key=lambda name: tally.flops(graph, name, batch))
    layer = min((o.layer for o in graph[main].origins), default="")
    return (order.get(layer, 0) * 137.508 + 205) % 360


# --- places -----------------------------------------------------------------------------------------------------------

def _measure(box: Box, homes: Mapping[str, tuple[str, ...]], kernel: Mapping[str, int]) -> None:
    """Sizes of a box and all that is in it, and where it lies there."""
    if not box.items:
        small = box.node is not None and _small(box.node)
        texts = _texts(box, homes, kernel)
        wide = max(len(texts[0]) * 7.4, 0 if small else len(texts[1]) * 6.0)
        box.width = max(64.0 if small else 100.0, wide + 26)
        box.height = 24.0 if small else 42.0 if box.node else 50.0
        return
    for item in box.items.values():
        _measure(item, homes, kernel)
    sizes = {name: (item.width, item.height) for name, item in box.items.items()}
    ins, outs = [f"in:{i}" for i in box.ins], [f"out:{i}" for i in box.outs]
    sizes |= {name: (6.0, 0.0) for name in [*ins, *outs]}
    edges = sorted({(one, other) for one, other, _ in box.edges}, key=lambda e: list(sizes).index(e[0]))
    box.drawing = draw(sizes, edges, ins, outs)
    nested = bool(box.id)
    box.width = box.drawing.width + (2 * PAD if nested else 0)
    box.height = box.drawing.height + (HEAD + FOOT - 26 * bool(ins) - 12 * bool(outs) if nested else 0)
    box.ports = {name: box.drawing.centers[name][0] for name in [*ins, *outs]}


def _move(box: Box, x: float, y: float) -> None:
    box.x, box.y = x, y
    if box.drawing:
        dx, dy = _inside(box)
        for name, item in box.items.items():
            cx, cy = box.drawing.centers[name]
            _move(item, dx + cx - item.width / 2, dy + cy - item.height / 2)


def _inside(box: Box) -> tuple[float, float]:
    """Where the corner of a box's drawing is."""
    return (box.x + PAD, box.y + HEAD - 26 * bool(box.ins)) if box.id else (box.x, box.y)


# --- shapes -----------------------------------------------------------------------------------------------------------

def _shapes(box: Box, homes: Mapping, kernel: Mapping[str, int], sizes: Counter, hues: list[float]) -> list[str]:
    made = []
    if box.id and box.drawing:
        made.append(f'<rect class="block" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
                    f'height="{box.height:.1f}" rx="12"/>')
    for item in box.items.values():
        if item.drawing:
            made += _shapes(item, homes, kernel, sizes, hues)
    if box.drawing:
        made += [_edge(box, *edge, kernel, hues) for edge in sorted(box.edges)]
    if box.id and box.drawing:
        label = escape(_label(box.id[2:], homes))
        made.append(f'<text class="title" x="{box.x + 12:.1f}" y="{box.y + 20:.1f}">{label}</text>')
    for item in box.items.values():
        if not item.drawing:
            made += _thing(item, homes, kernel, sizes, hues)
    return made


def _edge(box: Box, one: str, other: str, source: str, kernel: Mapping[str, int], hues: list[float]) -> str:
    dx, dy = _inside(box)
    bends = [(dx + x, dy + y) for x, y in box.drawing.bends[one, other]]
    points = [_end(box, one, source, "out"), *bends, _end(box, other, source, "in")]
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        middle = (y0 + y1) / 2
        path += f"C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
    ends = [box.items[name].node for name in (one, other) if name in box.items]
    within = len(ends) == 2 and all(ends) and kernel.get(ends[0].name, -1) == kernel.get(ends[1].name, -2)
    if within:
        color = _color("mark", hues[kernel[ends[0].name]])
        return f'<path class="edge" d="{path}" style="stroke: {color}; stroke-width: 2.4"/>'
    x, y = points[-1]
    arrow = "" if other.startswith("out:") or other in box.items and box.items[other].drawing else \
        f'<path class="arrow" d="M{x:.1f},{y:.1f}l-3.2,-6.5h6.4z"/>'
    return f'<path class="edge" d="{path}"/>{arrow}'


def _end(box: Box, name: str, source: str, side: str) -> tuple[float, float]:
    """Where an edge meets a port of this box, a port of an open block in it, or a thing."""
    dx, _ = _inside(box)
    if name in box.ports:
        return dx + box.ports[name], box.y if name.startswith("in:") else box.y + box.height
    item = box.items[name]
    port = item.ports.get(f"{side}:{source}")
    x = item.x + item.width / 2 if port is None else _inside(item)[0] + port
    return x, item.y if side == "in" else item.y + item.height


def _thing(box: Box, homes: Mapping, kernel: Mapping[str, int], sizes: Counter, hues: list[float]) -> list[str]:
    title, subtitle = _texts(box, homes, kernel)
    x, y, w, h = box.x, box.y, box.width, box.height
    frame = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
    if box.node is None:
        inside = {kernel[name] for name, chain in homes.items() if box.id[2:] in chain and name in kernel}
        share = (w - 24) / max(1, len(inside))
        return [f'<rect class="thing" x="{x + 4:.1f}" y="{y + 4:.1f}" width="{w:.1f}" height="{h:.1f}" rx="10"/>',
                f'<rect class="thing" {frame} rx="10"/>',
                *(f'<rect x="{x + 12 + i * share:.1f}" y="{y + h - 9:.1f}" width="{max(1.0, share - 1.5):.1f}" '
                  f'height="4" style="fill: {_color("mark", hues[k])}"/>' for i, k in enumerate(sorted(inside))),
                _text("title", x + w / 2, y + 18, title), _text("", x + w / 2, y + 33, subtitle)]
    small, number = _small(box.node), kernel.get(box.node.name)
    several = number is not None and sizes[number] > 1
    style = f' style="fill: {_color("tint", hues[number])}; stroke: {_color("mark", hues[number])}"' if several else ""
    made = [f'<g><title>{escape(box.node.name)}</title>'
            f'<rect class="thing" {frame} rx="{h / 2 if small else 9}"{style}/>']
    if number is not None and not small:
        made.append(f'<rect x="{x:.1f}" y="{y + 8:.1f}" width="3.5" height="{h - 16:.1f}" rx="1.7" '
                    f'style="fill: {_color("mark", hues[number])}"/>')
    if small:
        return [*made, _text("", x + w / 2, y + 16, title) + "</g>"]
    return [*made, _text("title", x + w / 2, y + 18, title), _text("", x + w / 2, y + 33, subtitle) + "</g>"]


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" text-anchor="middle" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _color(part: str, hue: float) -> str:
    return f"oklch(var(--{part}) {hue:.1f})"


def _small(node: Node) -> bool:
    return REGISTRY[node.op].pointwise or is_view(node) or node.op == "slice"


def _label(path: str, homes: Mapping[str, tuple[str, ...]]) -> str:
    chain = next(chain for chain in homes.values() if path in chain)
    above = chain[chain.index(path) - 1] if path != chain[0] else ""
    return path.removeprefix(f"{above}/")


def _texts(box: Box, homes: Mapping[str, tuple[str, ...]], kernel: Mapping[str, int]) -> tuple[str, str]:
    """The two lines in a thing."""
    if box.node is None:
        names = [name for name, chain in homes.items() if box.id[2:] in chain]
        inside = len({kernel[name] for name in names if name in kernel})
        return _label(box.id[2:], homes), f"{len(names)} ops, {inside} kernel{'s' * (inside != 1)}"
    node = box.node
    title = node.name.rpartition("/")[2].partition(".")[0]
    if "+" in node.name:
        title = f"{node.op} ×{node.name.count('+') + 1}"
    shape = "×".join(str(d) for d in node.type.shape if str(d) != "N") or "1"
    words = [] if node.op in title or node.op == "input" else [node.op]
    if "kernel" in node.attrs:
        words.append("×".join(map(str, node.attrs["kernel"])))
    return title, " · ".join([*words, shape])
