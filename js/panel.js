// Images in a node: where they live, and when they are drawn again.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const DELAY = 60; // ms without a change before the server is asked

const byNode = new WeakMap();

for (const event of ["graphChanged", "reconnected"]) api.addEventListener(event, updateAll);

export function updateAll() {
  for (const panel of panels()) panel.update?.();
}

export function panelOf(node) {
  return byNode.get(node);
}

/** The panel of the node that a run knows as `id`: in a subgraph, 5:3 is node 3 of the one that node 5 shows. */
export function panelOfId(id) {
  const [first, ...rest] = id.split(":");
  const node = rest.reduce((outer, next) => outer?.subgraph?.getNodeById(next), (app.rootGraph ?? app.graph).getNodeById(first));
  return node && panelOf(node);
}

/** The panels of the nodes that are in the open workflow and its subgraphs. */
export function panels() {
  const root = app.rootGraph ?? app.graph;
  const graphs = [root, ...(root.subgraphs?.values() ?? [])];
  return graphs.flatMap((graph) => graph.nodes).map(panelOf).filter(Boolean);
}

/** Puts `panel` (element, height; question, update() and executed() where it has them) below the widgets of `node`. Nothing of it is saved or sent. */
export function attach(node, panel) {
  const widget = node.addDOMWidget("loupe_panel", "loupe_panel", panel.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => panel.height,
    getMaxHeight: () => panel.maxHeight,
  });
  widget.serialize = false;
  for (const other of node.widgets) if (other !== widget) other.callback = after(other.callback, updateAll);
  const update = () => node.graph && panel.update?.(); // a copy for the clipboard is in no graph
  node.onAdded = after(node.onAdded, update);
  node.onConfigure = after(node.onConfigure, update);
  node.onConnectionsChange = after(node.onConnectionsChange, update);
  node.onExecuted = after(node.onExecuted, (output) => panel.executed?.(output));
  node.onRemoved = after(node.onRemoved, () => panel.question?.drop());
  byNode.set(node, panel);
}

/** `first`, then `then` with the same arguments. */
export function after(first, then) {
  return function (...args) {
    const result = first?.apply(this, args);
    then(...args);
    return result;
  };
}

/** What went wrong, in words. */
export const WRONG = "var(--error-text, #ff6b6b)";

/** Asks the server when its questions stop changing; a late answer to an earlier question is dropped. */
export class Question {
  constructor(answered) {
    this.answered = answered;
    this.asked = null;
  }

  drop() {
    clearTimeout(this.timer);
    this.asked = null;
  }

  ask(path, values) {
    const body = JSON.stringify(values);
    const question = path + body;
    if (question === this.asked) return;
    this.asked = question;
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      const answer = await post(path, body);
      if (question !== this.asked) return;
      if (answer.lost) this.asked = null; // to ask again
      this.answered(answer);
    }, DELAY);
  }
}

/** The server's JSON, or {error}; with `lost` where it did not answer. */
export async function ask(path, options) {
  try {
    const response = await api.fetchApi(path, options);
    return response.ok ? await response.json() : { error: `${response.status} ${response.statusText}` };
  } catch {
    return { error: "The server does not answer.", lost: true };
  }
}

export function post(path, body) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

/** Values of the node's widgets by name; without those that belong to the page alone. */
export function values(node) {
  return Object.fromEntries(node.widgets.filter((w) => w.serialize !== false).map((w) => [w.name, w.value]));
}

/** Says so where one of the widgets `names` gets its value by a link, which only a run knows. */
export function unknown(node, names) {
  const linked = (node.inputs ?? []).filter((input, slot) => node.isInputConnected(slot) && names.includes(input.widget?.name)).map((input) => input.name);
  return linked.length ? `drawn without what comes by link: ${linked.join(", ")}` : "";
}

export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
