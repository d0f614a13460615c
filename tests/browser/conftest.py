"""ComfyUI's page with the pack, in Chromium, drawn by both renderers.

LOUPE_COMFYUI names the unpacked ComfyUI, LOUPE_BROWSER a Chromium, LOUPE_FRONTEND the `static` folder of another
comfyui-frontend-package than that of ComfyUI. `--screenshots` writes the images of docs/page.md.
"""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from loupe.tools.server import Server
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Workflow.Persist": False}
READY = "window.app && window.app.graph && window.app.extensionManager && window.app.extensions.some((e) => e.name === 'loupe.panels')"
PATIENCE = 180_000  # ms; nothing waits that long unless it fails
SHOW = """([id, scale, corner]) => {
  const { pos } = app.graph.getNodeById(id), { ds } = app.canvas;
  ds.scale = scale;
  ds.offset = [corner[0] / scale - pos[0], corner[1] / scale - pos[1]];
  app.canvas.setDirty(true, true);
}"""
FRAMES = "(count) => new Promise((drawn) => { const next = () => (count-- ? requestAnimationFrame(next) : drawn()); next(); })"
STILL = "() => Promise.allSettled(document.getAnimations().filter((a) => a.effect.getComputedTiming().endTime < Infinity).map((a) => a.finished))"
PANELS = "import('/extensions/ComfyUI-Loupe/panel.js').then(({ panels }) => panels())"


def pytest_addoption(parser):
    parser.addoption("--screenshots", action="store_true", help="write the images of docs/page.md")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    comfyui = Path(os.environ.get("LOUPE_COMFYUI") or pytest.exit("Run: python dev.py test --browser", 4)).resolve()
    base = tmp_path_factory.mktemp("base")
    (base / "user" / "default").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    frontend = os.environ.get("LOUPE_FRONTEND")
    with Server(comfyui, base, arguments=["--front-end-root", frontend] if frontend else []) as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("LOUPE_BROWSER") or shutil.which("chromium") or pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


class Page:
    """The page with what its console has said since `clear`. `vue`: drawn by the Vue renderer."""

    def __init__(self, page, vue):
        self.page, self.vue, self.errors = page, vue, []
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: message.type == "error" and self.note(message.text, message.location.get("url", "")))
        page.on("pageerror", lambda error: self.note(f"uncaught: {error.stack or error}", "loupe"))

    def note(self, text, url):
        translated_help = url.endswith("/en.md")  # asked for before the untranslated page
        if "loupe" in f"{text} {url}".lower() and not translated_help:
            self.errors.append(f"{text} ({url})")

    def js(self, function, *argument):
        return self.page.evaluate(function, *argument)

    def wait(self, expression, *argument):
        self.page.wait_for_function(expression, arg=argument[0] if argument else None)

    def load(self, graph):
        self.errors.clear()
        self.js("(graph) => app.loadGraphData(graph)", graph)

    def add(self, kind):
        """A new graph with one node; returns its id."""
        self.load({"version": 0.4, "last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": []})
        return self.js("(kind) => { const node = LiteGraph.createNode(kind); node.pos = [100, 100]; app.graph.add(node); return node.id; }", kind)

    def set(self, node, name, value):
        """Set a widget, as the page's own controls do."""
        self.set_all(node, {name: value})

    def set_all(self, node, values):
        """Set widgets at one go, so that the server is asked once."""
        self.js("([id, values]) => { for (const [name, value] of values) { const w = app.graph.getNodeById(id).widgets.find((w) => w.name === name); w.value = value; w.callback?.(value); } }", [node, list(values.items())])

    def answered(self):
        """Wait until every panel of the pack has what it asked the server for."""
        self.wait(f"{PANELS}.then((all) => all.every((panel) => !panel.question || (panel.plot ?? panel.layout)))")

    def frames(self, count=2):
        """Wait until so many frames are drawn."""
        self.js(FRAMES, count)

    def show(self, node, scale=1.0, corner=(120, 120)):
        """Move the canvas until a node's corner is there."""
        self.js(SHOW, [node, scale, corner])
        self.frames()

    def still(self, node, selector):
        """Bounding box of an element in a node, which is brought into view, once it has stopped moving."""
        boxes = [None]
        while len(boxes) < 3 or boxes[-1] is None or boxes[-1] != boxes[-2]:
            self.show(node)
            self.frames(10)
            boxes.append(self.page.locator(selector).bounding_box())
        return boxes[-1]

    def panel(self, node):
        """Selector of what the pack draws in a node."""
        self.js("(id) => { app.graph.getNodeById(id).widgets.find((w) => w.name === 'loupe_panel').element.dataset.panel = id; }", node)
        return f'[data-panel="{node}"]'


@pytest.fixture(scope="session", params=["canvas", "vue"])
def renderer(request, server, browser):
    page = Page(browser.new_page(viewport={"width": 1600, "height": 1000}), request.param == "vue")
    page.page.goto(server.url)
    page.wait(READY)
    page.js("(vue) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue)", page.vue)
    yield page
    page.page.close()


@pytest.fixture
def page(renderer):
    renderer.errors.clear()
    yield renderer
    assert renderer.errors == []


@pytest.fixture
def screenshot(request, page):
    """screenshot(name): writes docs/page-NAME.jpg, with --screenshots and in the canvas renderer."""

    def take(name):
        if request.config.getoption("--screenshots") and not page.vue:
            page.js("async () => { const { workflow } = app.extensionManager; for (const tab of [...workflow.openWorkflows]) if (tab !== workflow.activeWorkflow) await workflow.closeWorkflow(tab); }")
            page.js(STILL)
            page.frames(10)
            image = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
            image.resize((1280, 800), Image.Resampling.LANCZOS).save(ROOT / "docs" / f"page-{name}.jpg", quality=85)

    return take
