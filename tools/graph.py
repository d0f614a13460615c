"""Nodes and links of an API workflow as the page saves them."""

import uuid

from ..headless.client import node_title
from .model_files import MODELS, download, files_of
from .pack import declared

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DRAWN = ("IMAGECOMPARE",)  # widgets without a value
OPTIONAL = 7  # the slot shape that the page draws for inputs that may stay empty

TITLE, SLOT, WIDGET, LETTER = 30, 20, 24, 9
WIDTH, TEXT, IMAGE = 300, (400, 110), (360, 420)
VUE_SLOTS, VUE_WIDGET, VUE_SLIDER, VUE_LINE = 14, 28, 33, 24  # of the Vue renderer: around the slots, a widget, a line below them
MARGIN = 4  # around what js/ draws below the widgets of a node
PREVIEW = 220  # of a sampler while it runs, below its widgets
GAP, PADDING, GROUP_TITLE = 60, 20, 40


def definitions_of(client):
    """The server's /object_info, with the `version` of each node's pack and the `panel` of each that Loupe draws one in."""
    info, core = client.get_json("/object_info"), versions_of(client)["comfyui_version"]
    for name, definition in info.items():
        definition["version"] = declared("version") if name.startswith("Loupe") else core
    for name, panel in client.get_json("/loupe/panels").items():
        info[name]["panel"] = panel
    return info


def versions_of(client):
    return client.get_json("/system_stats")["system"]


def new_id(*names):
    """The same UUID for the same names, so that making a file again changes nothing."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("loupe", *names))))


def inputs_of(definition):
    """(name, type, options, optional) of every input, in the browser's order, but for what only the browser fills."""
    for section in ("required", "optional"):
        for name, (kind, *options) in definition["input"].get(section, {}).items():
            if kind in DRAWN:
                continue
            yield name, "COMBO" if isinstance(kind, list) else kind, options[0] if options else {}, section == "optional"


def is_widget(kind, options):
    return kind in WIDGETS and not options.get("forceInput")


def is_link(value):
    return isinstance(value, list)


def is_ours(node):
    return node["class_type"].startswith("Loupe")


def sources(node):
    return [value[0] for value in node["inputs"].values() if is_link(value)]


def in_order(workflow):
    """Node ids, every node after the ones that it takes links from."""
    done = []
    while len(done) < len(workflow):
        ready = [key for key, node in workflow.items() if key not in done and set(sources(node)) <= set(done)]
        if not ready:
            raise ValueError("the workflow has a loop or a link from a node that it does not have")
        done += ready
    return done


def ancestors(workflow, key):
    found = {key}
    for source in sources(workflow[key]):
        found |= ancestors(workflow, source)
    return found


def widgets(node, definition):
    """{name: value} in the browser's order, with the widgets that only the browser has: what follows a seed, the upload button."""
    values = {}
    for name, kind, options, _ in inputs_of(definition):
        if not is_widget(kind, options):
            continue
        value = node["inputs"].get(name, options.get("default"))
        values[name] = options.get("default", "") if is_link(value) else value
        if kind == "INT" and options.get("control_after_generate", name in ("seed", "noise_seed")):
            values["control_after_generate"] = "fixed"
        if options.get("image_upload"):
            values["upload"] = "image"
    return values


def slots(definition):
    """Input slots: sockets first, then one for every widget."""
    sockets, widgets = [], []
    for name, kind, options, optional in inputs_of(definition):
        slot = {"name": name, "type": kind, "link": None}
        if is_widget(kind, options):
            widgets.append({**slot, "widget": {"name": name}})
        else:
            sockets.append({**slot, "shape": OPTIONAL} if optional else slot)
    return sockets + widgets


def width_for(title, least):
    """Of a node: the page makes one that is narrower than its title as wide as that."""
    return max(least, LETTER * len(title) + TITLE)


def size_of(node, definition):
    """Width and height without the title bar. definition: of `definitions_of`."""
    title = node.get("_meta", {}).get("title", definition["display_name"])
    inputs = [(kind, options) for _, kind, options, _ in inputs_of(definition)]
    if definition["output_node"] or any(options.get("image_upload") for _, options in inputs):
        return width_for(title, IMAGE[0]), IMAGE[1]
    sockets = sum(not is_widget(kind, options) for kind, options in inputs)
    texts = sum(bool(options.get("multiline")) for _, options in inputs)
    height = SLOT * max(sockets, len(definition["output"]), 1) + 6
    lines = len(widgets(node, definition)) - texts
    if "panel" in definition:
        height += definition["panel"]["height"] + MARGIN
    return width_for(title, TEXT[0] if texts else WIDTH), height + WIDGET * lines + TEXT[1] * texts + (8 if lines or texts else 0)


def height_of(node, definition):
    """Height without the title bar in that renderer in which it is larger."""
    values = [(kind, options) for _, kind, options, _ in inputs_of(definition) if is_widget(kind, options)]
    shown = [VUE_SLIDER if options.get("display") == "slider" else VUE_WIDGET for _, options in values if not options.get("advanced") and not options.get("multiline")]
    sockets = sum(not is_widget(kind, options) for _, kind, options, _ in inputs_of(definition))
    advanced = any(options.get("advanced") for _, options in values)
    badge = is_ours(node) or bool(definition.get("experimental"))
    lines = max(1, badge + advanced) + bool(files_of(node))  # a badge, a button for more inputs, a word on a missing file
    height = SLOT * max(sockets, len(definition["output"]), 1) + VUE_SLOTS + sum(shown) + VUE_LINE * lines
    if "panel" in definition:
        height += definition["panel"]["height"] + 4 * MARGIN
    return max(height, size_of(node, definition)[1])


def properties(key, node, definition):
    found = {"cnr_id": "loupe" if is_ours(node) else "comfy-core", "ver": definition["version"], "Node name for S&R": node["class_type"]}
    files = files_of(node, MODELS)
    if files:
        found["models"] = [download(name) for name in files.values()]
    return found


def make_nodes(workflow, info, places):
    nodes = {}
    for order, key in enumerate(in_order(workflow)):
        node, definition = workflow[key], info[workflow[key]["class_type"]]
        values = widgets(node, definition)
        nodes[key] = {
            "id": int(key),
            "type": node["class_type"],
            "pos": list(places[key]),
            "size": list(size_of(node, definition)),
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": slots(definition),
            "outputs": [{"name": name, "type": kind, "links": []} for name, kind in zip(definition["output_name"], definition["output"])],
            **({} if node_title(workflow, key) == definition["display_name"] else {"title": node_title(workflow, key)}),
            "properties": properties(key, node, definition),
            "widgets_values": list(values.values()),
            "widgets_values_named": values,
        }
    return nodes


def make_links(workflow, nodes):
    links = []
    for key, node in workflow.items():
        for place, slot in enumerate(nodes[key]["inputs"]):
            value = node["inputs"].get(slot["name"])
            if is_link(value):
                source, output = nodes[value[0]], value[1]
                slot["link"] = len(links) + 1
                source["outputs"][output]["links"].append(slot["link"])
                links.append([slot["link"], source["id"], output, int(key), place, source["outputs"][output]["type"]])
    return links


def columns(workflow, keys):
    """The nodes of a section from left to right: each one column after the last that it takes links from."""
    depth = {}
    for key in in_order(workflow):
        if key in keys:
            depth[key] = 1 + max([depth[source] for source in sources(workflow[key]) if source in depth], default=-1)
    return [[key for key in keys if depth[key] == column] for column in range(max(depth.values()) + 1)]


def place_section(workflow, info, keys, left, top):
    """Positions of the nodes of a section whose corner is (left, top), and its width and height."""
    places, x, height = {}, left + PADDING, 0
    for column in columns(workflow, keys):
        y, width = top + GROUP_TITLE + TITLE, 0
        for key in column:
            places[key] = (x, y)
            size = size_of(workflow[key], info[workflow[key]["class_type"]])
            width = max(width, size[0])
            y += height_of(workflow[key], info[workflow[key]["class_type"]]) + TITLE + PADDING + (PREVIEW if "steps" in workflow[key]["inputs"] else 0)
        x += width + GAP
        height = max(height, y - TITLE - top)
    return places, (x - GAP + PADDING - left, height)


def saved(name, nodes, links, groups, frontend, subgraphs=()):
    """A file of the page (version 0.4); `name` is told from all others. frontend: version of the page that reads it first."""
    return {
        "id": new_id(name),
        "revision": 0,
        "last_node_id": max(node["id"] for node in nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        **({"definitions": {"subgraphs": list(subgraphs)}} if subgraphs else {}),
        "config": {},
        "extra": {"frontendVersion": frontend},
        "version": 0.4,
    }
