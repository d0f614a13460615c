// The weights of a method over the noise levels of a run: solid as the widgets say, dashed by default.

import { html, Question, svg, unknown, values } from "./panel.js";

const COLOURS = ["#ff9a3c", "#5b9dff", "#63d471"];
const WIDTH = 1000; // timesteps
const HEIGHT = 100;
const MARGIN = 5;

export class SchedulePlot {
  constructor(node, height) {
    this.node = node;
    this.height = this.maxHeight = height;
    this.legend = html("div", { style: "display:flex;gap:10px;flex-wrap:wrap;line-height:14px" });
    this.svg = svg("svg", { viewBox: `0 ${-MARGIN} ${WIDTH} ${HEIGHT + 2 * MARGIN}`, preserveAspectRatio: "none", style: "flex:1 1 70px;height:70px;min-height:0;width:100%;background:var(--comfy-input-bg);border-radius:4px" });
    this.axis = html("div", { style: "display:flex;justify-content:space-between;line-height:14px" });
    this.element = html("div", { class: "loupe-plot", style: "display:flex;flex-direction:column;gap:2px;font:11px sans-serif;color:var(--descrip-text)" }, this.legend, this.svg, this.axis);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.describe());
    this.question = new Question((answer) => this.draw(answer));
  }

  update() {
    this.question.ask(`/loupe/curves/${this.node.comfyClass}`, values(this.node));
    if (this.plot) this.describe();
  }

  draw(plot) {
    this.plot = plot;
    this.svg.replaceChildren();
    if (!plot.error) {
      const curves = [...Object.values(plot.curves), ...Object.values(plot.default.curves)].flat();
      this.top = ceiling(Math.max(...curves));
      this.bottom = Math.min(0, ...curves) < 0 ? -ceiling(-Math.min(...curves)) : 0;
      this.svg.append(this.line("0", [0, WIDTH], [0, 0], { stroke: "var(--border-color)" }));
      const changed = JSON.stringify([plot.timesteps, plot.curves]) !== JSON.stringify([plot.default.timesteps, plot.default.curves]);
      if (changed) this.lines(plot.default, { "stroke-dasharray": "4 4", opacity: 0.5, class: "default" });
      this.lines(plot, { class: "now" });
    }
    this.describe();
  }

  lines(plot, attributes) {
    Object.entries(plot.curves).forEach(([name, weights], i) => {
      this.svg.append(this.line(name, plot.timesteps.map((t) => WIDTH - t), weights, { stroke: COLOURS[i], ...attributes }));
    });
  }

  line(name, x, weights, attributes) {
    const points = weights.map((weight, i) => `${x[i]},${((this.top - weight) / (this.top - this.bottom)) * HEIGHT}`);
    return svg("polyline", { points: points.join(" "), fill: "none", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke", "data-name": name, ...attributes });
  }

  /** Words above and below: the names, or the values at `index`. */
  describe(index) {
    if (this.plot.error) {
      this.legend.textContent = this.plot.error;
      this.axis.textContent = "";
      return;
    }
    const { timesteps, curves } = this.plot;
    const item = ([name, weights], i) => html("span", { style: `color:${COLOURS[i]}` }, index === undefined ? name : `${name} ${+weights[index].toPrecision(3)}`);
    this.legend.replaceChildren(...Object.entries(curves).map(item));
    const middle = index === undefined ? unknown(this.node, this.plot.widgets) || `${this.bottom} to ${this.top}` : `timestep ${Math.round(timesteps[index])}`;
    this.axis.replaceChildren(...["noise", middle, "picture"].map((text) => html("span", {}, text)));
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
