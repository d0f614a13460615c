import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, attach, updateAll } from "./panel.js";
import { followPreset } from "./presets.js";
import { RegionMap, showCells, showProgress, stopProgress } from "./region_map.js";
import { ResultText } from "./result_text.js";
import { SchedulePlot, showRun, showWords } from "./schedule_plot.js";

const KINDS = { "region map": RegionMap, "schedule plot": SchedulePlot, text: ResultText };

let panels = {}; // by node id: kind and height, from the server

app.registerExtension({
  name: "loupe.panels",
  async init() {
    panels = await ask("/loupe/panels");
  },
  nodeCreated(node) {
    followPreset(node);
    const panel = panels[node.comfyClass];
    if (panel) attach(node, new KINDS[panel.kind](node, panel.height));
  },
  afterConfigureGraph: updateAll,
  setup() {
    api.addEventListener("loupe.progress", ({ detail }) => {
      showProgress(detail);
      showWords(detail);
    });
    api.addEventListener("loupe.run", ({ detail }) => {
      showCells(detail);
      showRun(detail);
    });
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, stopProgress);
  },
});
