"""One page that shows a net on its way through the passes: one file that needs no server and no network.

The stages go into the page as JSON, packed; layout and drawing happen in the browser (`assets/`), the layout of graphs
by dagre (`vendor/`).
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from compiler import tally
from compiler.cost import MACHINES
from compiler.group import is_leaf, is_view
from compiler.ir import Graph, Node
from compiler.lifetimes import storages
from compiler.ops import REGISTRY
from compiler.passes.base import PASSES
from netc.view.blocks import blocks, drawn
from netc.view.code import Code
from netc.view.stages import History, Stage

FILES = files("netc.view")
SCRIPTS = ("vendor/dagre.min.js", *(f"assets/{name}.js" for name in ("model", "layout", "draw", "panel", "page")))


def page(history: History, target: str, sources: Sequence[tuple[str, str]], code: Code | None) -> str:
    """The HTML of a program's history. sources: (path, text) of the files it is written in. code: what was generated
    for the kernels of the last stage."""
    content = {"data": _packed(_data(history, target, sources)), "code": _packed(_code(history, code))}
    script = "\n".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    whole = (FILES / "assets/page.html").read_text(encoding="utf-8")
    for key, value in {"title": html.escape(f"{history.net} · {history.program}"), "script": script, **content,
                       "style": (FILES / "assets/page.css").read_text(encoding="utf-8")}.items():
        whole = whole.replace("{{" + key + "}}", value)
    return whole


def _packed(value: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(value, separators=(",", ":")).encode(), mtime=0)).decode()


def _code(history: History, code: Code | None) -> dict[str, Any]:
    return {"language": code.language, "kernels": code.kernels, "functions": code.functions} if code else {}


def _data(history: History, target: str, sources: Sequence[tuple[str, str]]) -> dict[str, Any]:
    nodes: dict[str, int] = {}
    graphs = {id(stage.lowered): stage.lowered for stage in history.stages}  # several stages share one
    made = {key: _graph(history, graph, nodes) for key, graph in graphs.items()}
    stages = [_stage(history, stage, made[id(stage.lowered)]) for stage in history.stages]
    names = [Path(path).name for path, _ in sources]
    short = names if len(set(names)) == len(names) else [path for path, _ in sources]
    return {"net": history.net, "program": history.program, "target": target, "batch": history.options.batch,
            **history.baselines(), "nodes": [json.loads(node) for node in nodes], "stages": stages,
            "files": {path: {"name": name, "text": text} for (path, text), name in zip(sources, short)}}


def _stage(history: History, stage: Stage, graph: dict[str, Any]) -> dict[str, Any]:
    """One stage; `graph` is what `_graph` says of its graph."""
    step = stage.step
    return {"name": stage.name, "counts": history.counts(stage), **graph, **({} if step is None else {
        "seconds": step.seconds, "skipped": step.skipped, "doc": _first_line(PASSES[step.name].doc),
        "rewrites": [vars(rewrite) for rewrite in step.rewrites]})}


def _graph(history: History, graph: Graph, nodes: dict[str, int]) -> dict[str, Any]:
    """A graph of primitives; nodes that several graphs share stand in the table `nodes` once."""
    batch, machine = history.options.batch, MACHINES[history.options.machine]
    shown = [node for node in graph.sorted() if drawn(node)]
    place = {node.name: i for i, node in enumerate(shown)}
    chosen = tally.apart(graph)
    storage = storages(chosen)
    home = blocks(graph)
    results = {name: f"{word} {key}" for word, table in (("output", graph.outputs), ("loss", graph.losses), (
        "metric", graph.metrics)) for key, name in table.items()}
    kernels = []
    for launch in chosen.kernels:
        work = tally.work(chosen, launch.nodes, storage)
        flops, bytes = work.at(batch)
        kernels.append({"nodes": [place[name] for name in launch.nodes if name in place], "flops": flops,
                        "bytes": bytes, "us": 1e6 * work.seconds(machine, batch)})
    return {"nodes": [nodes.setdefault(json.dumps(_node(graph, node, batch)), len(nodes)) for node in shown],
            "home": [(home[n.name] or ("",))[-1] for n in shown],
            "blocks": {path: above for chain in home.values() for path, above in zip(chain, ("", *chain))},
            "kernels": kernels, "results": {name: text for name, text in results.items() if name in place},
            "places": {name: _place(graph, name) for name in graph.places if name in place},
            "layouts": {name: str(graph.layouts[name]) for name in graph.layouts if name in place}}


def _node(graph: Graph, node: Node, batch: int) -> dict[str, Any]:
    read = list(dict.fromkeys(node.inputs))
    bytes = node.type.bytes
    for name in read:
        if graph[name].op != "constant" or graph[name].type.shape:
            bytes = bytes + graph[name].type.bytes
    own = [graph[name] for name in read if not drawn(graph[name])]
    constants = {i.name: i.attrs["value"].tolist() for i in own if i.op == "constant" and i.attrs["value"].size == 1}
    return {"name": node.name, "op": node.op, "inputs": [name for name in read if drawn(graph[name])],
            "type": str(node.type), "attrs": _attrs(node),
            "origins": [[o.layer, *_split(o.place)] for o in sorted(node.origins)],
            "weights": [[w.name, str(w.type), tally.number(w.type.size, batch)] for w in own
                        if w.name not in constants],
            "small": REGISTRY[node.op].pointwise or is_view(node) or node.op == "slice",
            **({"constants": list(constants.values())} if constants else {}),
            **({} if is_leaf(node) or is_view(node) else {"flops": tally.flops(graph, node.name, batch),
                                                          "bytes": tally.number(bytes, batch)})}


def _attrs(node: Node) -> dict[str, Any]:
    return {key: value if isinstance(value, (int, float, str, bool)) else str(_plain(value))
            for key, value in node.attrs.items() if value is not None}


def _plain(value: Any) -> Any:
    """Sizes as people write them: 3x3."""
    if isinstance(value, (tuple, list)) and value and all(isinstance(v, int) for v in value):
        return "x".join(map(str, value))
    return ", ".join(str(_plain(v)) for v in value) if isinstance(value, (tuple, list)) else value


def _split(place: str) -> tuple[str, int, int]:
    path, line, column = place.rsplit(":", 2)
    return path, int(line), int(column)


def _place(graph: Graph, name: str) -> str:
    place = graph.places[name]
    at = [f"{start}" for start in place.starts]
    return f"part of {place.root} from [{', '.join(at)}]"


def _first_line(text: str) -> str:
    return text.partition("\n\n")[0].replace("\n", " ")
