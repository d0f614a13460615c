// What a node says after a run, in words.

import { html, updateAll } from "./panel.js";

export class ResultText {
  constructor(node, height) {
    this.node = node;
    this.height = height;
    this.element = html("div", { class: "loupe-text", tabindex: 0, style: "overflow:auto;white-space:pre-wrap;user-select:text;padding:4px;font:11px/14px sans-serif;color:var(--descrip-text);background:var(--comfy-input-bg);border-radius:4px" }, "Shows after a run.");
  }

  executed(output) {
    this.element.textContent = (output?.text ?? []).join("\n");
    updateAll();
  }

  /** The text as a list, of those that write JSON. */
  get list() {
    try {
      const list = JSON.parse(this.element.textContent);
      return Array.isArray(list) ? list : [];
    } catch {
      return [];
    }
  }
}
