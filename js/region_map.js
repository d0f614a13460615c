// The regions of a canvas, on its image where one is known: click one to read or write its prompt.

import { html, panelOf, panels, post, Question, svg, unknown, updateAll, values, WRONG } from "./panel.js";
import { inCells, imageOf, sizeOf, source } from "./upstream.js";

const MOST_NUMBERS = 100; // more could not be read
const PAUSE = 200; // ms
// Of latents: pixels to the side of a cell, cells to the side of a token, pixels to the model's native side
const ASSUMED = [8, 1, 1024]; // until a run
const NO_MODEL = [8, 1, null];

let cell = ASSUMED[0]; // of the run that is shown

/** A run begins of a model with latent cells of this size. */
export function showCells({ pixels_per_cell }) {
  cell = pixels_per_cell;
}

/** Regions at work, from the server in latent cells, on every map of their canvas. */
export function showProgress({ canvas, regions, text, notice }) {
  if (notice) return;
  const pixels = (sides) => sides.map((side) => side * cell);
  for (const panel of panels()) if (panel instanceof RegionMap) panel.highlight(canvas && pixels(canvas), (regions ?? []).map(pixels), text);
}

export function stopProgress() {
  for (const panel of panels()) if (panel instanceof RegionMap) panel.highlight(null, []);
  updateAll();
}

export class RegionMap {
  constructor(node, height) {
    this.node = node;
    this.height = height;
    this.words = html("div", { style: "line-height:14px;min-height:28px" });
    this.chosen = html("div", { style: "line-height:14px;min-height:14px" });
    this.image = svg("g");
    this.grid = svg("g");
    this.running = svg("g");
    this.numbers = svg("g", { "pointer-events": "none" });
    this.svg = svg("svg", { style: "flex:1 1 200px;height:200px;min-height:0;width:100%;cursor:pointer" }, this.image, this.grid, this.running, this.numbers);
    this.editor = html("textarea", { rows: 2, class: "comfy-multiline-input", style: "visibility:hidden;resize:none;flex:none", "aria-label": "Prompt of the region" });
    this.element = html("div", { class: "loupe-regions", style: "display:flex;flex-direction:column;gap:4px;font:11px sans-serif;color:var(--descrip-text)" }, this.words, this.svg, this.chosen, this.editor);
    this.svg.addEventListener("click", (event) => this.click(event));
    this.editor.addEventListener("input", () => this.edit());
    this.editor.addEventListener("change", () => this.write());
    this.question = new Question((answer) => this.draw(answer));
  }

  /** The Region Layout whose regions are shown. */
  layoutNode() {
    return this.node.comfyClass === "LoupeRegionLayout" ? this.node : source(this.node, "regions")?.[0];
  }

  /** The Region Prompts that is written to. */
  promptsNode() {
    if (this.node.comfyClass === "LoupeRegionPrompts") return this.node;
    return (this.node.getOutputNodes(0) ?? []).find((node) => node?.comfyClass === "LoupeRegionPrompts");
  }

  promptsWidget() {
    const node = this.promptsNode();
    return node && !source(node, "prompts") ? node.widgets.find((widget) => widget.name === "prompts") : null;
  }

  /** What Caption Regions wrote for the regions that have no prompt, in the last run of this layout. */
  captions() {
    const node = this.promptsNode();
    const captioner = node && source(node, "captions")?.[0];
    if (!captioner || !node.widgets.find((widget) => widget.name === "use_captions")?.value) return [];
    const written = panelOf(captioner)?.list ?? [];
    return written.length === this.layout?.regions?.length ? written : [];
  }

  executed(output) {
    this.canvas = output?.loupe_canvas;
    this.told = output?.loupe_grid?.slice(0, 3);
    this.update();
  }

  update() {
    const layout = this.layoutNode();
    const grid = this.gridOf(layout);
    const size = layout?.comfyClass === "LoupeRegionLayout" ? inCells(sizeOf(source(layout, "samples"), grid[0]) ?? this.known(layout), grid[0]) : null;
    if (size) this.question.ask("/loupe/regions", { ...values(layout), height: size[0], width: size[1], grid });
    else {
      this.question.drop();
      const outside = source(this.node, "regions") && "The regions come from outside this subgraph.";
      this.draw({ hint: true, error: layout ? "The size of the canvas shows after a run." : outside || "Connect Region Layout to see the regions." });
    }
    this.show();
    this.read();
  }

  get drawn() {
    return this.layout && !this.layout.error;
  }

  /** What the last run has reported. */
  known(layout) {
    const { canvas, told } = panelOf(layout) ?? {};
    return source(layout, "samples") && canvas ? [canvas[0], canvas[1], told[0]] : null;
  }

  /** Of the layout's model as the last run has reported it, or as it is assumed. */
  gridOf(layout) {
    const linked = Boolean(layout && source(layout, "model"));
    const told = layout && panelOf(layout)?.told;
    if (told && (told[2] !== null) === linked) return told;
    return linked ? ASSUMED : NO_MODEL;
  }

  /** Says so where the regions hang on what only a run knows. */
  assumed() {
    const layout = this.layoutNode();
    const { region_width, region_height } = values(layout);
    return this.gridOf(layout) === ASSUMED && !(region_width && region_height) ? `a native side of ${ASSUMED[2]} and ${ASSUMED[0]} pixels a latent cell are assumed until a run` : "";
  }

  draw(layout) {
    this.layout = layout;
    if (layout.error) {
      this.words.replaceChildren(html("div", layout.hint ? {} : { style: `color:${WRONG}` }, layout.error));
      this.image.replaceChildren();
      this.grid.replaceChildren();
      this.numbers.replaceChildren();
      this.chosen.textContent = "";
      this.state = null;
      this.select(null);
      return;
    }
    const [height, width] = layout.canvas;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (this.selected > layout.regions.length) this.select(null);
    else this.show();
    this.read();
  }

  show() {
    if (!this.node.graph || !this.layoutNode()) return;
    this.editor.style.display = this.promptsWidget() ? "" : "none"; // hidden, it keeps the map from moving under the pointer
    if (!this.drawn) return;
    this.shade();
    this.describe();
  }

  /** The image, and the regions on it: brighter where they overlap, filled where they have a prompt. */
  shade() {
    const { canvas, regions } = this.layout;
    const [height, width] = canvas;
    const url = imageOf(this.layoutNode(), canvas);
    const captions = this.captions();
    const state = JSON.stringify([regions, this.prompts, captions, this.selected, url]);
    if (state === this.state) return; // a rectangle that is exchanged while the button is down gets no click
    this.state = state;
    if (url !== this.url || !this.image.childNodes.length) {
      this.url = url;
      this.image.replaceChildren(url ? svg("image", { href: url, width, height, preserveAspectRatio: "none" }) : svg("rect", { width, height, fill: "var(--comfy-input-bg)" }));
    }
    this.grid.replaceChildren(
      ...regions.map(([y, x, h, w], i) => {
        const number = i + 1;
        const prompt = this.prompts?.[i] || captions[i];
        const rectangle = svg("rect", {
          x, y, width: w, height: h, "data-region": number, fill: prompt ? "#ff9a3c" : "#fff", "fill-opacity": prompt ? 0.11 : 0.07,
          stroke: "#ff9a3c", "stroke-width": number === this.selected ? 3 : 0.8, "stroke-opacity": number === this.selected ? 1 : 0.7, "vector-effect": "non-scaling-stroke",
        });
        if (prompt) rectangle.append(svg("title", {}, `${number}: ${prompt}`));
        return rectangle;
      }),
    );
    this.numbers.replaceChildren(...(regions.length > MOST_NUMBERS ? [] : regions.flatMap(([y, x, h, w], i) => {
      const size = Math.min(h, w) / 6;
      const [cx, cy] = [x + w / 2, y + h / 2];
      return [
        svg("circle", { cx, cy, r: size * 0.85, fill: "#000", "fill-opacity": 0.65 }), // over the lines that cross there
        svg("text", { x: cx, y: cy + size / 3, "font-size": size, "text-anchor": "middle", fill: "#fff" }, `${i + 1}`),
      ];
    })));
  }

  describe() {
    const { canvas, region, overlap, rows, columns } = this.layout;
    const count = rows * columns;
    const lines = [`${count} region${count === 1 ? "" : "s"}, ${columns} x ${rows}, of ${region[1]} x ${region[0]} pixels, overlap ${overlap[1]} x ${overlap[0]}; canvas ${canvas[1]} x ${canvas[0]}`];
    const place = this.selected && this.layout.regions[this.selected - 1];
    this.chosen.textContent = "";
    if (place) {
      const [y, x] = place;
      const typed = this.prompts?.[this.selected - 1];
      const caption = typed ? "" : this.captions()[this.selected - 1];
      this.chosen.textContent = `region ${this.selected} at ${x}, ${y}${caption ? `: ${caption}` : typed || this.promptsWidget() ? "" : ": the prompt of the whole image"}`;
    }
    lines.push(this.assumed(), unknown(this.layoutNode(), Object.keys(values(this.layoutNode()))), this.said ?? "");
    this.words.replaceChildren(...lines.filter(Boolean).map((line) => html("div", {}, line)));
    if (this.error) this.words.append(html("div", { style: `color:${WRONG}` }, this.error));
  }

  click(event) {
    if (!this.drawn) return;
    const box = this.image.getBoundingClientRect();
    const [height, width] = this.layout.canvas;
    const [row, column] = [((event.clientY - box.top) / box.height) * height, ((event.clientX - box.left) / box.width) * width];
    let nearest = Infinity;
    let found = null;
    this.layout.regions.forEach(([y, x, h, w], i) => {
      const [dy, dx] = [(row - y) / h - 0.5, (column - x) / w - 0.5];
      if (Math.abs(dy) <= 0.5 && Math.abs(dx) <= 0.5 && dy * dy + dx * dx < nearest) {
        nearest = dy * dy + dx * dx;
        found = i + 1;
      }
    });
    this.select(found === this.selected ? null : found);
    if (this.editor.style.visibility === "visible") this.editor.focus();
  }

  select(number) {
    if (this.edited) this.write();
    this.selected = number;
    const widget = number && this.promptsWidget();
    this.editor.style.visibility = widget ? "visible" : "hidden";
    this.editor.placeholder = `Prompt of region ${number}; empty: ${this.captions()[number - 1] ? "its caption" : "the prompt of the whole image"}`;
    if (number) this.editor.value = this.prompts?.[number - 1] ?? "";
    this.show();
  }

  /** The prompts as the node will read them. */
  async read() {
    const widget = this.promptsWidget();
    const count = this.layout?.regions?.length;
    const key = widget && count ? JSON.stringify([widget.value, count]) : null;
    if (key === this.readKey) return;
    this.readKey = key;
    const answer = key ? await prompts({ text: widget.value, count }) : {};
    if (key !== this.readKey) return;
    if (answer.lost) this.readKey = null;
    this.take(answer);
  }

  /** The editor's text will go into the widget, at a pause. */
  edit() {
    this.edited = { number: this.selected, prompt: this.editor.value, count: this.layout.regions.length };
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.write(), PAUSE);
  }

  async write() {
    const { edited } = this;
    const widget = this.node.graph && this.promptsWidget();
    clearTimeout(this.writing);
    this.edited = null;
    if (!edited || !widget) return;
    const answer = await prompts({ text: widget.value, ...edited });
    if (!answer.error) {
      this.readKey = JSON.stringify([answer.text, edited.count]);
      widget.value = answer.text;
      widget.callback?.(answer.text);
    }
    this.take(answer);
  }

  take(answer) {
    this.error = answer.error;
    if (!answer.error) this.prompts = answer.prompts;
    if (this.selected && document.activeElement !== this.editor) this.editor.value = this.prompts?.[this.selected - 1] ?? "";
    this.show();
  }

  highlight(canvas, regions, text) {
    if (!this.layout?.canvas || (canvas && String(canvas) !== String(this.layout.canvas))) return;
    if (text) this.said = text;
    this.show();
    this.running.replaceChildren(
      ...regions.map(([y, x, height, width]) => svg("rect", { x, y, width, height, class: "running", fill: "#5b9dff", "fill-opacity": 0.35, stroke: "#5b9dff", "stroke-width": 2, "vector-effect": "non-scaling-stroke", "pointer-events": "none" })),
    );
  }
}

function prompts(values) {
  return post("/loupe/prompts", JSON.stringify(values));
}
