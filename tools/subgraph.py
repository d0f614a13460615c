"""A part of a workflow as one node: the subgraph behind it, and the node itself, as the page saves them.

What leads to the outputs goes inside, up to the nodes that the inputs stand for.
"""

from typing import NamedTuple

from ..headless.client import find_node
from .graph import (
    GAP,
    OPTIONAL,
    SLOT,
    TEXT,
    TITLE,
    WIDGET,
    WIDTH,
    in_order,
    inputs_of,
    is_link,
    make_links,
    make_nodes,
    new_id,
    place_section,
    width_for,
)
from .pack import declared

CATEGORY = "Image generation and editing/Upscale"  # where ComfyUI's own blueprints for it are
INPUT_NODE, OUTPUT_NODE = -10, -20  # the page's ids for the two borders of a subgraph
BORDER = 160
LINK = "id", "origin_id", "origin_slot", "target_id", "target_slot", "type"


class Fold(NamedTuple):
    """Which part of a workflow (a name of workflows/api) is behind one node.

    inputs: {name: (title of the node that it takes the place of, its output)}. widgets: {name: (title,
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


def inside(workflow, key, border):
    """Nodes that `key` takes links from, itself included, as far as the links in `border`."""
    found = {key}
    for value in workflow[key]["inputs"].values():
        if is_link(value) and tuple(value) not in border:
            found |= inside(workflow, value[0], border)
    return found


def make_subgraph(name, fold, workflow, info):
    """What is behind the node, as the page saves it.

    workflow: API format. info: `definitions_of` the server.
    """
    border = {(find_node(workflow, title=title), output): name for name, (title, output) in fold.inputs.items()}
    ends = {name: (find_node(workflow, title=title), output) for name, (title, output) in fold.outputs.items()}
    keys = set().union(*(inside(workflow, key, border) for key, _ in ends.values()))
    kept = {key: {**node, "inputs": {k: v for k, v in node["inputs"].items() if not is_link(v) or tuple(v) not in border}} for key, node in workflow.items() if key in keys}
    for title, value in fold.values.items():
        node, target = fold.widgets[title]
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
    for title, (node, target) in {**fold.optional, **fold.widgets}.items():
        key = find_node(kept, title=node)
        kind = next(kind for k, kind, *_ in inputs_of(info[kept[key]["class_type"]]) if k == target)
        feed(title, kind, [(key, target)], **({"shape": OPTIONAL} if title in fold.optional else {}))
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
        "extra": {"BlueprintDescription": fold.description, "BlueprintSearchAliases": fold.aliases},
        "category": CATEGORY,
        "description": fold.description,
    }


def make_node(name, fold, subgraph, number):
    """The node that the subgraph is behind, without links."""
    texts = sum(fold.widgets[slot["name"]][1] in ("text", "prompt") for slot in subgraph["inputs"] if slot["name"] in fold.widgets)
    sockets = len(subgraph["inputs"]) - len(fold.widgets)
    height = SLOT * max(sockets, len(fold.outputs)) + WIDGET * (len(fold.widgets) - texts) + TEXT[1] * texts + TITLE

    def slot_of(slot):
        shown = {"widget": {"name": slot["name"]}} if slot["name"] in fold.widgets else {"shape": OPTIONAL} if slot["name"] in fold.optional else {}
        return {"name": slot["name"], "type": slot["type"], "link": None, **shown}

    return {
        "id": number,
        "type": subgraph["id"],
        "pos": [0, TITLE],
        "size": [width_for(name, TEXT[0] if texts else WIDTH), height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [slot_of(slot) for slot in subgraph["inputs"]],
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in subgraph["outputs"]],
        "title": name,
        "properties": {"cnr_id": "loupe", "ver": declared("version")},
        "widgets_values": [],
    }
