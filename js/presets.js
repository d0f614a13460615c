// Widgets that a preset decides show its values, and are locked until the preset is "custom".

import { after } from "./panel.js";

/** Follows the widget `preset` of a node whose schema says what each preset sets its widgets to. */
export function followPreset(node) {
  const presets = node.constructor.nodeData?.input?.required?.preset?.[1]?.presets;
  const choice = presets && node.widgets?.find((widget) => widget.name === "preset");
  if (!choice) return;
  const decided = new Set(Object.values(presets).flatMap(Object.keys));

  function apply() {
    const preset = presets[choice.value];
    for (const widget of node.widgets) {
      if (!decided.has(widget.name)) continue;
      widget.disabled = Boolean(preset);
      if (preset && widget.value !== preset[widget.name]) widget.value = preset[widget.name];
    }
    node.setDirtyCanvas?.(true, true);
  }

  choice.callback = after(choice.callback, apply);
  node.onConfigure = after(node.onConfigure, apply);
  apply();
}
