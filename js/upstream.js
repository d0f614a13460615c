// What can be known of a latent before a run, from the nodes that lead to it.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { updateAll } from "./panel.js";

const CELL = 8; // pixels
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

const scaled = (size, factor) => factor && size.map((side) => round(side * factor));
const cells = (pixels) => pixels && pixels.map((side) => Math.floor(side / CELL));
const pixels = (cells) => cells && cells.map((side) => side * CELL);
const same = (input) => (node) => sizeOf(source(node, input));

function typed(node) {
  const size = [value(node, "height"), value(node, "width")];
  return size.every(Number.isFinite) ? size : null;
}

/** As ComfyUI enlarges: a side of 0 keeps the aspect ratio, both keep the size. */
function resized(size, target) {
  if (!size || !target) return null;
  const [height, width] = target;
  if (!height && !width) return size;
  return [height || Math.max(1, round((size[0] * width) / size[1])), width || Math.max(1, round((size[1] * height) / size[0]))];
}

function targeted(input) {
  return (node) => {
    const size = sizeOf(source(node, input));
    const target = typed(node);
    if (!size || !target) return null;
    return target[0] || target[1] ? resized(size, cells(target)) : scaled(size, value(node, "scale_by"));
  };
}

function megapixels(node) {
  const size = sizeOf(source(node, "image"));
  const [total, steps] = [value(node, "megapixels"), value(node, "resolution_steps") ?? 1];
  if (!size || !total) return null;
  const factor = Math.sqrt((total * 1024 * 1024) / (size[0] * size[1]));
  return size.map((side) => round((side * factor) / steps) * steps);
}

/** Size (height, width) that a node's first output has, in pixels for pictures and cells for latents. */
const RULES = {
  EmptyLatentImage: (node) => cells(typed(node)),
  EmptySD3LatentImage: (node) => cells(typed(node)),
  LatentUpscale: (node) => {
    const size = sizeOf(source(node, "samples"));
    return resized(size, cells(typed(node)));
  },
  LatentUpscaleBy: (node) => {
    const size = sizeOf(source(node, "samples"));
    return size && scaled(size, value(node, "scale_by"));
  },
  LoupeLSRUpscale: targeted("samples"),
  LoupeDemoFusionSampler: targeted("reference"),
  LoupePixelSmithSampler: same("guidance"),
  LoupeRegionNoise: same("samples"),
  KSampler: same("latent_image"),
  KSamplerAdvanced: same("latent_image"),
  SamplerCustom: same("latent_image"),
  SamplerCustomAdvanced: same("latent_image"),
  SetLatentNoiseMask: same("samples"),
  RepeatLatentBatch: same("samples"),
  LatentFromBatch: same("samples"),
  VAEEncode: (node) => cells(sizeOf(source(node, "pixels"))),
  VAEEncodeTiled: (node) => cells(sizeOf(source(node, "pixels"))),
  VAEDecode: (node) => pixels(sizeOf(source(node, "samples"))),
  VAEDecodeTiled: (node) => pixels(sizeOf(source(node, "samples"))),
  LoadImage: (node) => naturalSize(loaded(node)),
  ImageScale: (node) => (value(node, "crop") === "center" ? typed(node) : resized(sizeOf(source(node, "image")), typed(node))),
  ImageScaleBy: (node) => {
    const size = sizeOf(source(node, "image"));
    return size && scaled(size, value(node, "scale_by"));
  },
  ImageScaleToTotalPixels: megapixels,
  Reroute: (node) => sizeOf([node.getInputNode(0), 0]),
};

/** Size of what comes out of [node, slot], null where only a run can tell. */
export function sizeOf(from) {
  const [node] = from ?? [];
  return (node?.mode === 0 && RULES[node.type]?.(node)) || null;
}

function view({ filename, subfolder = "", type = "input" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

function loaded(node) {
  const [, subfolder, filename, type] = String(value(node, "image") ?? "").match(/^(?:(.*)\/)?([^/]+?)(?: \[(\w+)\])?$/) ?? [];
  return filename && view({ filename, subfolder, type });
}

/** Size (height, width) of the picture at `url`, null until it has loaded. */
function naturalSize(url) {
  if (!url) return null;
  if (!sizes.has(url)) {
    const image = new Image();
    sizes.set(url, null);
    image.onload = () => {
      sizes.set(url, [image.naturalHeight, image.naturalWidth]);
      updateAll();
    };
    image.src = url;
  }
  return sizes.get(url);
}

/** Address of a picture with the shape of `size` among what leads to `node`, and what was shown of it. */
export function pictureOf(node, size) {
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

/** Pictures that a node has loaded, or that the nodes after it show. */
function shown(node) {
  if (node.type === "LoadImage") return [loaded(node)].filter(Boolean);
  const near = (node.outputs ?? []).flatMap((_, slot) => node.getOutputNodes(slot) ?? []);
  const decoded = near.filter((next) => next.type.startsWith("VAEDecode")).flatMap((next) => next.getOutputNodes(0) ?? []);
  return [...near, ...decoded].flatMap((next) => (/^(Save|Preview)Image$/.test(next.type) ? (outputs(next).images ?? []) : [])).map(view);
}

/** What a run has reported of a node. In a subgraph another node may have its id. */
function outputs(node) {
  return (app.graph.getNodeById(node.id) === node && app.nodeOutputs?.[node.id]) || {};
}

function fits(picture, size) {
  return picture && Math.abs((picture[0] * size[1]) / (picture[1] * size[0]) - 1) < 0.05;
}
