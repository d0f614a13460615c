// What can be known of a latent before a run, from the nodes that lead to it.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { updateAll } from "./panel.js";

const COMFYUI_CELL = 8; // pixels, in nodes of ComfyUI that know no model
const sizes = new Map();

/** [node, output slot] that feeds `name`. */
export function source(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  const link = slot < 0 ? null : node.getInputLink(slot);
  return link ? [node.getInputNode(slot), link.origin_slot] : null;
}

function value(node, name) {
  const from = source(node, name);
  if (from) return from[0]?.type.startsWith("Primitive") ? from[0].widgets?.[0].value : undefined;
  return node.widgets?.find((widget) => widget.name === name)?.value;
}

function round(x) {
  const whole = Math.floor(x);
  return x - whole === 0.5 ? whole + (whole % 2) : Math.round(x); // as Python
}

// A size is [rows, columns, pixels to the side of each]: 1 of images, of latents those of a cell.
const scaled = (size, factor) => factor && [round(size[0] * factor), round(size[1] * factor), size[2]];
const cut = (size, cell) => size && [Math.floor(size[0] / cell), Math.floor(size[1] / cell), cell];
const decoded = (size) => size && [size[0] * size[2], size[1] * size[2], 1];
const same = (input) => (node, cell) => sizeOf(source(node, input), cell);

/** As ComfyUI resizes an empty latent at sampling: `size` in cells of `cell` pixels. */
export function inCells(size, cell) {
  return size && [round((size[0] * size[2]) / cell), round((size[1] * size[2]) / cell), cell];
}

const sampled = (input) => (node, cell) => inCells(sizeOf(source(node, input), cell), cell);

function typed(node) {
  const size = [value(node, "height"), value(node, "width")];
  return size.every(Number.isFinite) ? [...size, 1] : null;
}

/** As ComfyUI enlarges to `target` rows and columns: a side of 0 keeps the aspect ratio, both keep the size. */
function resized(size, target) {
  if (!size || !target) return null;
  const [height, width] = target;
  if (!height && !width) return size;
  return [height || Math.max(1, round((size[0] * width) / size[1])), width || Math.max(1, round((size[1] * height) / size[0])), size[2]];
}

function targeted(input) {
  return (node, cell) => {
    const size = sizeOf(source(node, input), cell);
    const target = typed(node);
    if (!size || !target) return null;
    return target[0] || target[1] ? resized(size, cut(target, size[2])) : scaled(size, value(node, "scale_by"));
  };
}

function megapixels(node, cell) {
  const size = sizeOf(source(node, "image"), cell);
  const [total, steps] = [value(node, "megapixels"), value(node, "resolution_steps") ?? 1];
  if (!size || !total) return null;
  const factor = Math.sqrt((total * 1024 * 1024) / (size[0] * size[1]));
  return [...size.slice(0, 2).map((side) => round((side * factor) / steps) * steps), 1];
}

function enlarged(input) {
  return (node, cell) => {
    const size = sizeOf(source(node, input), cell);
    return size && scaled(size, value(node, "scale_by"));
  };
}

/** Size that a node's first output has, where the model's latents have `cell` pixels a cell. */
const RULES = {
  EmptyLatentImage: (node) => cut(typed(node), COMFYUI_CELL),
  EmptySD3LatentImage: (node) => cut(typed(node), COMFYUI_CELL),
  LatentUpscale: (node, cell) => resized(sizeOf(source(node, "samples"), cell), cut(typed(node), COMFYUI_CELL)),
  LatentUpscaleBy: enlarged("samples"),
  LoupeLSRUpscale: targeted("samples"),
  LoupeDemoFusionSampler: targeted("reference"),
  LoupePixelSmithSampler: same("guide"),
  LoupeRegionNoise: same("samples"),
  KSampler: sampled("latent_image"),
  KSamplerAdvanced: sampled("latent_image"),
  SamplerCustom: sampled("latent_image"),
  SamplerCustomAdvanced: sampled("latent_image"),
  SetLatentNoiseMask: same("samples"),
  RepeatLatentBatch: same("samples"),
  LatentFromBatch: same("samples"),
  VAEEncode: (node, cell) => cut(sizeOf(source(node, "pixels"), cell), cell),
  VAEEncodeTiled: (node, cell) => cut(sizeOf(source(node, "pixels"), cell), cell),
  VAEDecode: (node, cell) => decoded(sizeOf(source(node, "samples"), cell)),
  VAEDecodeTiled: (node, cell) => decoded(sizeOf(source(node, "samples"), cell)),
  LoadImage: (node) => naturalSize(loaded(node)),
  ImageScale: (node, cell) => (value(node, "crop") === "center" ? typed(node) : resized(sizeOf(source(node, "image"), cell), typed(node))),
  ImageScaleBy: enlarged("image"),
  ImageScaleToTotalPixels: megapixels,
  Reroute: (node, cell) => sizeOf([node.getInputNode(0), 0], cell),
};

/** Size of what comes out of [node, slot], null where only a run can tell. `cell`: pixels of the model's latent cells. */
export function sizeOf(from, cell) {
  const [node] = from ?? [];
  return (node?.mode === 0 && RULES[node.type]?.(node, cell)) || null;
}

function view({ filename, subfolder = "", type = "input" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

function loaded(node) {
  const [, subfolder, filename, type] = String(value(node, "image") ?? "").match(/^(?:(.*)\/)?([^/]+?)(?: \[(\w+)\])?$/) ?? [];
  return filename && view({ filename, subfolder, type });
}

/** Size of the image at `url`, null until it has loaded. */
function naturalSize(url) {
  if (!url) return null;
  if (!sizes.has(url)) {
    const image = new Image();
    sizes.set(url, null);
    image.onload = () => {
      sizes.set(url, [image.naturalHeight, image.naturalWidth, 1]);
      updateAll();
    };
    image.src = url;
  }
  return sizes.get(url);
}

/** Address of an image with the shape of `size` among what leads to `node`, and what was shown of it. */
export function imageOf(node, size) {
  const seen = new Set();
  for (let nodes = [node]; nodes.length; ) {
    for (const each of nodes) {
      const url = shown(each).find((url) => fits(naturalSize(url), size));
      if (url) return url;
      seen.add(each);
    }
    nodes = nodes.flatMap((each) => (each.inputs ?? []).map((_, slot) => each.getInputNode(slot))).filter((each, i, all) => each && !seen.has(each) && all.indexOf(each) === i);
  }
  return null;
}

/** Images that a node has loaded, or that the nodes after it show. */
function shown(node) {
  if (node.type === "LoadImage") return [loaded(node)].filter(Boolean);
  const after = (one, slot) => (one.getOutputNodes(slot) ?? []).filter(Boolean); // a graph that is being loaded has links without nodes
  const near = (node.outputs ?? []).flatMap((_, slot) => after(node, slot));
  const decoded = near.filter((next) => next.type.startsWith("VAEDecode")).flatMap((next) => after(next, 0));
  return [...near, ...decoded].flatMap((next) => (/^(Save|Preview)Image$/.test(next.type) ? (outputs(next).images ?? []) : [])).map(view);
}

/** What a run has reported of a node. In a subgraph another node may have its id. */
function outputs(node) {
  return (app.graph.getNodeById(node.id) === node && app.nodeOutputs?.[node.id]) || {};
}

function fits(image, size) {
  return image && Math.abs((image[0] * size[1]) / (image[1] * size[0]) - 1) < 0.05;
}
