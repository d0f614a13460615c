"""python dev.py templates: makes workflows/*.json of the shelf (shelf.py) for the template browser, and the
blueprints in subgraphs/, from workflows/api/*.json.

With --thumbnails it also runs workflows of the mini world and keeps a small image for each template.
"""

import argparse
import json
import os
import sys
import tempfile

from PIL import Image, ImageDraw, ImageFont, ImageStat

from ..headless.client import Client, WorkflowError, node_title
from . import blueprints
from .folded import make_folded
from .graph import (
    GAP,
    TITLE,
    ancestors,
    definitions_of,
    in_order,
    is_ours,
    make_links,
    make_nodes,
    place_section,
    saved,
    sources,
    versions_of,
)
from .notes import height_of_note, make_note
from .server import PACK, Server, ServerError
from .shelf import SHELF

WORKFLOWS = PACK / "workflows"
THUMBNAIL = 400  # pixels
MINI = "LoupeLoadMini"
IMAGES = {"LATENT", "IMAGE", "MASK"}
WINDOW = 16, 9
SHAPES = "ball", "box", "pyramid", "star", "heart", "flower", "house", "tree"  # words of the mini world
COLORS = "red", "green", "blue", "yellow", "purple", "orange", "white", "cyan"
GROUNDS = "grass", "sand", "brick", "wood", "water", "sky"


# Layout


def sections(workflow, info):
    """(title, node ids): first what loads the model and reads the prompt, then for each image that is shown
    what only it needs, from the image with the shortest way."""
    outputs = {key: set(info[node["class_type"]]["output"]) for key, node in workflow.items()}
    shared = set()
    for key in in_order(workflow):
        before = set(sources(workflow[key]))
        if outputs[key] and (outputs[key] <= {"CLIP", "CONDITIONING"} and before <= shared if before else not outputs[key] & IMAGES):
            shared.add(key)
    found, taken = [("Model and prompt", shared)], set(shared)
    shown = [key for key, node in workflow.items() if info[node["class_type"]]["output_node"]]
    for key in sorted(shown, key=lambda key: len(ancestors(workflow, key))):
        found.append((node_title(workflow, key), ancestors(workflow, key) - taken))
        taken |= found[-1][1]
    return [(title, [key for key in workflow if key in keys]) for title, keys in found]


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
    note = height_of_note(workflow)
    sizes = [place_section(workflow, info, keys, 0, 0)[1] for _, keys in (shared, *shown)]
    left = sizes[0][0] + GAP

    def unfit(per_row):
        width, height = rows_of(sizes[1:], per_row)[1]
        return max((left + width) / WINDOW[0], height / WINDOW[1])

    corners, _ = rows_of(sizes[1:], min(range(1, len(sizes)), key=unfit))
    corners = [(0, TITLE + note + GAP), *((left + x, y) for x, y in corners)]
    for number, ((title, keys), corner, size) in enumerate(zip((shared, *shown), corners, sizes), 1):
        places.update(place_section(workflow, info, keys, *corner)[0])
        groups.append({"id": number, "title": title, "bounding": [*corner, *size], "color": "#3f789e", "font_size": 24, "flags": {}})
    return places, groups, (0, TITLE, sizes[0][0], note)


def make_open(title, template, workflow, info, frontend):
    """The workflow as the page saves it, all nodes in sight."""
    places, groups, rectangle = layout(workflow, info)
    nodes = make_nodes(workflow, info, places)
    links = make_links(workflow, nodes)
    note = make_note(workflow, template.note, max(node["id"] for node in nodes.values()) + 1, len(nodes), rectangle)
    return saved(f"template {title}", [*nodes.values(), note], links, groups, frontend)


def make_template(title, template, workflow, info, frontend):
    """workflow: API format. info: `definitions_of` the server. frontend: the version of its page."""
    return (make_folded if template.widgets else make_open)(title, template, workflow, info, frontend)


def is_mini(workflow):
    """Whether it runs on the bundled model."""
    return any(node["class_type"] == MINI for node in workflow.values())


def template_file(name):
    return WORKFLOWS / f"{SHELF[name].title}.json"


# Thumbnails


def before_and_after(before, after):
    """The half of the result that has most to see, and at its left the same half of the reference."""
    size = (THUMBNAIL, round(THUMBNAIL * after.height / after.width))
    half = size[0] // 2
    before = before.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    after = after.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    boxes = [(x, 0, x + half, size[1]) for x in (0, half // 2, half)]
    box = max(boxes, key=lambda box: sum(ImageStat.Stat(after.crop(box)).var))
    image = Image.new("RGB", size, "white")
    image.paste(before.crop(box).crop((0, 0, half - 1, size[1])))
    image.paste(after.crop(box).crop((1, 0, half, size[1])), (half + 1, 0))
    return image


def make_thumbnail(client, workflow, info):
    """Run the workflow: the contact sheet that it ends with, or the first image that it saves beside the last."""
    run = client.run(workflow)
    shown = [key for _, keys in sections(workflow, info) for key in keys if info[workflow[key]["class_type"]]["output_node"]]
    images = {key: client.images(run, key)[0] for key in shown}
    last = images[shown[-1]]
    if workflow[shown[-1]]["class_type"] == "PreviewImage":
        image = last.convert("RGB").resize((THUMBNAIL, round(THUMBNAIL * last.height / last.width)), Image.Resampling.LANCZOS)
    else:
        image = before_and_after(next(images[key] for key in shown if workflow[key]["class_type"] == "SaveImage"), last)
    return image, run.seconds


def of_its_own(workflow, number):
    """The workflow with a scene that no other template of the shelf has."""
    words = [words_of(number), words_of(number + 3)]
    prompt = f"{words[0]} top left, {words[1]} bottom right, on {GROUNDS[number % len(GROUNDS)]}"
    first = next(key for key, node in workflow.items() if node["class_type"] == "CLIPTextEncode" and node["inputs"]["text"])
    return {key: {**node, "inputs": {**node["inputs"], "text": prompt}} if key == first else node for key, node in workflow.items()}


def words_of(number):
    return f"{COLORS[3 * number % len(COLORS)]} {SHAPES[number % len(SHAPES)]}"


def labeled(image, words="example: the mini world"):
    """For a workflow whose model has not drawn it."""
    image = image.copy()
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    draw.rectangle((0, image.height - 34, image.width, image.height), "#202020")
    draw.text((image.width / 2, image.height - 17), words, "white", font, "mm")
    return image


def parts(workflow):
    """The nodes of Loupe in it, by class, but for the loader of the mini world."""
    return {node["class_type"] for node in workflow.values() if is_ours(node)} - {MINI}


def stand_in(name, workflows):
    """The workflow of the mini world whose run illustrates `name`: itself, or the first that has most of its nodes of
    Loupe, those on the shelf before others, small ones first. A contact sheet illustrates no other."""
    if is_mini(workflows[name]):
        return name
    others = sorted(set(workflows) - set(SHELF), key=lambda other: (len(parts(workflows[other])), other))
    minis = [mini for mini in (*SHELF, *others) if is_mini(workflows[mini]) and not any(node["class_type"] == "PreviewImage" for node in workflows[mini].values())]
    return max(minis, key=lambda mini: len(parts(workflows[name]) & parts(workflows[mini])))


def make_all(client, names, thumbnails):
    """Write the templates and blueprints of `names`, or of the whole shelf, and with `thumbnails` their thumbnails."""
    info, frontend = definitions_of(client), versions_of(client)["required_frontend_version"]
    workflows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((WORKFLOWS / "api").glob("*.json"))}
    if not {*names, *SHELF} <= set(workflows):
        raise ValueError(f"workflows/api has {', '.join(workflows)}; unknown: {', '.join({*names, *SHELF} - set(workflows))}")
    shown = [name for name in SHELF if name in (names or SHELF)]
    for name in shown:
        file = template_file(name)
        file.write_text(json.dumps(make_template(SHELF[name].title, SHELF[name], workflows[name], info, frontend), indent=2) + "\n", encoding="utf-8")
        print(file.relative_to(PACK), flush=True)
    for file in blueprints.make_all(workflows, names or workflows, info, frontend):
        print(file.relative_to(PACK), flush=True)
    for name in shown if thumbnails else ():
        mini, file = stand_in(name, workflows), template_file(name).with_suffix(".jpg")
        image, seconds = make_thumbnail(client, workflows[mini] if name == mini else of_its_own(workflows[mini], list(SHELF).index(name)), info)
        (image if name == mini else labeled(image)).save(file, quality=88)
        print(f"{file.relative_to(PACK)}   {seconds:.0f} s", flush=True)


def main(comfyui, _, arguments):
    parser = argparse.ArgumentParser(prog="dev.py templates")
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows of workflows/api, without .json (default: all)")
    parser.add_argument("--thumbnails", action="store_true", help="also run those of the mini world for the images")
    options = parser.parse_args(arguments)
    (PACK / ".cache").mkdir(exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small lose time to more threads
    try:
        with tempfile.TemporaryDirectory(dir=PACK / ".cache", ignore_cleanup_errors=True) as base, Server(comfyui, base) as server:
            make_all(Client(server.url), options.names, options.thumbnails)
    except (ValueError, WorkflowError, ServerError) as error:
        print(f"templates: {error}", file=sys.stderr)
        return 1
    return 0
