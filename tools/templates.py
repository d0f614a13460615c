"""python dev.py templates: makes workflows/*.json for the template browser from workflows/api/*.json.

With --thumbnails it also runs the workflows of the mini world and keeps a small picture of each.
"""

import argparse
import json
import os
import sys
import tempfile

from PIL import Image

from .client import Client, WorkflowError, node_title
from .server import PACK, Server, ServerError

WORKFLOWS = PACK / "workflows"
THUMBNAIL = 400  # pixels

NOTES = {
    "lsrna_demofusion": "Draws a picture at the mini world's native 128 px, enlarges it four times with LSRNA-DemoFusion, and shows two plainer enlargements for comparison. Everything it needs comes with Loupe: press Run, then change the prompt.",
    "lsrna_demofusion_sdxl": "Draws a picture at 1024 px, enlarges its latent with the LSR network, adds noise where it has edges and lets SDXL draw the detail, region by region. Lower e_max or denoise_depth to stay closer to the reference; for 4096 px set scale_by to 4, about 2000 network evaluations.",
    "lsrna_demofusion_patches": "LSRNA-DemoFusion taken apart: LSR and RNA make the latent, Regional Denoise and DemoFusion patch the model, the stock KSampler runs the last 30 of 50 steps, and the picture is the sampler node's to the last bit. Put a LoRA, a ControlNet or another sampler wherever it goes in a plain workflow.",
    "pixelsmith": "Enlarges a picture of the mini world to 2x and then to 4x with PixelSmith: each time it is enlarged, encoded and redrawn patch by patch, held to its structure for the first guided_steps. Fewer guided_steps leave more to the model.",
    "lsrna_pixelsmith": "Enlarges the latent four times with LSR, adds noise at its edges and lets PixelSmith redraw it patch by patch in the last 30 of 50 steps. The picture is never enlarged as pixels or encoded again.",
    "pixelsmith_sdxl": "Draws a picture at 1024 px and takes it to 2048 and then 4096 px with PixelSmith: each time it is enlarged, encoded and redrawn patch by patch, held to its structure for the first guided_steps. Fewer guided_steps leave more to the model.",
    "lsrna_pixelsmith_sdxl": "Draws a picture at 1024 px, enlarges its latent twice with the LSR network, adds noise at its edges and lets PixelSmith redraw it patch by patch in the last 30 of 50 steps. For 4096 px set scale_by to 4.",
    "cupscale": "C-Upscale: the regions are redrawn with prompts of their own (RSP) while two priors hold them to the structure (GSP) and the attention (RAP) of the whole picture. The same regions without the three stand beside it for comparison.",
    "cupscale_sdxl": "Draws a picture at 1024 px and enlarges it twice with C-Upscale: Structure Prior and Attention Prior hold every region to the whole picture. Region Prompts takes a line of text for each region, from a captioner or by hand; left empty, all regions see the whole prompt.",
    "cupscale_image_sdxl": "Enlarges a picture of yours twice with C-Upscale: load it, say what it shows and press Run. A higher start_at_step stays closer to the picture, a lower one redraws more.",
    "cupscale_fast_sdxl": "C-Upscale with a LoRA for few steps: eight steps without guidance draw the reference, the last four of eight the enlargement. Another few-step LoRA works as well; set steps and start_at_step to suit it.",
}

MODELS = {
    "sd_xl_base_1.0.safetensors": ("checkpoints", "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors"),
    "Hyper-SDXL-8steps-lora.safetensors": ("loras", "https://huggingface.co/ByteDance/Hyper-SD/resolve/main/Hyper-SDXL-8steps-lora.safetensors"),
    "swinir-liif-latent-sdxl.pth": ("latent_upscale_models", "https://github.com/3587jjh/LSRNA/raw/HEAD/lsr/swinir-liif-latent-sdxl.pth"),
}

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
PICTURES = {"LATENT", "IMAGE", "MASK"}
OPTIONAL = 7  # the slot shape that the page draws for inputs that may stay empty

TITLE, SLOT, WIDGET = 30, 20, 24
WIDTH, TEXT, PICTURE = 300, (400, 110), (360, 420)
PREVIEW = 220  # of a sampler while it runs, below its widgets
GAP, PADDING, GROUP_TITLE = 60, 20, 40
NOTE = 110
WINDOW = 16, 9


def inputs_of(definition):
    """(name, type, options, optional) of every input, in the page's order."""
    for section in ("required", "optional"):
        for name, (kind, *options) in definition["input"].get(section, {}).items():
            yield name, "COMBO" if isinstance(kind, list) else kind, options[0] if options else {}, section == "optional"


def is_widget(kind, options):
    return kind in WIDGETS and not options.get("forceInput")


def is_link(value):
    return isinstance(value, list)


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


# Nodes and links


def widget_values(node, definition):
    """Values by position, with the widgets that only the page has: what follows a seed, the upload button."""
    values = []
    for name, kind, options, _ in inputs_of(definition):
        if not is_widget(kind, options):
            continue
        value = node["inputs"].get(name, options.get("default"))
        values.append(options.get("default", "") if is_link(value) else value)
        if kind == "INT" and options.get("control_after_generate", name in ("seed", "noise_seed")):
            values.append("fixed")
        if options.get("image_upload"):
            values.append("image")
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


def size_of(node, definition):
    """Width and height without the title bar."""
    inputs = [(kind, options) for _, kind, options, _ in inputs_of(definition)]
    if definition["output_node"] or any(options.get("image_upload") for _, options in inputs):
        return PICTURE
    sockets = sum(not is_widget(kind, options) for kind, options in inputs)
    texts = sum(bool(options.get("multiline")) for _, options in inputs)
    height = SLOT * max(sockets, len(definition["output"]), 1) + 6
    widgets = len(widget_values(node, definition)) - texts
    return TEXT[0] if texts else WIDTH, height + WIDGET * widgets + TEXT[1] * texts + (8 if widgets or texts else 0)


def properties(key, node, definition):
    found = {"cnr_id": "loupe" if node["class_type"].startswith("Loupe") else "comfy-core", "Node name for S&R": node["class_type"]}
    files = [value for value in node["inputs"].values() if isinstance(value, str) and value in MODELS]
    if files:
        found["models"] = [{"name": name, "url": MODELS[name][1], "directory": MODELS[name][0]} for name in files]
    return found


def make_nodes(workflow, info, places):
    nodes = {}
    for order, key in enumerate(in_order(workflow)):
        node, definition = workflow[key], info[workflow[key]["class_type"]]
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
            "widgets_values": widget_values(node, definition),
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


# Layout


def sections(workflow, info):
    """(title, node ids): first what loads the model and reads the prompt, then for each picture that is shown
    what only it needs, from the picture with the shortest way."""
    outputs = {key: set(info[node["class_type"]]["output"]) for key, node in workflow.items()}
    shared = set()
    for key in in_order(workflow):
        before = set(sources(workflow[key]))
        if outputs[key] and (outputs[key] <= {"CLIP", "CONDITIONING"} and before <= shared if before else not outputs[key] & PICTURES):
            shared.add(key)
    found, taken = [("Model and prompt", shared)], set(shared)
    shown = [key for key, node in workflow.items() if info[node["class_type"]]["output_node"]]
    for key in sorted(shown, key=lambda key: len(ancestors(workflow, key))):
        found.append((node_title(workflow, key), ancestors(workflow, key) - taken))
        taken |= found[-1][1]
    return [(title, [key for key in workflow if key in keys]) for title, keys in found]


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
            y += size[1] + TITLE + PADDING + (PREVIEW if "steps" in workflow[key]["inputs"] else 0)
        x += width + GAP
        height = max(height, y - TITLE - top)
    return places, (x - GAP + PADDING - left, height)


def rows_of(sizes, per_row):
    """Corners of rectangles in rows of `per_row`, and the width and height of them all."""
    corners, y, widest = [], 0, 0
    for start in range(0, len(sizes), per_row):
        x, row = 0, sizes[start : start + per_row]
        for width, _ in row:
            corners.append((x, y))
            x += width + GAP
        widest = max(widest, x - GAP)
        y += max(height for _, height in row) + GAP
    return corners, (widest, y - GAP)


def layout(workflow, info):
    """Positions by node id, groups, and the rectangle of the note.

    Model and prompt stand at the left below the note, the other sections beside them, in as many rows as
    fill a window best.
    """
    (shared, *shown), places, groups = sections(workflow, info), {}, []
    sizes = [place_section(workflow, info, keys, 0, 0)[1] for _, keys in (shared, *shown)]
    left = sizes[0][0] + GAP

    def unfit(per_row):
        width, height = rows_of(sizes[1:], per_row)[1]
        return max((left + width) / WINDOW[0], height / WINDOW[1])

    corners, _ = rows_of(sizes[1:], min(range(1, len(sizes)), key=unfit))
    corners = [(0, TITLE + NOTE + GAP), *((left + x, y) for x, y in corners)]
    for number, ((title, keys), corner, size) in enumerate(zip((shared, *shown), corners, sizes), 1):
        places.update(place_section(workflow, info, keys, *corner)[0])
        groups.append({"id": number, "title": title, "bounding": [*corner, *size], "color": "#3f789e", "font_size": 24, "flags": {}})
    return places, groups, [0, TITLE, sizes[0][0], NOTE]


def make_note(number, order, text, rectangle):
    return {
        "id": number, "type": "MarkdownNote", "pos": rectangle[:2], "size": rectangle[2:], "flags": {}, "order": order, "mode": 0,
        "inputs": [], "outputs": [], "title": "About", "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653",
    }


def make_template(workflow, info, note):
    """The workflow as the page saves it (version 0.4).

    workflow: API format. info: the server's /object_info. note: text of the note node.
    """
    places, groups, rectangle = layout(workflow, info)
    nodes = make_nodes(workflow, info, places)
    links = make_links(workflow, nodes)
    last = max(node["id"] for node in nodes.values()) + 1
    return {
        "revision": 0,
        "last_node_id": last,
        "last_link_id": len(links),
        "nodes": [*nodes.values(), make_note(last, len(nodes), note, rectangle)],
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def is_mini(workflow):
    """Whether it runs on the bundled model."""
    return any(node["class_type"] == "LoupeLoadMini" for node in workflow.values())


def template_file(name, workflow):
    return WORKFLOWS / f"{name}{'_mini' if is_mini(workflow) else ''}.json"


# Thumbnails


def before_and_after(before, after):
    """Left half of the reference, right half of the result, as one small picture."""
    size = (THUMBNAIL, round(THUMBNAIL * after.height / after.width))
    picture = after.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    half = size[0] // 2
    picture.paste(before.convert("RGB").resize(size, Image.Resampling.BICUBIC).crop((0, 0, half, size[1])))
    picture.paste("white", (half - 1, 0, half + 1, size[1]))
    return picture


def make_thumbnail(client, workflow, info):
    """Run the workflow and compare the first picture that it saves with the last."""
    run = client.run(workflow)
    saved = [key for _, keys in sections(workflow, info) for key in keys if workflow[key]["class_type"] == "SaveImage"]
    first, last = (client.images(run, key)[0] for key in (saved[0], saved[-1]))
    return before_and_after(first, last), run.seconds


def stand_in(name, workflows):
    """The workflow of the mini world whose run illustrates `name`: itself, or the one that `name` begins with."""
    return max((mini for mini in workflows if is_mini(workflows[mini]) and name.startswith(mini)), key=len, default=None)


def make_all(client, names, thumbnails):
    """Write the templates, and the thumbnails that show the same runs, of `names` or all workflows."""
    info = client.get_json("/object_info")
    workflows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((WORKFLOWS / "api").glob("*.json"))}
    if not set(names) <= set(workflows):
        raise ValueError(f"workflows/api has {', '.join(workflows)}; unknown: {', '.join(set(names) - set(workflows))}")
    for name in names or workflows:
        if name not in NOTES:
            raise ValueError(f"{name} has no text in NOTES of tools/templates.py; write two sentences")
        file = template_file(name, workflows[name])
        file.write_text(json.dumps(make_template(workflows[name], info, NOTES[name]), indent=2) + "\n", encoding="utf-8")
        print(file.relative_to(PACK), flush=True)
    for name in (names or workflows) if thumbnails else ():
        if is_mini(workflows[name]):
            picture, seconds = make_thumbnail(client, workflows[name], info)
            for shown in [other for other in workflows if stand_in(other, workflows) == name]:
                file = template_file(shown, workflows[shown]).with_suffix(".jpg")
                picture.save(file, quality=88)
                print(f"{file.relative_to(PACK)}   {seconds:.0f} s", flush=True)


def main(host, _, arguments):
    parser = argparse.ArgumentParser(prog="dev.py templates")
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows of workflows/api, without .json (default: all)")
    parser.add_argument("--thumbnails", action="store_true", help="also run those of the mini world for the pictures")
    options = parser.parse_args(arguments)
    (PACK / ".cache").mkdir(exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small lose time to more threads
    try:
        with tempfile.TemporaryDirectory(dir=PACK / ".cache", ignore_cleanup_errors=True) as base, Server(host, base) as server:
            make_all(Client(server.url), options.names, options.thumbnails)
    except (ValueError, WorkflowError, ServerError) as error:
        print(f"templates: {error}", file=sys.stderr)
        return 1
    return 0
