"""The graph IR as text that reads back: one node a line.

    graph digits {
      %conv.weight = parameter() {"init": ["he"]} : f32[8, 1, 3, 3] @ [["conv", "digits.net:5:8"]]
      %conv = conv(%image, %conv.weight) {"kernel": [3, 3]} : f32[N, 8, 6, 6] @ [["conv", "digits.net:5:8"]]
      output p = %softmax
      kernel {"groups": [{"anchor": "conv", "members": ["conv"], "results": ["conv"]}]}
      place %conv = {"root": "joined", "starts": [0, 8, 0, 0]}
      layout %joined = {"block": 8, "axis": 1}
    }

Lines after the results are there once kernels are chosen, and where tensors lie otherwise than their shapes say.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from compiler import dims
from compiler.group import Group, Launch
from compiler.ir import DTYPES, Graph, Node, Origin, TensorType
from compiler.layout import Layout
from compiler.ops import REGISTRY
from compiler.views import Place
from runtime.errors import NetcError

TABLES = {"output": "outputs", "loss": "losses", "metric": "metrics", "update": "updates", "gradient": "gradients"}
LINE = re.compile(r"%(?P<name>\S+) = (?P<op>\w+)\((?P<inputs>[^)]*)\) (?P<attrs>\{.*\}) : (?P<type>\w+\[[^\]]*\])"
                  r" @ (?P<origins>\[.*\])")
WRITTEN = "give a text that `netc show --ir` or `netc opt --dump-dir` wrote, whole"
RESULT = re.compile(rf"({'|'.join(TABLES)}) (\S+) = %(\S+)")
WHERE = re.compile(r"(place|layout) %(\S+) = (\{.*\})")


def to_text(graph: Graph) -> str:
    """The graph, nodes in topological order."""
    lines = [f"graph {graph.name} {{"]
    for node in graph.sorted():
        inputs = ", ".join(f"%{i}" for i in node.inputs)
        origins = json.dumps(sorted([o.layer, o.place] for o in node.origins))
        lines.append(f"  %{node.name} = {node.op}({inputs}) {json.dumps(_plain(node.attrs))} : {node.type} @ {origins}")
    for word, table in TABLES.items():
        lines += [f"  {word} {key} = %{name}" for key, name in getattr(graph, table).items()]
    lines += [f"  kernel {json.dumps(_filled(asdict(launch)))}" for launch in graph.kernels or ()]
    for word, table in (("place", graph.places), ("layout", graph.layouts)):
        lines += [f"  {word} %{name} = {json.dumps(_plain(vars(entry)))}" for name, entry in table.items()]
    return "\n".join([*lines, "}"]) + "\n"


def from_text(text: str, where: str = "the IR text") -> Graph:
    """Reads what `to_text` prints; lines that begin with # are comments. Raises NetcError E0620 with the line that is not
    understood."""
    graph: Graph | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        try:
            if graph is None and (head := re.fullmatch(r"graph (\S+) \{", line)):
                graph = Graph(head[1])
            elif graph is not None and (found := LINE.fullmatch(line)):
                graph.add(_node(found))
            elif graph is not None and (found := RESULT.fullmatch(line)) and found[3] in graph:
                getattr(graph, TABLES[found[1]])[found[2]] = found[3]
            elif graph is not None and line.startswith("kernel "):
                graph.kernels = [*(graph.kernels or ()), Launch([_group(g) for g in json.loads(line[7:])["groups"]])]
            elif graph is not None and (found := WHERE.fullmatch(line)) and found[2] in graph:
                entry = {key: _value(value) for key, value in json.loads(found[3]).items()}
                if found[1] == "place":
                    graph.places[found[2]] = Place(**entry)
                else:
                    graph.layouts[found[2]] = Layout(**entry)
            elif line not in ("", "}") and not line.startswith("#"):
                raise ValueError("it is no node and no result")
        except (ValueError, KeyError, TypeError) as problem:
            raise NetcError("E0620", f"cannot read the IR: {problem}", WRITTEN, f"{where}:{number}") from problem
    if graph is None:
        raise NetcError("E0620", "cannot read the IR: there is no `graph NAME {` line",
                        WRITTEN, where)
    return graph


def _node(found: re.Match) -> Node:
    dtype, _, shape = found["type"].rstrip("]").partition("[")
    if dtype not in DTYPES or found["op"] not in REGISTRY:
        raise ValueError(f"there is no type `{dtype}` or no op `{found['op']}`")
    type = TensorType(dtype, tuple(dims.parse(d) for d in shape.split(",") if d.strip()))
    inputs = tuple(i.strip().lstrip("%") for i in found["inputs"].split(",") if i.strip())
    attrs = {key: _value(value) for key, value in json.loads(found["attrs"]).items()}
    origins = frozenset(Origin(*o) for o in json.loads(found["origins"]))
    return Node(found["name"], found["op"], inputs, type, attrs, origins)


def _group(entry: Mapping[str, Any]) -> Group:
    return Group(**{**entry, "staged": [_group(stage) for stage in entry.get("staged", ())]})


def _filled(value: Any) -> Any:
    """Without what is empty or false, which reading fills in."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape),
                "data": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}
    if isinstance(value, dims.Poly):
        return {"dim": str(value)}
    return value.item() if isinstance(value, np.generic) else value


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_value(v) for v in value)
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "data"}:
        return np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict) and set(value) == {"dim"}:
        return dims.parse(value["dim"])
    return value
