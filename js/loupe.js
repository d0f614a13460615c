import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { attach, updateAll } from "./panel.js";
import { RegionMap, showProgress, stopProgress } from "./region_map.js";
import { SchedulePlot } from "./schedule_plot.js";

const PANELS = {
  LoupeRegionLayout: RegionMap,
  LoupeRegionPrompts: RegionMap,
  LoupeDemoFusion: SchedulePlot,
  LoupeDemoFusionSampler: SchedulePlot,
  LoupeStructurePrior: SchedulePlot,
  LoupePixelSmithSampler: SchedulePlot,
  LoupeLatentAdjustment: SchedulePlot,
};

app.registerExtension({
  name: "Loupe",
  nodeCreated(node) {
    const Panel = PANELS[node.comfyClass];
    if (Panel) attach(node, new Panel(node));
  },
  afterConfigureGraph: updateAll,
  setup() {
    api.addEventListener("loupe.progress", ({ detail }) => showProgress(detail));
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, stopProgress);
  },
});
