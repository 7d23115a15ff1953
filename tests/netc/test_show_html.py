"""`netc show --html`: the page as a person has it, in a real browser without a network."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import netc
from compiler.passes import pipeline
from netc.cli import cli
from netc.verbs.explain import pages
from runtime.errors import NetcError

ROOT = Path(__file__).parents[2]
GOOGLENET = str(ROOT / "specs/googlenet.net")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


NET = """lang 1

net small(classes: int = 3) {
  input image: f32[N, 1, 8, 8]
  label y: i32[N] in classes
  maps = image -> conv1: conv(4, 3x3) -> relu -> conv2: conv(8, 3x3) -> relu -> max_pool(2x2)
  logits = maps -> flatten -> dense(classes)
  output p = logits -> softmax
  loss cross_entropy(logits, y)
}

train fit { net = small, optimizer = sgd(lr = 0.1), run = 2 epochs }
"""


def show(*arguments: str):
    return CliRunner().invoke(cli, ["show", *arguments], standalone_mode=False)


def unpack(page: str, name: str) -> dict:
    packed = re.search(rf'id="{name}">([^<]*)<', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def browser():
    """Chromium, as Playwright finds it or from the system. Without one these tests say so and are skipped."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install -e '.[test]')")
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = str(own) if own.exists() else next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            pytest.skip("there is no Chromium here: `playwright install chromium`, or apt-get install chromium-headless-shell")
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "googlenet.html"
    result = show(GOOGLENET, "--html", str(path), "--no-code")
    assert result.exception is None, result.exception
    return path


@pytest.fixture
def page(browser, file):
    yield from opened(browser, file)


def opened(browser, path: Path, **options):
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True, reduced_motion="reduce", **options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=20_000)
    yield page
    context.close()
    assert not wrong


def click(page, thing: str, times: int = 1) -> None:
    """Clicks on a node (`n:name`) or a block (`b:path`) where it is drawn."""
    at = page.evaluate("id => netc.page.graph.screen(id)", thing)
    page.mouse.click(at["x"], at["y"], click_count=times)


def open_all(page) -> None:
    while page.evaluate("netc.page.open.size < netc.page.depths().length"):
        page.keyboard.press("o")


def panel(page) -> str:
    page.wait_for_timeout(60)
    return page.locator("#panel").inner_text()


def total(page, key: str) -> str:
    page.wait_for_timeout(60)
    return page.locator(f'#totals [data-key="{key}"] dd').inner_text()


def pixels(page, thing: str) -> set[tuple[int, ...]]:
    """The colours within a thing, as the canvas shows them."""
    return {tuple(color) for color in page.evaluate("""id => {
        const { x, y } = netc.page.graph.screen(id), box = netc.page.graph.canvas.getBoundingClientRect();
        const { k } = netc.page.graph.camera, thing = netc.page.graph.goal.things.get(id);
        const w = Math.max(4, thing.w * k - 6), h = Math.max(4, thing.h * k - 6);
        const data = netc.page.graph.context.getImageData(x - box.x - w / 2, y - box.y - h / 2, w, h).data, found = new Set();
        for (let i = 0; i < data.length; i += 4) found.add([data[i], data[i + 1], data[i + 2]].join());
        return [...found].map(c => c.split(",").map(Number));
    }""", thing)}


def test_the_data_of_the_page_is_that_of_the_optimizer(tmp_path):
    (tmp_path / "small.net").write_text(NET)
    assert show(str(tmp_path / "small.net"), "--html", str(tmp_path / "x.html"), "--no-code").exception is None
    data = unpack((tmp_path / "x.html").read_text(), "data")
    report = json.loads(CliRunner().invoke(cli, ["opt", str(tmp_path / "small.net"), "--json"]).output)
    assert [stage["name"] for stage in data["stages"]] == ["source", *pipeline.PIPELINE]
    assert [stage["counts"] for stage in data["stages"][1:]] == [entry["after"] for entry in report["passes"]]
    for stage in data["stages"]:
        assert len(stage["kernels"]) == stage["counts"]["kernels"]
        assert sum(kernel["bytes"] for kernel in stage["kernels"]) == stage["counts"]["bytes"]
        members = [node for kernel in stage["kernels"] for node in kernel["nodes"]]
        assert len(members) == len(set(members))


def test_nothing_comes_from_elsewhere(file):
    text = file.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|@import|url\(|fetch\(|XMLHttpRequest|import\(""", text)
    assert len(text) < 3_000_000 and "Copyright" in (ROOT / "netc/view/vendor/dagre.LICENSE").read_text()


def test_the_slider_goes_through_the_passes(page):
    assert total(page, "kernels") == str(page.evaluate("netc.page.model.stages[0].counts.kernels"))
    names = ["source", *pipeline.PIPELINE]
    assert [text.replace("\n", "") for text in page.locator("#ticks li").all_inner_texts()] == names
    merged = names.index("merge_sibling_convs")
    for _ in range(merged):
        page.keyboard.press("ArrowRight")
    text = panel(page)
    assert text.startswith("merge_sibling_convs") and "9 taken" in text
    assert page.locator("#ticks li[aria-current]").get_attribute("title") == "merge_sibling_convs"
    assert page.evaluate("[...netc.page.stage.changes.values()].includes('added')")
    page.locator("#slider").fill(str(len(names) - 1))
    assert total(page, "kernels") == str(page.evaluate("netc.page.model.last.counts.kernels"))
    page.keyboard.press("Home")
    assert panel(page).startswith("source")


def test_blocks_open_and_close(page):
    shown = "id => netc.page.shown.things.has(id)"
    while page.evaluate("netc.page.open.size"):
        page.keyboard.press("c")
    page.keyboard.press("f")
    assert page.evaluate(shown, "b:i3a") and not page.evaluate(shown, "n:i3a")
    click(page, "b:i3a", times=2)
    assert page.evaluate(shown, "n:i3a") and page.evaluate(shown, "b:i3a/b3") and not page.evaluate(shown, "n:i3a/b3/reduce/conv")
    open_all(page)
    assert page.evaluate(shown, "n:i3a/b3/reduce/conv")
    boxes = page.evaluate("[...netc.page.shown.things.values()].filter(t => !t.opened).map(t => [t.x, t.y, t.w, t.h])")
    assert len(boxes) == page.evaluate("netc.page.stage.list.length")
    for i, (x, y, w, h) in enumerate(boxes):
        assert not any(x < u + s and u < x + w and y < v + t and v < y + h for u, v, s, t in boxes[:i]), "two nodes overlap"


def test_a_click_on_a_node_says_all_about_it(page):
    click(page, "n:stem/conv1")
    text = panel(page)
    for part in ("stem/conv1", "f32[N, 64, 112, 112]", "7x7", "f32[64, 3, 7, 7]", "9,408", "236,027,904", "KERNEL 1 OF",
                 "googlenet.net:11", "-> conv1: conv(64, 7x7, stride = 2, pad = 3) -> relu"):
        assert part in text, part
    assert page.locator("#panel mark").inner_text() == "conv"
    page.keyboard.press("End")
    text = panel(page)
    assert "stem/relu1" in text.split("KERNEL")[1], "the activation is in the kernel by now"
    page.keyboard.press("Escape")
    assert panel(page).startswith(pipeline.PIPELINE[-1])


def test_search_finds_a_layer_and_opens_its_block(page):
    page.keyboard.press("/")
    page.keyboard.type("i4c b3 conv")
    assert "i4c/b3/conv_relu/conv" in page.locator("#found").inner_text()
    page.keyboard.press("Enter")
    assert "i4c/b3" in panel(page).splitlines()[0] or "i4c/b3" in panel(page)
    at = page.evaluate("netc.page.graph.screen(netc.page.graph.selected)")
    box = page.locator("#graph").bounding_box()
    assert box["x"] < at["x"] < box["x"] + box["width"] and box["y"] < at["y"] < box["y"] + box["height"]


def test_nodes_of_one_kernel_have_one_colour(page):
    page.keyboard.press("End")
    for thing in ("n:stem/conv1", "n:stem/relu1", "n:stem/conv2"):
        page.evaluate("id => netc.page.graph.center(id)", thing)
    page.evaluate("netc.page.graph.fit()")
    one, same, other = (pixels(page, thing) for thing in ("n:stem/conv1", "n:stem/relu1", "n:stem/conv2"))
    tint = page.evaluate("""() => { const g = netc.page.graph, c = document.createElement("canvas").getContext("2d");
        c.fillStyle = g.color(netc.page.stage.kernels[netc.page.stage.byName.get("stem/conv1").kernel].hue, "tint");
        c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); }""")
    assert tuple(tint) in one and tuple(tint) in same and tuple(tint) not in other


def test_light_and_dark(browser, file):
    for scheme, bright in (("light", True), ("dark", False)):
        for page in opened(browser, file, color_scheme=scheme):
            color = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", color)[:3])) > 384) == bright
            page.keyboard.press("t")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") != color


def test_sliding_waits_for_no_layout(page):
    """Layouts of all passes are made while nothing else is to be done; a step of the slider only draws."""
    open_all(page)
    page.wait_for_function("netc.page.layout.whole.size >= netc.page.model.stages.length && !netc.page.waiting")
    made = page.evaluate("""async () => {
        const arrange = netc.arrange, measured = netc.page.graph.frames;
        let made = 0;
        netc.arrange = shape => { made++; return arrange(shape); };
        measured.length = 0;
        for (let i = 0; i < netc.page.model.stages.length; i++) {
            netc.page.go(i);
            await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        }
        return [made, measured.length, netc.page.graph.now.things.size]; }""")
    assert made[0] == 0 and made[1] >= len(pipeline.PIPELINE) and made[2] > 150


def test_the_code_of_a_kernel_and_a_training_step(browser, tmp_path):
    path, net = tmp_path / "small.html", tmp_path / "small.net"
    net.write_text(NET)
    assert show(str(net), "--html", str(path), "--program", "step").exception is None
    code = unpack(path.read_text(), "code")
    compiled = netc.load(net).compile("train").programs["step"]["kernels"]
    assert code["language"] == "LLVM" and len(code["kernels"]) == len(compiled)
    assert all(f"@{name}(" in text and "ret i32" in text for name, text in code["functions"].items())
    for page in opened(browser, path):
        page.wait_for_function("netc.page.code")
        page.evaluate("netc.page.select('maps/conv2')")
        assert "GENERATED LLVM" in panel(page)
        page.locator("#panel details.code summary").click()
        assert page.locator("#panel pre.code").inner_text().startswith("define")
        page.keyboard.press("Escape")
        assert page.evaluate("netc.page.stage.list.some(n => n.home.startsWith('grad'))")


def test_the_code_of_a_gpu(tmp_path):
    path, net = tmp_path / "small.html", tmp_path / "small.net"
    net.write_text(NET)
    assert show(str(net), "--html", str(path), "--target", "cuda:sm_80").exception is None
    code = unpack(path.read_text(), "code")
    assert code["language"] == "CUDA" and set(code["kernels"]) == set(code["functions"])
    assert all('extern "C" __global__' in text and f"{name}(" in text and "threadIdx.x" in text
               for name, text in code["functions"].items())


def test_mistakes_are_explained(tmp_path):
    for arguments, code in ((["--html", str(tmp_path / "no" / "x.html"), "--no-code"], "E0432"), (["--html", "x.html", "--target", "tpu"], "E0701")):
        result = show(str(ROOT / "specs/logistic.net"), *arguments)
        assert isinstance(result.exception, NetcError) and result.exception.code == code and code in pages()
