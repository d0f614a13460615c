"""A report on your image and your model: one page that compares Loupe with ComfyUI's own ways.

It talks to a ComfyUI that runs and to nothing else. The page is yours to read, and to send where you want.
"""

import argparse
import asyncio
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import aiohttp

from ..client import Client, WorkflowError
from ..jobs import UsageError
from ..run import RUNNING, Start
from . import checks, facts, graphs, images
from .choice import chosen
from .page import page
from .ways import LOUPE, TILED, Ways

FORMAT = "loupe report 1"


def parse(arguments, start: Start | None = None, prog="report"):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--image", metavar="FILE", required=True, help="the image to enlarge")
    parser.add_argument("--checkpoint", metavar="NAME", help="a checkpoint that the server lists, such as an SDXL model; without --workflow this means upscale_sdxl")
    parser.add_argument("--workflow", metavar="NAME", help="a bundled graph, such as upscale_zimage; by default the first that the server has all files of")
    parser.add_argument("--set", metavar="NODE.INPUT=VALUE", action="append", default=[], help='change an input: "What the image shows.text=a red barn", "Enlarge Image.scale_by=4"')
    parser.add_argument("--server", metavar="URL", help="the running ComfyUI; without it, " + ("one is started" if start else f"the one at {RUNNING}"))
    parser.add_argument("--output", metavar="DIR", default="loupe-report", help="folder that is made for the report (default loupe-report)")
    parser.add_argument("--longest", metavar="PIXELS", type=int, default=1024, help="longest side of the image before it is enlarged; a larger image is shrunk to it (default 1024)")
    parser.add_argument("--runs", metavar="N", type=int, default=2, help="runs of each way; the first is not timed (default 2)")
    options = parser.parse_args(arguments)
    for name, least in (("runs", 2), ("longest", images.SMALLEST)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; expected {least} or more")
    return options


@contextmanager
def new_folder(folder):
    """A folder beside `folder`, which takes its name when the block ends well and is gone otherwise."""
    folder = Path(folder)
    if folder.exists():
        raise UsageError(f"--output {folder} exists already, and a report is never mixed with another. Name a new folder")
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"--output {folder}: {error.strerror}. Name a folder in one that you may write to") from error
    try:
        yield part
        os.chmod(part, 0o755)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def asked(client, path):
    try:
        return client.get_json(path)
    except (OSError, ValueError, asyncio.TimeoutError, aiohttp.ClientError) as error:
        raise UsageError(f"--server {client.url}: no ComfyUI answers there ({error}). Start it, or name one that runs") from error


def check_idle(client):
    waiting = sum(map(len, asked(client, "/queue").values()))
    if waiting:
        raise UsageError(f"--server {client.url} has {waiting} runs in its queue, which would be timed too. Wait for them or cancel them")


def say(words):
    print(f"report: {words}", file=sys.stderr, flush=True)


def uploaded(client, image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    return client.upload_file(data, f"{hashlib.sha256(data).hexdigest()[:16]}.png", "loupe")


def compare(client, options, image, size):
    """(numbers of the report, [(name, image)])."""
    info = asked(client, "/object_info")
    name, graph = chosen(options, info)
    all_graphs = [graph, graphs.core(graph, 1, 1.0), graphs.about_canvas(graph, ""), graphs.about_denoise(graph, 1)]
    for each in all_graphs:
        checks.check(each, info)
    check_idle(client)
    stats = asked(client, "/system_stats")
    told = facts.settings(graph)
    say(f"{name} with {', '.join(facts.model_files(told)) or 'the bundled model'}")

    ways = Ways(client.url, graph, uploaded(client, image), options.runs, say)
    ways.ask()
    done, left_out = [ways.loupe(), ways.core()], {}
    if graphs.TILED not in info:
        left_out[TILED] = f"the server has no node {graphs.TILED}; install the pack ComfyUI_UltimateSDUpscale and run the report again to have it"
    elif not ways.seen or not ways.seen.region:
        left_out[TILED] = f"{LOUPE} has no time to match"
    else:
        done.append(ways.tiled(info[graphs.TILED], done[0].seconds))
        all_graphs.append(graphs.tiled(graph, info[graphs.TILED], 1, (64, 64)))
    report = {
        "format": FORMAT,
        "workflow": name,
        "model files": facts.model_files(told),
        "image": {"given": size, "used": image.size, "result": ways.canvas.size},
        "ways": [way.numbers() for way in done],
        "left out": left_out,
        "software": facts.software(stats),
        "device": facts.device(stats),
        "packs": facts.packs(all_graphs, info),
        "settings": told,
    }
    return report, [("Lanczos", ways.canvas), *((way.name, way.image) for way in done if way.image)]


def write(folder, report, shown):
    box = images.busiest(shown[0][1])
    (folder / "report.html").write_text(page(report, shown, box), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments, start: Start | None = None, prog="report"):
    """Run the command. start: how to start a server of our own; without it only running ones are used."""
    options = parse(arguments, start, prog)
    try:
        image, size = images.read(options.image, options.longest)
        with new_folder(options.output) as folder:
            with start() if start and not options.server else nullcontext(options.server or RUNNING) as url:
                report, shown = compare(Client(url.rstrip("/")), options, image, size)
            write(folder, report, shown)
    except UsageError as error:
        say(error)
        return 2
    except (WorkflowError, OSError, aiohttp.ClientError) as error:
        say(f"nothing was written: {error}")
        return 1
    say(f"{Path(options.output) / 'report.html'} is written. Open it; docs/report.md says how to send it")
    return 1 if any(way["error"] for way in report["ways"]) else 0
