"""Templates, region maps, schedules and progress words, as a user sees them."""

import json
import re
from pathlib import Path

import pytest
from loupe.methods.demofusion import schedule_weights
from loupe.methods.latent_adjustment import shares_by_step
from loupe.methods.pixelsmith import follows
from loupe.methods.region_prompts import parse_prompts
from loupe.methods.regions import RegionLayout
from loupe.methods.schedules import Levels, RunLevels
from loupe.methods.structure_prior import kappa, schedule_weight
from loupe.tools.model_files import TRAINED
from loupe.tools.shelf import SHELF

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
TEMPLATES = sorted(WORKFLOWS.glob("*.json"))
NOTES = {"Note", "MarkdownNote"}

CHECK = """async ([graph, trained]) => {
  const wrong = [];
  const saved = [...graph.nodes, ...(graph.definitions?.subgraphs ?? []).flatMap((fold) => fold.nodes)];
  for (const node of app.graph.nodes.flatMap((node) => [node, ...(node.subgraph?.nodes ?? [])])) {
    if (!LiteGraph.registered_node_types[node.type]) wrong.push(`${node.type} is missing`);
    const behind = [node, ...(node.subgraph?.nodes ?? [])];
    const files = [...trained, ...behind.flatMap((other) => (other.properties.models ?? []).map((model) => model.name))];
    for (const { name, value, options, type, serialize } of node.widgets ?? []) {
      if (serialize === false || files.includes(value)) continue;
      if (options?.min > value || options?.max < value) wrong.push(`${node.type}.${name} = ${value}`);
      if (type === "combo" && Array.isArray(options.values) && !options.values.includes(value) && node.type !== "LoadImage") wrong.push(`${node.type}.${name} = ${value}`);
    }
    if (node.subgraph) continue;  // its values are those of the nodes behind it
    const was = saved.find((other) => String(other.id) === String(node.id));
    if (JSON.stringify(node.serialize().widgets_values ?? []) !== JSON.stringify(was.widgets_values ?? [])) wrong.push(`${node.type} saves other values`);
  }
  const { output } = await app.graphToPrompt();
  return { wrong, output };
}"""
OVERLAPS = """(vue) => {
  const boxes = app.graph.nodes.map(({ id, type, pos, size }) => {
    const drawn = vue && document.querySelector(`[data-node-id="${id}"]`);
    const [width, height] = drawn ? [drawn.offsetWidth, drawn.offsetHeight] : [size[0], size[1] + LiteGraph.NODE_TITLE_HEIGHT];
    return { type, left: pos[0], top: pos[1] - LiteGraph.NODE_TITLE_HEIGHT, width, height };
  });
  const meet = (a, b) => a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height;
  const groups = app.graph.groups.map(({ pos, size }) => ({ left: pos[0], top: pos[1], width: size[0], height: size[1] }));
  const leaves = (a, group) => a.left + a.width > group.left + group.width || a.top + a.height > group.top + group.height;
  const home = (a) => groups.find((group) => group.left <= a.left && a.left <= group.left + group.width && group.top <= a.top && a.top <= group.top + group.height);
  return [
    ...boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => meet(a, b)).map((b) => `${a.type} lies on ${b.type}`)),
    ...boxes.filter((a) => home(a) && leaves(a, home(a))).map((a) => `${a.type} leaves its group`),
  ];
}"""
CURVES = """(panel) => Object.fromEntries([...document.querySelectorAll(`${panel} polyline[data-name].KIND`)].map((line) => [
  line.dataset.name, line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)),
]))"""


def workflow_of(file):
    (name,) = [name for name, shown in SHELF.items() if shown.title == file.stem]
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_template_opens_as_saved(page, file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    page.load(graph)
    page.answered()
    found = page.js(CHECK, [graph, list(TRAINED)])
    assert found["wrong"] == []
    page.frames(10)
    assert page.js(OVERLAPS, page.vue) == []
    workflow = workflow_of(file)
    output = {key.rsplit(":", 1)[-1]: node for key, node in found["output"].items() if node["class_type"] != "ImageCompare"}
    assert set(output) == set(workflow)
    for key, node in workflow.items():
        sent = {name: [value[0].rsplit(":", 1)[-1], *value[1:]] if isinstance(value, list) else value for name, value in output[key]["inputs"].items()}
        assert {name: sent.get(name) for name in node["inputs"]} == node["inputs"]
        assert "loupe_panel" not in sent


# Schedules


def scaled(points, top, bottom=0.0):
    """{timestep: weight} of a drawn line."""
    return {round(1000 - x): top - y / 100 * (top - bottom) for x, y in points}


def drawn(page, panel, kind="now"):
    return page.js(CURVES.replace("KIND", kind), panel)


def wait_for_line(page, panel, kind, count=1):
    page.wait("([selector, count]) => document.querySelectorAll(selector).length === count", [f"{panel} polyline.{kind}", count])


def alike(line, wanted):
    """A drawn line holds the Python function's values at its own timesteps."""
    assert len(line) > 5
    assert line == pytest.approx({t: wanted(t) for t in line}, abs=1e-3)


def test_demofusion_plot(page):
    node = page.add("LoupeDemoFusion")
    panel = page.panel(node)
    wait_for_line(page, panel, "now", 3)
    assert drawn(page, panel, "default") == {}
    page.set_all(node, {"skip_exponent": 7.5, "blur_exponent": 0.4})
    wait_for_line(page, panel, "default", 3)
    for kind, alphas in (("now", (7.5, 1.0, 0.4)), ("default", (3.0, 1.0, 1.0))):
        lines = drawn(page, panel, kind)
        for i, name in enumerate(("skip residual", "dilated pass", "blur")):
            alike(scaled(lines[name], 1.0), lambda t: schedule_weights(t, *alphas)[i])


def test_structure_prior_plot(page, sdxl_sigmas):
    node = page.add("LoupeStructurePrior")
    panel = page.panel(node)
    page.set_all(node, {"schedule": "linear", "weight": 0.4})
    wait_for_line(page, panel, "default", 2)
    for kind, weight, schedule in (("now", 0.4, "linear"), ("default", 0.2, "cosine")):
        lines = drawn(page, panel, kind)
        alike(scaled(lines["weight"], 1.0), lambda t: weight * schedule_weight(t, schedule))
        alike(scaled(lines["share of the deviation removed"], 1.0), lambda t: kappa(weight, t, float(sdxl_sigmas[t]), schedule))


def test_pixelsmith_plot(page):
    node = page.add("LoupePixelSmithSampler")
    panel = page.panel(node)
    page.set(node, "preset", "custom")
    page.set_all(node, {"steps": 50, "strength": 1.0, "scheduler": "ddim (paper)", "guided_steps": 12})
    wait_for_line(page, panel, "default", 2)
    lines = drawn(page, panel, "now")
    for i, name in enumerate(("phases from the guide", "cells from the guide")):
        alike(scaled(lines[name], 0.5), lambda t: 0.5 * follows((981 - t) // 20, 12)[i])


def test_latent_adjustment_plot(page):
    node = page.add("LoupeLatentAdjustment")
    panel = page.panel(node)
    page.set_all(node, {"preset": "custom", "alpha": 0.02, "early_end": 0.5})
    wait_for_line(page, panel, "default")
    shares = shares_by_step(50, 0.02, 0.01, 0.5, 0.8)
    alike(scaled(drawn(page, panel)["share of the reference"], 0.02, -0.01), lambda t: shares[(981 - t) // 20])


def test_plot_follows_a_control_of_the_page(page):
    node = page.add("LoupeStructurePrior")
    panel = page.panel(node)
    wait_for_line(page, panel, "now", 2)
    page.show(node)
    if page.vue:
        page.page.locator(f'[data-node-id="{node}"] button:has([class*="plus"])').first.click()
    else:
        x, y = page.js("(id) => { const node = app.graph.getNodeById(id); const w = node.widgets.find((w) => w.name === 'weight'); return app.canvasPosToClientPos([node.pos[0] + node.size[0] - 25, node.pos[1] + w.y + 10]); }", node)
        page.page.mouse.click(x, y)
    wait_for_line(page, panel, "default", 2)
    value = page.js("(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'weight').value", node)
    assert value > 0.2
    assert max(scaled(drawn(page, panel)["weight"], 1.0).values()) == pytest.approx(value * schedule_weight(991), abs=1e-3)


def test_plot_says_what_is_wrong(page):
    node = page.add("LoupeLatentAdjustment")
    panel = page.panel(node)
    page.set(node, "preset", "custom")
    page.set(node, "early_end", 0.9)
    page.wait("(panel) => document.querySelector(panel).textContent.includes('early_end is 0.9')", panel)
    page.set(node, "early_end", 0.2)
    wait_for_line(page, panel, "now")


def test_plot_keeps_quiet_before_its_first_answer(page):
    page.page.route("**/loupe/curves/**", lambda route: route.abort())
    panel = page.panel(page.add("LoupeStructurePrior"))
    for event in ("pointermove", "pointerleave"):
        page.js("([panel, event]) => document.querySelector(`${panel} svg`).dispatchEvent(new PointerEvent(event))", [panel, event])
    page.page.unroute("**/loupe/curves/**")
    page.js("app.api.dispatchCustomEvent('reconnected')")
    wait_for_line(page, panel, "now", 2)
    page.errors[:] = [error for error in page.errors if "ERR_FAILED" not in error]  # the browser's own


def test_plot_labels_its_axes(page):
    panel = page.panel(page.add("LoupeStructurePrior"))
    wait_for_line(page, panel, "now", 2)
    text = page.js("(panel) => document.querySelector(panel).innerText.split(/\\s*\\n\\s*/).filter(Boolean)", panel)
    assert text == ["weight", "share of the deviation removed", "1", "weight", "0", "noise, t 999", "t 0, image", "Stable Diffusion's levels, until a run"]


def test_a_preset_locks_what_it_decides(page, server):
    name = "LoupeDemoFusionSampler"
    balanced = page.page.request.get(f"{server.url}/object_info/{name}").json()[name]["input"]["required"]["preset"][1]["presets"]["balanced"]
    node = page.add(name)

    def widget(name):
        return page.js("([id, name]) => { const w = app.graph.getNodeById(id).widgets.find((w) => w.name === name); return [w.value, Boolean(w.disabled)]; }", [node, name])

    assert widget("steps") == [balanced["steps"], True]
    assert widget("cfg") == [7.5, False]
    page.set(node, "preset", "LSRNA paper")
    assert [widget(name) for name in ("steps", "overlap", "scheduler")] == [[30, True], [0.5, True], ["ddim (paper)", True]]
    page.set(node, "preset", "custom")
    assert widget("steps") == [30, False]
    page.set(node, "steps", 12)
    graph = page.js("() => app.graph.serialize()")
    page.load(graph)
    assert widget("steps") == [12, False]
    page.set(node, "preset", "balanced")
    page.load(page.js("() => app.graph.serialize()"))
    assert widget("steps") == [balanced["steps"], True]


def test_plot_says_what_it_cannot_know(page):
    node = page.add("LoupePixelSmithSampler")
    panel = page.panel(node)
    connect = """([id, name]) => {
      const node = app.graph.getNodeById(id), source = LiteGraph.createNode("PrimitiveInt");
      app.graph.add(source);
      source.connect(0, node, node.inputs.findIndex((input) => input.name === name));
      app.api.dispatchCustomEvent("graphChanged", app.graph.serialize());
    }"""
    wait_for_line(page, panel, "now", 2)
    page.js(connect, [node, "seed"])
    page.js(connect, [node, "guided_steps"])
    page.wait("(panel) => document.querySelector(panel).textContent.includes('by link: guided_steps')", panel)


# Regions

RECTANGLES = """(panel) => [...document.querySelectorAll(`${panel} rect[data-region]`)].map((r) => ["y", "x", "height", "width"].map((side) => +r.getAttribute(side)))"""


@pytest.fixture
def cupscale(page):
    """The mini world's C-Upscale workflow with few steps, without its comparison and with typed prompts instead of captions."""
    graph = json.loads((WORKFLOWS / f"{SHELF['cupscale'].title}.json").read_text(encoding="utf-8"))
    nodes = {node["title"] if "title" in node else node["type"]: node for node in graph["nodes"]}
    page.load(graph)
    page.js("""() => { for (const node of app.graph.nodes) {
      const widget = (name) => node.widgets?.find((w) => w.name === name);
      if (node.type === "KSampler") widget("steps").value = 4;
      if (node.type === "KSamplerAdvanced") { widget("steps").value = 16; widget("start_at_step").value = 8; }
      if (widget("noise_seed")) widget("noise_seed").value = Date.now();
      if (["Draw regions alone", "Regions alone"].includes(node.title)) node.mode = 2;
    } }""")
    ids = {node["type"]: node["id"] for node in nodes.values()}
    page.set(ids["LoupeRegionPrompts"], "prompts", TYPED)
    return ids


TYPED = "\n".join(["on grass"] * 5 + ["blue house bottom center, on grass"] + ["on grass"] * 3)


def in_pixels(layout):
    return [[8 * side for side in region] for region in layout.regions]


def test_region_map_shows_the_layout_before_a_run(page, cupscale):
    layout, prompts = cupscale["LoupeRegionLayout"], cupscale["LoupeRegionPrompts"]
    for node in (layout, prompts):
        panel = page.panel(node)
        page.wait("(selector) => document.querySelectorAll(selector).length === 9", f"{panel} rect[data-region]")
        assert page.js(RECTANGLES, panel) == in_pixels(RegionLayout.from_overlap(32, 32, 16, 16))
    page.set(layout, "overlap", 0.25)
    page.set(layout, "region_width", 104)
    wanted = RegionLayout.from_overlap(32, 32, 16, 13, 0.25)
    for node in (layout, prompts):
        panel = page.panel(node)
        page.wait("(selector) => document.querySelector(selector)", f'{panel} rect[data-region="{len(wanted.regions)}"][width="104"]')
        assert page.js(RECTANGLES, panel) == in_pixels(wanted)
        text = page.js("(panel) => document.querySelector(panel).textContent", panel)
        assert text.startswith(f"{len(wanted.regions)} regions, ") and "canvas 256 x 256" in text


def test_canvas_follows_nodes_upstream(page, cupscale):
    panel = page.panel(cupscale["LoupeRegionLayout"])
    page.set(cupscale["EmptyLatentImage"], "width", 192)
    page.set(cupscale["ImageScaleBy"], "scale_by", 1.5)
    page.js("app.api.dispatchCustomEvent('graphChanged', app.graph.serialize())")
    page.wait("(panel) => document.querySelector(panel).textContent.includes('canvas 288 x 192')", panel)


def test_region_map_says_what_it_assumes_until_a_run_tells_it(page, cupscale):
    layout, loader = cupscale["LoupeRegionLayout"], cupscale["LoupeLoadMini"]
    panel = page.panel(layout)
    page.js(ENDED)
    page.set(layout, "region_width", 0)
    page.wait("(panel) => document.querySelector(panel).textContent.includes('Connect model')", panel)
    page.js("([from, to]) => app.graph.getNodeById(from).connect(0, app.graph.getNodeById(to), 'model')", [loader, layout])
    page.wait("(panel) => document.querySelector(panel).textContent.includes('a native side of 1024 and 8 pixels a latent cell are assumed until a run')", panel)
    page.wait("(panel) => document.querySelector(panel).textContent.includes('of 256 x 128 pixels')", panel)
    page.page.get_by_test_id("queue-button").click()
    page.wait("ended")
    page.wait("(panel) => document.querySelector(panel).textContent.includes('of 128 x 128 pixels')", panel)
    assert "assumed" not in page.js("(panel) => document.querySelector(panel).textContent", panel)


@pytest.mark.parametrize("through", ["LoupeRegionPrompts", "LoupeRegionLayout"])
def test_clicked_region_takes_a_prompt(page, cupscale, through):
    prompts = cupscale["LoupeRegionPrompts"]
    panel = page.panel(cupscale[through])
    page.wait("(panel) => document.querySelector(panel).textContent.includes('6: blue house')", panel)
    before = page.js("(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'prompts').value", prompts)
    box = page.still(cupscale[through], f'{panel} rect[data-region="6"]')
    place = page.page.locator(f"{panel} svg").bounding_box()
    page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    editor = page.page.locator(f"{panel} textarea")
    editor.wait_for()
    assert editor.input_value() == parse_prompts(before, 9)[5] == "blue house bottom center, on grass"
    page.frames(10)
    assert page.page.locator(f"{panel} svg").bounding_box() == place  # the map has not moved under the pointer
    page.page.keyboard.type(" snowy")
    assert editor.input_value() == "blue house bottom center, on grass snowy"
    editor.fill('a "green" moon,\non sand')
    page.wait("([id, before]) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'prompts').value !== before", [prompts, before])
    text = page.js("async (id) => (await app.graphToPrompt()).output[id].inputs.prompts", str(prompts))
    assert parse_prompts(text, 9) == [*parse_prompts(before, 9)[:5], 'a "green" moon, on sand', *parse_prompts(before, 9)[6:]]


def test_captions_stand_on_the_map_where_nothing_is_typed(page, cupscale):
    prompts, captioner = cupscale["LoupeRegionPrompts"], cupscale["LoupeCaptionRegions"]
    panel = page.panel(prompts)
    page.set(prompts, "prompts", '{"2": "red star"}')
    page.js("([id, text]) => { app.graph.getNodeById(id).onExecuted({ text: [text] }); }", [captioner, json.dumps([f"caption {i}" for i in range(1, 10)])])
    titles = "(panel) => [...document.querySelectorAll(`${panel} rect[data-region] title`)].map((title) => title.textContent)"
    wanted = [f"{i}: {'red star' if i == 2 else f'caption {i}'}" for i in range(1, 10)]
    page.wait(f"(panel) => JSON.stringify(({titles})(panel)) === {json.dumps(json.dumps(wanted, separators=(',', ':')))}", panel)
    page.set(prompts, "use_captions", False)
    page.wait(f"(panel) => ({titles})(panel).join() === '2: red star'", panel)


def test_run_is_told_in_words_and_shown_on_the_map(page, cupscale, screenshot):
    page.js("""() => {
      window.told = []; window.maps = []; window.ended = null;
      app.api.addEventListener("progress_text", ({ detail }) => told.push([detail.nodeId, detail.text]));
      app.api.addEventListener("loupe.progress", () => setTimeout(() => maps.push(document.querySelectorAll(".loupe-regions rect.running").length), 0));
      for (const end of ["execution_success", "execution_error", "execution_interrupted"]) app.api.addEventListener(end, () => (ended = end));
    }""")
    panel = page.panel(cupscale["LoupeRegionPrompts"])
    page.show(cupscale["LoupeRegionPrompts"], 0.62, (400, 280))
    page.page.get_by_test_id("queue-button").click()
    page.wait("ended")
    assert page.js("ended") == "execution_success"
    told = page.js("told")
    words = [text for _, text in told]
    assert re.fullmatch(r"step 1 of 9 · views? \d+(-\d+)? of 10", words[0])
    assert any(re.fullmatch(r"step \d of 9 · views? \d+(-\d+)? of 10 · [\d.]+ views/s · \d+:\d\d left", text) for text in words)
    assert re.fullmatch(r"90 views in \d+:\d\d", words[-1])
    shown = page.js("(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === '$$node-text-preview')?.value", told[-1][0])
    assert shown in (words[-1], None)  # ComfyUI's own line, which newer pages take away at the end
    for kind in ("RegionMap", "SchedulePlot"):
        texts = page.js("async (kind) => (await import('/extensions/ComfyUI-Loupe/panel.js')).panels().filter((panel) => panel.constructor.name === kind).map((panel) => panel.element.textContent)", kind)
        assert texts and all(words[-1] in text for text in texts)
    assert max(page.js("maps")) >= 2  # on both maps
    page.wait("(panel) => document.querySelector(`${panel} image`)?.getAttribute('href').includes('reference')", panel)
    assert page.js("document.querySelectorAll('rect.running').length") == 0
    screenshot("workflow")


ENDED = """() => {
  window.ended = null;
  for (const end of ["execution_success", "execution_error", "execution_interrupted"]) app.api.addEventListener(end, () => (ended = end));
}"""


@pytest.mark.parametrize("inside", [False, True], ids=["in the graph", "in a subgraph"])
def test_plot_shows_the_steps_of_the_run(page, cupscale, inside):
    prior = cupscale["LoupeStructurePrior"]
    page.js(ENDED)
    if inside:
        page.js("(id) => { app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])); }", prior)
    page.js("async () => { window.plot = (await import('/extensions/ComfyUI-Loupe/panel.js')).panels().find((panel) => panel.node.type === 'LoupeStructurePrior'); }")
    page.wait("plot.plot?.curves")
    assert not page.js("plot.plot.of_run")
    page.page.get_by_test_id("queue-button").click()
    page.wait("ended")
    assert page.js("ended") == "execution_success"
    page.wait("plot.plot.of_run")
    run = page.js("plot.run")
    levels = RunLevels(run["timesteps"], Levels(table=run["table"] and tuple(run["table"])))
    assert len(levels.timesteps) == 10
    weight = page.js("plot.node.widgets.find((w) => w.name === 'weight').value")

    def share(t):
        return kappa(weight, t, levels.model.ratio_at(t))

    assert page.js("plot.plot.curves")["share of the deviation removed"] == pytest.approx(levels.shares(share))
    assert "the last run's 9 steps" in page.js("plot.element.textContent")
    page.js("() => { const w = plot.node.widgets.find((w) => w.name === 'schedule'); w.value = 'linear'; w.callback?.('linear'); }")
    page.wait("plot.plot.curves.weight[0] !== plot.plot.default.curves.weight[0]")
    assert page.js("plot.plot.curves.weight") == pytest.approx([weight * t / 1000 for t in levels.timesteps[:-1]])


def test_map_in_a_subgraph_says_what_it_cannot_see(page, cupscale):
    page.js("(id) => { app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])); }", cupscale["LoupeRegionPrompts"])
    texts = "async () => (await import('/extensions/ComfyUI-Loupe/panel.js')).panels().map((panel) => panel.element.textContent)"
    page.wait(f"({texts})().then((all) => all.some((text) => text.includes('outside this subgraph')))")


def test_a_cancelled_run_says_so(page, cupscale):
    page.js(ENDED)
    page.js("() => { for (const node of app.graph.nodes) if (node.type === 'KSamplerAdvanced') node.widgets.find((w) => w.name === 'steps').value = 400; }")
    page.js("() => { window.told = []; app.api.addEventListener('loupe.progress', ({ detail }) => told.push(detail.text)); }")
    page.page.get_by_test_id("queue-button").click()
    page.wait("told.some((text) => text.includes('left'))")
    page.js("app.api.interrupt()")
    page.wait("ended")
    assert page.js("ended") == "execution_interrupted"
    assert re.fullmatch(r"stopped at step \d+ of \d+", page.js("told.at(-1)"))
    panel = page.panel(cupscale["LoupeRegionLayout"])
    assert page.js("told.at(-1)") in page.js("(panel) => document.querySelector(panel).textContent", panel)
    assert page.js("document.querySelectorAll('rect.running').length") == 0


COLORS = "(panel) => [...document.querySelectorAll(`${panel} div`)].filter((div) => !div.children.length && div.textContent).map((div) => [div.textContent, getComputedStyle(div).color])"


def test_what_is_wrong_is_red(page, cupscale):
    page.set(cupscale["LoupeRegionPrompts"], "prompts", "[")
    for node in ("LoupeRegionPrompts", "LoupeRegionLayout"):
        panel = page.panel(cupscale[node])
        page.wait("(panel) => document.querySelector(panel).textContent.includes('not valid JSON')", panel)
        colors = dict(page.js(COLORS, panel))
        (wrong,) = [color for text, color in colors.items() if "not valid JSON" in text]
        assert wrong not in [color for text, color in colors.items() if text.startswith("9 regions")]
    plot = page.panel(cupscale["LoupeStructurePrior"])
    page.wait("(panel) => document.querySelector(panel).querySelector('polyline')", plot)
    page.page.route("**/loupe/curves/**", lambda route: route.fulfill(json={"error": "weight is wrong"}))
    page.set(cupscale["LoupeStructurePrior"], "weight", 0.7)
    page.wait("(panel) => document.querySelector(panel).textContent.includes('weight is wrong')", plot)
    assert dict(page.js(COLORS, plot))["weight is wrong"] == wrong
    page.page.unroute("**/loupe/curves/**")


def test_numbers_stand_above_lines_and_highlights(page, cupscale):
    panel = page.panel(cupscale["LoupeRegionLayout"])
    page.wait("(selector) => document.querySelectorAll(selector).length === 9", f"{panel} rect[data-region]")
    layers = page.js("(panel) => { const all = [...document.querySelectorAll(`${panel} svg > g`)]; return [all.findIndex((g) => g.querySelector('text')), all.length, all.at(-1).querySelectorAll('circle').length]; }", panel)
    assert layers == [3, 4, 9]


# Panels


def test_plan_shows_its_figures(page):
    plan = page.add("LoupePlan")
    page.js("""(id) => {
      const plan = app.graph.getNodeById(id), add = (kind) => { const node = LiteGraph.createNode(kind); app.graph.add(node); return node; };
      const slot = (name) => plan.inputs.findIndex((input) => input.name === name);
      add("LoupeLoadMini").connect(0, plan, slot("model"));
      add("EmptyLatentImage").connect(0, plan, slot("samples"));
    }""", plan)
    page.js(ENDED)
    panel = page.panel(plan)
    page.page.get_by_test_id("queue-button").click()
    page.wait("ended")
    assert page.js("ended") == "execution_success"
    page.wait("(panel) => /network rows: \\d|rows/.test(document.querySelector(panel).innerText)", panel)
    assert page.still(plan, panel)["height"] > 50


def test_captions_are_shown(page):
    node = page.add("LoupeCaptionRegions")
    panel = page.panel(node)
    page.js("(id) => app.graph.getNodeById(id).onExecuted({ text: ['[\\n \"a star\"\\n]'] })", node)
    assert page.js("(panel) => document.querySelector(panel).innerText", panel) == '[\n "a star"\n]'


@pytest.mark.parametrize("template", ["cupscale", "pixelsmith_sdxl", "upscale_zimage"])
def test_plots_keep_to_their_height(page, template):
    page.load(json.loads((WORKFLOWS / f"{SHELF[template].title}.json").read_text(encoding="utf-8")))
    page.js("() => { const folded = app.graph.nodes.find((node) => node.subgraph); if (folded) app.canvas.setGraph(folded.subgraph); }")
    page.answered()
    page.frames(10)
    heights = page.js("[...document.querySelectorAll('.loupe-plot')].map((plot) => plot.offsetHeight)")
    assert heights and max(heights) <= 140


def test_no_deprecated_reading_of_links():
    scripts = (WORKFLOWS.parent / "js").glob("*.js")
    assert not [script.name for script in scripts if "input.link" in script.read_text(encoding="utf-8")]



def test_panels_live_as_long_as_their_nodes(page):
    count = "async () => (await import('/extensions/ComfyUI-Loupe/panel.js')).panels().length"
    node = page.add("LoupeRegionLayout")
    assert page.js(count) == 1
    page.js("(id) => { app.graph.getNodeById(id).clone(); }", node)  # as copying does, into no graph
    assert page.js(count) == 1
    page.js("(id) => { app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])); }", node)
    assert page.js(count) == 1
    page.js("() => { for (const node of [...app.graph.nodes]) app.graph.remove(node); }")
    page.wait(f"({count})().then((size) => size === 0)")


def test_a_lost_server_is_asked_again(page):
    node = page.add("LoupeStructurePrior")
    panel = page.panel(node)
    wait_for_line(page, panel, "now", 2)
    page.page.route("**/loupe/curves/**", lambda route: route.abort())
    page.set(node, "weight", 0.5)
    page.wait("(panel) => document.querySelector(panel).textContent.includes('does not answer')", panel)
    page.page.unroute("**/loupe/curves/**")
    page.js("app.api.dispatchCustomEvent('reconnected')")
    wait_for_line(page, panel, "default", 2)
    page.errors[:] = [error for error in page.errors if "ERR_FAILED" not in error]  # the browser's own


# Help and templates


def test_help_is_shown(page, screenshot):
    node = page.add("LoupePixelSmithSampler")
    page.show(node, corner=(500, 300))  # its toolbox stands above it
    page.js("(id) => { app.canvas.selectNode(app.graph.getNodeById(id)); }", node)
    page.page.get_by_test_id("info-button").click()
    page.page.get_by_text("Connections").first.wait_for()
    screenshot("help")


def test_template_browser_lists_the_pack(page, server, screenshot):
    listed = page.page.request.get(f"{server.url}/workflow_templates").json()
    (name,) = [name for name, files in listed.items() if SHELF["cupscale"].title in files]
    page.js("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.page.get_by_text(name).first.click()
    page.page.get_by_text(SHELF["upscale_mini"].title, exact=True).first.wait_for()
    screenshot("templates")
    page.page.keyboard.press("Escape")
