// The weights of a method over the noise levels of a run: solid as the widgets say, dashed by default.

import { html, panelOfId, Question, svg, unknown, values, WRONG } from "./panel.js";

const COLORS = ["#ff9a3c", "#5b9dff", "#63d471"];
const WIDTH = 1000; // timesteps
const HEIGHT = 100;
const MARGIN = 5;
const MOST_POINTS = 60; // more would hide the line

let running = []; // plots of the nodes that have a part in the last run

/** The levels of a run that begins, from the server, in the plots of the `nodes` that have a part in it. */
export function showRun({ nodes, timesteps, table }) {
  running = nodes.map(panelOfId).filter((panel) => panel instanceof SchedulePlot);
  for (const plot of running) plot.began({ timesteps, table });
}

/** How far the run is, or a `notice` on it, from the server. */
export function showWords({ node, text, notice }) {
  const own = panelOfId(node);
  for (const plot of new Set(own instanceof SchedulePlot ? [...running, own] : running)) plot.say(text, notice);
}

export class SchedulePlot {
  constructor(node, height) {
    this.node = node;
    this.height = this.maxHeight = height;
    this.legend = html("div", { style: "display:flex;gap:10px;flex-wrap:wrap;line-height:14px" });
    this.weights = html("div", { title: "weight", style: "display:flex;flex-direction:column;justify-content:space-between;align-items:flex-end;line-height:11px" });
    this.svg = svg("svg", { viewBox: `0 ${-MARGIN} ${WIDTH} ${HEIGHT + 2 * MARGIN}`, preserveAspectRatio: "none", style: "flex:1 1 0;height:100%;min-width:0;background:var(--comfy-input-bg);border-radius:4px" });
    this.axis = html("div", { style: "display:flex;justify-content:space-between;line-height:14px" });
    this.words = html("span");
    this.said = html("span");
    const plot = html("div", { style: "display:flex;gap:4px;flex:1 1 70px;height:70px;min-height:0" }, this.weights, this.svg);
    this.element = html("div", { class: "loupe-plot", style: `display:flex;flex-direction:column;gap:2px;max-height:${height}px;font:11px sans-serif;color:var(--descrip-text)` }, this.legend, plot, this.axis, html("div", { style: "text-align:center;line-height:14px" }, this.words, this.said));
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.describe());
    this.question = new Question((answer) => this.draw(answer));
  }

  /** A run over these levels begins. */
  began(run) {
    this.run = run;
    this.runValues = values(this.node);
    this.said.replaceChildren();
    this.update();
  }

  /** How far it is, then its notices. */
  say(text, notice) {
    if (notice) this.said.append(html("div", {}, text));
    else this.said.replaceChildren(` · ${text}`);
  }

  /** The last run, unless a widget that sets its levels says otherwise by now. */
  lastRun() {
    const now = values(this.node);
    return this.run && (this.plot?.schedule ?? []).every((name) => now[name] === this.runValues[name]) ? this.run : undefined;
  }

  update() {
    this.question.ask(`/loupe/curves/${this.node.comfyClass}`, { ...values(this.node), run: this.lastRun() });
    this.describe();
  }

  draw(plot) {
    this.plot = { ...plot, schedule: plot.schedule ?? this.plot?.schedule };
    this.svg.replaceChildren();
    if (!plot.error) {
      const curves = [...Object.values(plot.curves), ...Object.values(plot.default.curves)].flat();
      this.top = ceiling(Math.max(...curves));
      this.bottom = Math.min(0, ...curves) < 0 ? -ceiling(-Math.min(...curves)) : 0;
      this.svg.append(this.line("0", [0, WIDTH], [0, 0], { stroke: "var(--border-color)" }));
      const changed = JSON.stringify([plot.timesteps, plot.curves]) !== JSON.stringify([plot.default.timesteps, plot.default.curves]);
      if (changed) this.lines(plot.default, { "stroke-dasharray": "4 4", opacity: 0.5, class: "default" });
      this.lines(plot, { class: "now" });
      if (plot.of_run && plot.timesteps.length <= MOST_POINTS) this.points(plot);
    }
    this.describe();
  }

  lines(plot, attributes) {
    Object.entries(plot.curves).forEach(([name, weights], i) => {
      this.svg.append(this.line(name, plot.timesteps.map((t) => WIDTH - t), weights, { stroke: COLORS[i], ...attributes }));
    });
  }

  line(name, x, weights, attributes) {
    const points = weights.map((weight, i) => `${x[i]},${this.y(weight)}`);
    return svg("polyline", { points: points.join(" "), fill: "none", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke", "data-name": name, ...attributes });
  }

  /** A dot at every step. */
  points(plot) {
    Object.entries(plot.curves).forEach(([name, weights], i) => {
      const dots = weights.map((weight, step) => `M${WIDTH - plot.timesteps[step]} ${this.y(weight)}h0`);
      this.svg.append(svg("path", { d: dots.join(""), stroke: COLORS[i], "stroke-width": 5, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke", "data-name": name, class: "steps" }));
    });
  }

  y(weight) {
    return ((this.top - weight) / (this.top - this.bottom)) * HEIGHT;
  }

  /** Words around it: the names and what the levels are, or the values at `index`. */
  describe(index) {
    if (!this.plot) return;
    this.legend.style.color = this.plot.error ? WRONG : "";
    if (this.plot.error) {
      this.legend.textContent = this.plot.error;
      for (const element of [this.weights, this.axis, this.words]) element.textContent = "";
      return;
    }
    const { timesteps, curves } = this.plot;
    const item = ([name, weights], i) => html("span", { style: `color:${COLORS[i]}` }, index === undefined ? name : `${name} ${+weights[index].toPrecision(3)}`);
    this.legend.replaceChildren(...Object.entries(curves).map(item));
    this.weights.replaceChildren(
      html("span", {}, `${this.top}`),
      html("span", { style: "writing-mode:vertical-rl;transform:rotate(180deg);font-size:9px" }, "weight"),
      html("span", {}, `${this.bottom}`),
    );
    this.axis.replaceChildren(...["noise, t 999", "t 0, image"].map((text) => html("span", {}, text)));
    this.words.textContent = index === undefined ? unknown(this.node, this.plot.widgets) || this.levels() : this.place(index);
  }

  /** Whose levels are drawn. */
  levels() {
    const steps = this.plot.timesteps.length;
    return this.plot.of_run ? `the last run's ${steps} step${steps === 1 ? "" : "s"}` : "Stable Diffusion's levels, until a run";
  }

  place(index) {
    const t = `timestep ${Math.round(this.plot.timesteps[index])}`;
    return this.plot.of_run ? `step ${index + 1}, ${t}` : t;
  }

  point(event) {
    if (!this.plot || this.plot.error) return;
    const box = this.svg.getBoundingClientRect();
    const t = WIDTH * (1 - (event.clientX - box.left) / box.width);
    const distances = this.plot.timesteps.map((other) => Math.abs(other - t));
    this.describe(distances.indexOf(Math.min(...distances)));
  }
}

/** The next of 1, 2, 5, 10, ... times a power of ten. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return +([1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9)) * power).toPrecision(1);
}
