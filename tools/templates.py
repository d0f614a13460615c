"""python dev.py templates: makes workflows/*.json for the template browser, and the blueprints in
subgraphs/, from workflows/api/*.json.

With --thumbnails it also runs the workflows of the mini world and keeps a small picture of each.
"""

import argparse
import json
import os
import sys
import tempfile

from PIL import Image, ImageDraw, ImageFont, ImageStat

from ..headless.client import Client, WorkflowError, node_title
from . import blueprints
from .graph import (
    GAP,
    TITLE,
    ancestors,
    definitions_of,
    in_order,
    make_links,
    make_nodes,
    place_section,
    sources,
)
from .server import PACK, Server, ServerError

WORKFLOWS = PACK / "workflows"
THUMBNAIL = 400  # pixels

# file names, which is what the template browser shows
TITLES = {
    "lsrna_demofusion": "Upscale 4x with Loupe (mini world)",
    "lsrna_demofusion_sdxl": "Upscale 2x with LSRNA-DemoFusion (SDXL)",
    "lsrna_demofusion_patches": "Upscale 2x with LSRNA-DemoFusion node by node (mini world)",
    "demofusion": "Upscale 2x with DemoFusion (mini world)",
    "demofusion_sdxl": "Upscale 2x with DemoFusion (SDXL)",
    "pixelsmith": "Upscale 4x with PixelSmith (mini world)",
    "pixelsmith_sdxl": "Upscale 4x with PixelSmith (SDXL)",
    "lsrna_pixelsmith": "Upscale 4x with LSRNA and PixelSmith (mini world)",
    "lsrna_pixelsmith_sdxl": "Upscale 2x with LSRNA and PixelSmith (SDXL)",
    "cupscale": "Upscale 2x with C-Upscale (mini world)",
    "cupscale_sdxl": "Upscale 2x with C-Upscale (SDXL)",
    "cupscale_fast_sdxl": "Upscale 2x with C-Upscale in few steps (SDXL)",
    "cupscale_image_sdxl": "Upscale your picture 2x with C-Upscale (SDXL)",
    "lsrna_cupscale": "Upscale 2x with LSRNA and C-Upscale (mini world)",
    "lsrna_cupscale_sdxl": "Upscale 2x with LSRNA and C-Upscale (SDXL)",
    "latent_adjustment": "Upscale 2x with Latent Adjustment (mini world)",
    "latent_adjustment_image_sdxl": "Upscale your picture 2x with Latent Adjustment (SDXL)",
    "clearsr": "Restore a poor picture 2x with ClearSR (mini world)",
    "clearsr_sd21": "Restore your picture 4x with ClearSR (SD 2.1)",
    "compare": "Compare six ways to upscale (mini world)",
    "any_scale_decode": "Decode one latent at any size (mini world)",
    "any_scale_decode_sdxl": "Decode one latent at any size (SDXL)",
    "arbitrary_scale": "Draw one latent for any size (mini world)",
}

NOTES = {
    "lsrna_demofusion": "Draws a picture at the mini world's native 128 px, enlarges it four times with LSRNA-DemoFusion, and shows two plainer enlargements for comparison. Everything it needs comes with Loupe: press Run, then change the prompt.",
    "lsrna_demofusion_sdxl": "Draws a picture at 1024 px, enlarges its latent with the LSR network, adds noise where it has edges and lets SDXL draw the detail, region by region. Lower e_max or strength to stay closer to the reference. It takes 780 network rows (images x guidance branches), 3,900 with scale_by 4, which makes 4096 px.",
    "lsrna_demofusion_patches": "LSRNA-DemoFusion taken apart: LSR and RNA make the latent, Regional Denoise and DemoFusion patch the model, the stock KSampler runs the last 30 of 50 steps, and the picture is the sampler node's to the last bit. Put a LoRA, a ControlNet or another sampler wherever it goes in a plain workflow.",
    "demofusion": "DemoFusion alone: the regions of the enlarged picture are denoised beside thinned-out copies of the whole, and every step is drawn towards the reference. It needs no LSR network; in progressive mode a larger scale_by goes through 2x, 3x, ... one after another.",
    "demofusion_sdxl": "Draws a picture at 1024 px and enlarges it twice with DemoFusion, which needs nothing but the checkpoint. Steps 38 and strength 0.76 give almost the same picture in three quarters of the time; LSRNA-DemoFusion takes fewer steps still.",
    "latent_adjustment": "Enlarges a picture as pixels and redraws it region by region, once plainly and once with Latent Adjustment, which draws the first steps towards the picture and pushes the last away from it. alpha is ten times the paper's here, so that the trade shows: no things are invented, and the ground is smoother.",
    "latent_adjustment_image_sdxl": "Enlarges a picture of yours twice: load it, say what it shows and press Run; the regions of the enlarged picture are redrawn while Latent Adjustment holds the first steps to it. Preset fidelity, or custom with a larger alpha, stays closer; a lower start_at_step redraws more.",
    "any_scale_decode_sdxl": "Draws one latent and decodes it at the VAE's own size, at twice and at 3.7 times that. Loupe brings no decoder for SDXL: `python dev.py train implicit-decoder --vae sd_xl_base_1.0.safetensors --images FOLDER` makes `implicit_decoder_sd_xl_base_1.0.safetensors` for models/vae_approx.",
    "pixelsmith": "Enlarges a picture of the mini world to 2x and then to 4x with PixelSmith: each time it is enlarged, encoded and redrawn patch by patch, held to its structure until the noise is down to guided_until. A higher value leaves more to the model.",
    "lsrna_pixelsmith": "Enlarges the latent four times with LSR, adds noise at its edges and lets PixelSmith redraw it patch by patch in the last 30 of 50 steps. The picture is never enlarged as pixels or encoded again.",
    "pixelsmith_sdxl": "Draws a picture at 1024 px and takes it to 2048 and then 4096 px with PixelSmith: each time it is enlarged, encoded and redrawn patch by patch, held to its structure until the noise is down to guided_until. A higher value leaves more to the model.",
    "lsrna_pixelsmith_sdxl": "Draws a picture at 1024 px, enlarges its latent twice with the LSR network, adds noise at its edges and lets PixelSmith redraw it patch by patch in the last 30 of 50 steps. For 4096 px set scale_by to 4.",
    "clearsr": "Draws a picture of the mini world, blurs it, adds noise, and restores it at twice the size with ClearSR: control networks that look at the picture's latent, region by region. Latent Adjustment holds the first steps to the picture. Put Load Image in place of the example for one of your own; other models need a ClearSR file made for them by `python dev.py train clearsr`.",
    "clearsr_sd21": "Restores a picture of yours at four times its size with ClearSR on SD 2.1-base, region by region. Train the file first: `python dev.py train clearsr --base v2-1_512-ema-pruned.safetensors --images FOLDER` makes `clearsr.safetensors` for models/controlnet.",
    "cupscale": "C-Upscale: the regions are redrawn with prompts of their own (RSP) while two priors hold them to the structure (GSP) and the attention (RAP) of the whole picture. The same regions without the three stand beside it for comparison.",
    "cupscale_sdxl": "Draws a picture at 1024 px and enlarges it twice with C-Upscale: Structure Prior and Attention Prior hold every region to the whole picture. Region Prompts takes a line of text for each region, from a captioner or by hand; left empty, all regions see the whole prompt.",
    "cupscale_image_sdxl": "Enlarges a picture of yours twice with C-Upscale: load it, say what it shows and press Run. A higher start_at_step stays closer to the picture, a lower one redraws more.",
    "lsrna_cupscale": "LSRNA and C-Upscale together: the latent is enlarged by the LSR network, gets noise at its edges, and its regions are redrawn while Structure Prior (to the enlarged latent) and Attention Prior (to the small one) hold them. The picture is never enlarged as pixels or encoded again.",
    "lsrna_cupscale_sdxl": "Draws a picture at 1024 px, enlarges its latent twice with the LSR network, adds noise at its edges and redraws the regions with C-Upscale's Structure Prior and Attention Prior. Lower e_max stays closer to the reference.",
    "compare": "One picture enlarged twice in six ways, side by side: as pixels, by LSR alone, as regions alone, with LSRNA-DemoFusion, with PixelSmith and with C-Upscale. Change the prompt or the seed of the reference and run it again.",
    "cupscale_fast_sdxl": "C-Upscale with a LoRA for few steps: eight steps without guidance draw the reference, the last four of eight the enlargement. Another few-step LoRA works as well; set steps and start_at_step to suit it.",
    "any_scale_decode": "One latent of the mini world as three pictures: at the VAE's own size, and through an implicit decoder at twice and 3.7 times that. The decoder reads the latent's features once and answers for every pixel; any factor from 0.25 to 16 works, or an exact width and height.",
    "arbitrary_scale": "Draws a small picture, shows it to a denoiser that makes one larger latent of it, and decodes that latent at 2x, 3.7x and 8x with the implicit decoder. The three pictures agree with each other because they are one latent; any other size is as good.",
}

PICTURES = {"LATENT", "IMAGE", "MASK"}
NOTE = 110
WINDOW = 16, 9


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

    workflow: API format. info: `definitions_of` the server. note: text of the note node.
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


def template_file(name):
    return WORKFLOWS / f"{TITLES[name]}.json"


# Thumbnails


def before_and_after(before, after):
    """The half of the result that has most to see, and at its left the same half of the reference."""
    size = (THUMBNAIL, round(THUMBNAIL * after.height / after.width))
    half = size[0] // 2
    before = before.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    after = after.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    boxes = [(x, 0, x + half, size[1]) for x in (0, half // 2, half)]
    box = max(boxes, key=lambda box: sum(ImageStat.Stat(after.crop(box)).var))
    picture = Image.new("RGB", size, "white")
    picture.paste(before.crop(box).crop((0, 0, half - 1, size[1])))
    picture.paste(after.crop(box).crop((1, 0, half, size[1])), (half + 1, 0))
    return picture


def make_thumbnail(client, workflow, info):
    """Run the workflow: the contact sheet that it ends with, or the first picture that it saves beside the last."""
    run = client.run(workflow)
    shown = [key for _, keys in sections(workflow, info) for key in keys if info[workflow[key]["class_type"]]["output_node"]]
    pictures = {key: client.images(run, key)[0] for key in shown}
    last = pictures[shown[-1]]
    if workflow[shown[-1]]["class_type"] == "PreviewImage":
        picture = last.convert("RGB").resize((THUMBNAIL, round(THUMBNAIL * last.height / last.width)), Image.Resampling.LANCZOS)
    else:
        picture = before_and_after(next(pictures[key] for key in shown if workflow[key]["class_type"] == "SaveImage"), last)
    return picture, run.seconds


def labelled(picture, words="example: the mini world"):
    """For a workflow whose model has not drawn it."""
    picture = picture.copy()
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(20)
    draw.rectangle((0, picture.height - 34, picture.width, picture.height), "#202020")
    draw.text((picture.width / 2, picture.height - 17), words, "white", font, "mm")
    return picture


def stand_in(name, workflows):
    """The workflow of the mini world whose run illustrates `name`: itself, or the one that `name` begins with."""
    return max((mini for mini in workflows if is_mini(workflows[mini]) and name.startswith(mini)), key=len, default=None)


def make_all(client, names, thumbnails):
    """Write the templates, and the thumbnails that show the same runs, of `names` or all workflows."""
    info = definitions_of(client)
    workflows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((WORKFLOWS / "api").glob("*.json"))}
    if not set(names) <= set(workflows):
        raise ValueError(f"workflows/api has {', '.join(workflows)}; unknown: {', '.join(set(names) - set(workflows))}")
    for name in names or workflows:
        if name not in TITLES or name not in NOTES:
            raise ValueError(f"{name} needs a title in TITLES and two sentences in NOTES of tools/templates.py")
        file = template_file(name)
        file.write_text(json.dumps(make_template(workflows[name], info, NOTES[name]), indent=2) + "\n", encoding="utf-8")
        print(file.relative_to(PACK), flush=True)
    for file in blueprints.make_all(workflows, names or workflows, info):
        print(file.relative_to(PACK), flush=True)
    for name in (names or workflows) if thumbnails else ():
        if is_mini(workflows[name]):
            picture, seconds = make_thumbnail(client, workflows[name], info)
            for shown in [other for other in workflows if stand_in(other, workflows) == name]:
                file = template_file(shown).with_suffix(".jpg")
                (picture if shown == name else labelled(picture)).save(file, quality=88)
                print(f"{file.relative_to(PACK)}   {seconds:.0f} s", flush=True)


def main(comfyui, _, arguments):
    parser = argparse.ArgumentParser(prog="dev.py templates")
    parser.add_argument("names", nargs="*", metavar="NAME", help="workflows of workflows/api, without .json (default: all)")
    parser.add_argument("--thumbnails", action="store_true", help="also run those of the mini world for the pictures")
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
