"""Blueprints: whole methods as one node, subgraphs/*.json, made from workflows/api/*.json.

What leads to the outputs of a blueprint goes inside, up to the nodes that its inputs stand for. To add
one, write an entry in BLUEPRINTS and run `python dev.py templates WORKFLOW`.
"""

import json
import uuid
from typing import NamedTuple

from ..headless.client import find_node
from .graph import (
    GAP,
    OPTIONAL,
    SLOT,
    TITLE,
    WIDGET,
    WIDTH,
    in_order,
    inputs_of,
    is_link,
    make_links,
    make_nodes,
    place_section,
)
from .server import PACK

SUBGRAPHS = PACK / "subgraphs"
CATEGORY = "Image generation and editing/Upscale"  # where ComfyUI's own blueprints for it are
INPUT_NODE, OUTPUT_NODE = -10, -20  # the page's ids for the two borders of a subgraph
BORDER = 160
LINK = "id", "origin_id", "origin_slot", "target_id", "target_slot", "type"


class Blueprint(NamedTuple):
    """inputs: {name: (title of the node that it takes the place of, its output)}. widgets: {name: (title,
    input)} of those inside that the node shows. outputs: {name: (title, output)}. optional: {name: (title, input)} of
    sockets that the workflow leaves empty. values: {name: value} of widgets that start otherwise than in the workflow."""

    workflow: str
    description: str
    aliases: list[str]
    inputs: dict[str, tuple[str, int]]
    widgets: dict[str, tuple[str, str]]
    outputs: dict[str, tuple[str, int]]
    optional: dict[str, tuple[str, str]] = {}
    values: dict[str, object] = {}


BLUEPRINTS = {
    "Restore (ClearSR)": Blueprint(
        "clearsr_sd21",
        "Restores a low-quality image and enlarges it with ClearSR: control networks that look at its latent, region by region, and Latent Adjustment between fidelity and detail.",
        ["ClearSR", "ControlSR", "super resolution", "denoise", "deblur", "Loupe"],
        {
            "image": ("Load Image", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("Empty prompt", 0), "negative": ("Negative prompt", 0),
        },
        {
            "clearsr": ("Load ClearSR", "control_net_name"),
            "scale_by": ("Enlarge to 4x", "scale_by"),
            "strength": ("Apply ClearSR", "strength"),
            "region_width": ("Regional Denoise", "region_width"),
            "region_height": ("Regional Denoise", "region_height"),
            "adjustment": ("Latent Adjustment (LSA)", "preset"),
            **{name: ("Restore", name) for name in ("steps", "cfg", "seed")},
        },
        {"image": ("Decode the result", 0), "latent": ("Restore", 0)},
    ),
    "Upscale (C-Upscale)": Blueprint(
        "cupscale_captions_sdxl",
        "Enlarges an image region by region with C-Upscale: structure and attention of the whole image steer every region, which may have a prompt of its own, typed or written by a vision-language model.",
        ["C-Upscale", "GSP", "RAP", "RSP", "tiled upscale", "Loupe"],
        {
            "image": ("Load Image", 0), "model": ("Load Checkpoint", 0), "clip": ("Load Checkpoint", 1), "vae": ("Load Checkpoint", 2),
            "positive": ("What the image shows", 0), "negative": ("Negative prompt", 0),
            "captioner": ("Load Captioner", 0),
        },
        {
            "native_megapixels": ("Native area", "megapixels"),
            "scale_by": ("Enlarge", "scale_by"),
            "region_width": ("Region Layout", "region_width"),
            "region_height": ("Region Layout", "region_height"),
            "overlap": ("Region Layout", "overlap"),
            "prompts": ("Region Prompts (RSP)", "prompts"),
            "caption_regions": ("Region Prompts (RSP)", "use_captions"),
            "structure": ("Structure Prior (GSP)", "weight"),
            "steps": ("Draw with C-Upscale", "steps"),
            "start_at_step": ("Draw with C-Upscale", "start_at_step"),
            "cfg": ("Draw with C-Upscale", "cfg"),
            "seed": ("Draw with C-Upscale", "noise_seed"),
        },
        {"image": ("Decode C-Upscale", 0)},
        values={"caption_regions": False},
    ),
    "Upscale (LSRNA-DemoFusion)": Blueprint(
        "lsrna_demofusion_sdxl",
        "Enlarges a finished latent with LSRNA-DemoFusion: a super-resolution network for latents, and the last steps drawn again region by region.",
        ["LSRNA", "DemoFusion", "latent upscale", "Loupe"],
        {
            "latent": ("Draw the reference", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("Prompt", 0), "negative": ("Negative prompt", 0),
        },
        {
            "lsr_model": ("Load Latent Upscale Model (LSR)", "model_name"),
            **{name: ("DemoFusion Sampler", name) for name in ("scale_by", "preset", "region_width", "region_height", "cfg", "seed")},
        },
        {"image": ("Decode", 0), "latent": ("DemoFusion Sampler", 0)},
    ),
    "Upscale Image (Loupe)": Blueprint(
        "upscale_sdxl",
        "Enlarges an image with any model, region by region, with one dial between keeping it and inventing detail. An upscale model, a latent SR model and a tile ControlNet may be connected.",
        ["upscale", "tiled upscale", "Ultimate SD Upscale", "tile ControlNet", "creative upscale", "Loupe"],
        {
            "image": ("Load Image", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("What the image shows", 0), "negative": ("Negative prompt", 0),
        },
        {
            "scale_by": ("Enlarge Image", "scale_by"),
            "creativity": ("Creativity", "creativity"),
            "preset": ("Creativity", "preset"),
            "scheduler": ("Creativity", "scheduler"),
            "sampler_name": ("Sampler", "sampler_name"),
            "cfg": ("Draw", "cfg"),
            "seed": ("Draw", "noise_seed"),
        },
        {"image": ("Decode the result", 0)},
        {
            "upscale_model": ("Enlarge Image", "upscale_model"),
            "lsr": ("Enlarge Image", "lsr"),
            "control_net": ("Apply ControlNet If Connected", "control_net"),
        },
        {"preset": "balanced", "scheduler": "simple", "sampler_name": "euler"},
    ),
    "Upscale (PixelSmith)": Blueprint(
        "pixelsmith_sdxl",
        "Enlarges an image with PixelSmith: it is drawn again patch by patch, held to the structure of the small one for the first steps. Use it again on its own result for larger images.",
        ["PixelSmith", "patch upscale", "Loupe"],
        {
            "image": ("Decode the reference", 0), "model": ("Load Checkpoint", 0), "vae": ("Load Checkpoint", 2),
            "positive": ("Prompt", 0), "negative": ("Negative prompt", 0),
        },
        {
            "scale_by": ("Enlarge to 2x", "scale_by"),
            **{name: ("PixelSmith Sampler, 2x", name) for name in ("preset", "patch_size", "guided_until", "cfg", "seed")},
        },
        {"image": ("Decode 2x", 0), "latent": ("PixelSmith Sampler, 2x", 0)},
    ),
}


def inside(workflow, key, border):
    """Nodes that `key` takes links from, itself included, as far as the links in `border`."""
    found = {key}
    for value in workflow[key]["inputs"].values():
        if is_link(value) and tuple(value) not in border:
            found |= inside(workflow, value[0], border)
    return found


def new_id(*names):
    """The same UUID for the same names, so that making a blueprint again changes nothing."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("loupe", *names))))


def make_subgraph(name, blueprint, workflow, info):
    """What is behind the blueprint's node, as the page saves it."""
    border = {(find_node(workflow, title=title), output): name for name, (title, output) in blueprint.inputs.items()}
    ends = {name: (find_node(workflow, title=title), output) for name, (title, output) in blueprint.outputs.items()}
    keys = set().union(*(inside(workflow, key, border) for key, _ in ends.values()))
    kept = {key: {**node, "inputs": {k: v for k, v in node["inputs"].items() if not is_link(v) or tuple(v) not in border}} for key, node in workflow.items() if key in keys}
    for title, value in blueprint.values.items():
        node, target = blueprint.widgets[title]
        kept[find_node(kept, title=node)]["inputs"][target] = value
    places, (width, _) = place_section(kept, info, in_order(kept), 0, 0)
    nodes = make_nodes(kept, info, places)
    links = [dict(zip(LINK, link)) for link in make_links(kept, nodes)]
    inputs, outputs = [], []

    def connect(origin, output, target, slot, kind):
        links.append(dict(zip(LINK, (len(links) + 1, origin, output, target, slot, kind))))
        return links[-1]["id"]

    def end(side, title, kind, numbers, x):
        return {"id": new_id(name, side, title), "name": title, "type": kind, "linkIds": numbers, "pos": [x, SLOT * (len(inputs if side == "input" else outputs) + 1)]}

    def feed(title, kind, targets, **shape):
        numbers = []
        for key, target in targets:
            slot = next(i for i, slot in enumerate(nodes[key]["inputs"]) if slot["name"] == target)
            numbers.append(connect(INPUT_NODE, len(inputs), nodes[key]["id"], slot, kind))
            nodes[key]["inputs"][slot]["link"] = numbers[-1]
        inputs.append({**end("input", title, kind, numbers, -GAP - SLOT), **shape})

    for (source, output), title in border.items():
        targets = [(key, k) for key in kept for k, v in workflow[key]["inputs"].items() if v == [source, output]]
        feed(title, info[workflow[source]["class_type"]]["output"][output], targets)
    for title, (node, target) in {**blueprint.optional, **blueprint.widgets}.items():
        key = find_node(kept, title=node)
        kind = next(kind for k, kind, *_ in inputs_of(info[kept[key]["class_type"]]) if k == target)
        feed(title, kind, [(key, target)], **({"shape": OPTIONAL} if title in blueprint.optional else {}))
    for title, (key, output) in ends.items():
        kind = info[kept[key]["class_type"]]["output"][output]
        number = connect(nodes[key]["id"], output, OUTPUT_NODE, len(outputs), kind)
        nodes[key]["outputs"][output]["links"].append(number)
        outputs.append(end("output", title, kind, [number], width + GAP + SLOT))
    return {
        "id": new_id(name),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": max(node["id"] for node in nodes.values()), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": INPUT_NODE, "bounding": [-GAP - BORDER, 0, BORDER, SLOT * (len(inputs) + 2)]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [width + GAP, 0, BORDER, SLOT * (len(outputs) + 2)]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {"BlueprintDescription": blueprint.description, "BlueprintSearchAliases": blueprint.aliases},
        "category": CATEGORY,
        "description": blueprint.description,
    }


def make_blueprint(name, blueprint, workflow, info):
    """The blueprint as the page saves a published subgraph (version 0.4): one node, and what is behind it.

    workflow: API format. info: `definitions_of` the server.
    """
    subgraph = make_subgraph(name, blueprint, workflow, info)
    number = subgraph["state"]["lastNodeId"] + 1
    height = SLOT * max(len(blueprint.inputs) + len(blueprint.optional), len(blueprint.outputs)) + WIDGET * len(blueprint.widgets) + TITLE
    node = {
        "id": number,
        "type": subgraph["id"],
        "pos": [0, TITLE],
        "size": [WIDTH, height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": slot["name"], "type": slot["type"], "link": None, **({"widget": {"name": slot["name"]}} if slot["name"] in blueprint.widgets else {"shape": OPTIONAL} if slot["name"] in blueprint.optional else {})} for slot in subgraph["inputs"]],
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in subgraph["outputs"]],
        "title": name,
        "properties": {"cnr_id": "loupe"},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": number,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def make_all(workflows, names, info):
    """Write the blueprints of the workflows `names`; yields their files."""
    SUBGRAPHS.mkdir(exist_ok=True)
    for name, blueprint in BLUEPRINTS.items():
        if blueprint.workflow in names:
            file = SUBGRAPHS / f"{name}.json"
            file.write_text(json.dumps(make_blueprint(name, blueprint, workflows[blueprint.workflow], info), indent=2) + "\n", encoding="utf-8")
            yield file
