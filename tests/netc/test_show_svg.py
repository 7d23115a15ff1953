"""`netc show --svg`, and the layered drawing under it."""

from __future__ import annotations

import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from netc.cli import cli
from netc.view.layered import GAP, draw

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def svg(path: Path, *arguments: str) -> ElementTree.Element:
    result = CliRunner().invoke(cli, ["show", *arguments, "--svg", str(path)], standalone_mode=False)
    assert result.exception is None, result.exception
    return ElementTree.parse(path).getroot()


def boxes(root: ElementTree.Element) -> dict[str, tuple[float, ...]]:
    return {g.find(f"{SVG}title").text: tuple(float(g.find(f"{SVG}rect").get(key)) for key in ("x", "y", "width", "height"))
            for g in root.iter(f"{SVG}g")}


def test_a_small_net_is_drawn_whole(tmp_path):
    root = svg(tmp_path / "x.svg", str(ROOT / "specs/lenet.net"))
    found = boxes(root)
    assert {"image", "logits/conv1", "logits/conv2"} <= set(found)
    width, height = float(root.get("width")), float(root.get("height"))
    places = list(found.values())
    for i, (x, y, w, h) in enumerate(places):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert not any(x < u + s and u < x + w and y < v + t and v < y + h for u, v, s, t in places[:i]), "nodes overlap"
    assert found["image"][1] < found["logits/conv1"][1] < found["logits/conv2"][1]


def test_kernels_are_colours_and_passes_can_be_named(tmp_path):
    net = str(ROOT / "specs/lenet.net")
    written, fused = (svg(tmp_path / "x.svg", net, *more) for more in ((), ("--after", "fuse_elementwise")))
    tinted = [sum("--tint" in (rect.get("style") or "") for rect in root.iter(f"{SVG}rect")) for root in (written, fused)]
    assert tinted[0] == 0 and tinted[1] >= 2
    assert "after fuse_elementwise" in ElementTree.tostring(fused, "unicode")


def test_blocks_of_a_large_net_stay_closed(tmp_path):
    root = svg(tmp_path / "x.svg", str(ROOT / "specs/googlenet.net"), "--after", "merge_sibling_convs")
    text = ElementTree.tostring(root, "unicode")
    assert re.search(r">i3a<", text) and re.search(r"\d+ ops, \d+ kernels", text) and "conv ×3" in text


@pytest.mark.parametrize("seed", range(20))
def test_nodes_of_a_layer_keep_apart_and_edges_go_down(seed):
    rng = random.Random(seed)
    names = [f"n{i}" for i in range(rng.randint(1, 25))]
    sizes = {name: (rng.uniform(20, 120), rng.uniform(10, 50)) for name in names}
    edges = {(a, b) for i, b in enumerate(names) for a in rng.sample(names[:i], min(i, rng.randint(0, 3)))}
    top = [n for n in names if all(b != n for _, b in edges)][:rng.randint(0, 2)]
    bottom = [n for n in names if all(a != n for a, _ in edges) and n not in top][:rng.randint(0, 2)]
    made = draw(sizes, edges, top, bottom)
    for i, one in enumerate(names):
        (x, y), (w, h) = made.centers[one], sizes[one]
        assert -1e-6 <= x - w / 2 and x + w / 2 <= made.width + 1e-6
        for other in names[:i]:
            (u, v), (s, t) = made.centers[other], sizes[other]
            assert abs(x - u) >= (w + s) / 2 + GAP - 1e-6 or abs(y - v) >= (h + t) / 2 - 1e-6, "boxes overlap"
    for one, other in edges:
        ys = [made.centers[one][1], *(y for _, y in made.bends[one, other]), made.centers[other][1]]
        assert all(above < below for above, below in zip(ys, ys[1:]))
    assert all(made.centers[n][1] <= min(y for _, y in made.centers.values()) + 50 for n in top)
    assert not bottom or len({made.centers[n][1] for n in bottom}) == 1


def test_no_crossing_where_none_is_needed():
    made = draw({n: (40, 20) for n in "sabcdt"}, [("s", "a"), ("s", "b"), ("a", "d"), ("b", "c"), ("c", "t"), ("d", "t")])
    x = {name: place[0] for name, place in made.centers.items()}
    assert (x["a"] - x["b"]) * (x["d"] - x["c"]) > 0
    assert x["s"] == pytest.approx(x["t"], abs=1)
