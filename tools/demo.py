"""python dev.py demo: *Upscale your image* on the bundled mini world, through the HTTP API."""

import json
import os
import sys
import tempfile
import time

from PIL import Image, ImageDraw, ImageFont

from ..headless.client import Client, WorkflowError, find_node, node_title
from .server import PACK, Server, ServerError

WORKFLOW = PACK / "workflows" / "api" / "upscale_mini.json"
OUTPUT = PACK / "output"
NAMES = ("Reference", "Upscaled image")  # titles of the SaveImage nodes, in order
CELL = 8  # pixels of one latent cell


class Progress:
    """Prints a line for every node that runs: title, seconds, what is done.

    A regional sampler sends two progress bars, steps and network calls; the one with the lower total is the steps.
    """

    def __init__(self, workflow):
        self.workflow = workflow
        self.node = None
        self.printed = 0.0

    def __call__(self, kind, data):
        if kind == "executing":
            self.finish()
            self.node, self.bars, self.started = data["node"], {}, time.monotonic()
        elif kind == "progress" and data["node"] == self.node:
            unfinished = {total: value for total, value in self.bars.items() if value < total}
            self.bars = {**unfinished, data["max"]: data["value"]}
            self.show()

    def show(self, last=False):
        now = time.monotonic()
        terminal = sys.stdout.isatty()
        if last or terminal or now - self.printed > 5:
            names = ("step", "regions") if len(self.bars) == 2 else ("",)
            done = ", ".join(f"{name} {value:.0f}/{total:.0f}" for name, (total, value) in zip(names, sorted(self.bars.items())))
            line = f"  {node_title(self.workflow, self.node):<28} {now - self.started:6.1f} s  {done:<40}"
            print(f"\r{line}" if terminal else line, end="\n" if last or not terminal else "", flush=True)
            self.printed = now

    def finish(self):
        if self.node:
            self.show(last=True)
            self.node = None


def fit(image, width, height):
    """The image in its own aspect at about width * height pixels, in whole latent cells."""
    factor = (width * height / (image.width * image.height)) ** 0.5
    size = [max(1, round(side * factor / CELL)) * CELL for side in image.size]
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def use_image(workflow, client, file):
    """Replace the drawn reference by a user's image, at the size that the model draws at."""
    with Image.open(file) as image:
        size = workflow[find_node(workflow, "EmptyLatentImage")]["inputs"]
        image = fit(image, size["width"], size["height"])
    size.update(width=image.width, height=image.height)
    drawn = find_node(workflow, "KSampler")
    vae = [find_node(workflow, "LoupeLoadMini"), 2]
    workflow["image"] = {"class_type": "LoadImage", "inputs": {"image": client.upload(image, "reference.png")}, "_meta": {"title": "Your image"}}
    workflow["encode"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["image", 0], "vae": vae}, "_meta": {"title": "Encode"}}
    for node in workflow.values():
        for name, value in node["inputs"].items():
            if value == [drawn, 0]:
                node["inputs"][name] = ["encode", 0]


def set_options(workflow, options):
    """Write prompt, seed and scale wherever the workflow has them."""
    prompt = "" if options.prompt is None and options.image else options.prompt
    if prompt is not None:
        workflow[find_node(workflow, title="Prompt")]["inputs"]["text"] = prompt
    for node in workflow.values():
        if options.seed is not None and "seed" in node["inputs"]:
            node["inputs"]["seed"] = options.seed
        for name in ("scale", "scale_by"):
            if name in node["inputs"]:
                node["inputs"][name] = float(options.scale)


def warn_of_words(client, prompt):
    """Say on stderr which words of `prompt` the mini world does not know."""
    warning = json.loads(client.post_json("/loupe/words", {"prompt": prompt}))["warning"]
    if warning:
        print(f"demo: {warning}", file=sys.stderr, flush=True)


def side_by_side(images, labels):
    """One row of images at the size of the largest, with labels above."""
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    gap, head = max(4, width // 64), max(20, width // 14)
    font = ImageFont.load_default(size=head * 0.6)
    sheet = Image.new("RGB", (len(images) * (width + gap) - gap, height + head), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (image, label) in enumerate(zip(images, labels)):
        left = column * (width + gap)
        draw.text((left + width / 2, head / 2), label, fill="black", font=font, anchor="mm")
        sheet.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, head))
    return sheet


def free_name(stem):
    """The first of output/STEM_001, _002, … that is free."""
    OUTPUT.mkdir(exist_ok=True)
    number = 1
    while (OUTPUT / f"{stem}_{number:03}.png").exists():
        number += 1
    return OUTPUT / f"{stem}_{number:03}.png"


def make_images(comfyui, options):
    with tempfile.TemporaryDirectory(dir=PACK / ".cache", ignore_cleanup_errors=True) as base:
        started = time.monotonic()
        print(f"starting ComfyUI from {comfyui}", flush=True)
        with Server(comfyui, base) as server:
            print(f"  ready after {time.monotonic() - started:.0f} s", flush=True)
            client = Client(server.url)
            warn_of_words(client, options.prompt or "")
            workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
            if options.image:
                use_image(workflow, client, options.image)
            set_options(workflow, options)
            progress = Progress(workflow)
            try:
                run = client.run(workflow, progress)
            finally:
                progress.finish()
            return run.seconds, [client.images(run, find_node(workflow, "SaveImage", name))[0] for name in NAMES]


def main(comfyui, options, _):
    started = time.monotonic()
    (PACK / ".cache").mkdir(exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small lose time to more threads
    try:
        seconds, images = make_images(comfyui, options)
    except (WorkflowError, ServerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    file = free_name(f"upscaled_{options.scale}x")
    images[-1].save(file)
    compared = file.with_name(f"{file.stem}_compared.png")
    side_by_side(images, NAMES).save(compared)
    print(f"\n{file}   {images[-1].width} x {images[-1].height}\n{compared}   {' | '.join(NAMES)}")
    print(f"{seconds:.0f} s for the workflow, {time.monotonic() - started:.0f} s in all")
    return 0
