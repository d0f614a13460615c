"""`bench peers`: other node packs beside Loupe, each in the same ComfyUI server, on held-out scenes of the mini world.

The true 128 px image of a scene is enlarged and drawn again with euler, 20 steps where a way has a number of its own, at
guidance scale 4. Tiles and regions are the native 128 px. --packs names a folder with checkouts of other packs, which the
server gets beside Loupe; what needs a pack that is not there is named and left out. Ways take turns, scene by scene.
Results are kept (benchmarks/cache/peers.json); what is there is not computed again. Columns beside those of `bench frontier`:

  rows     images and guidance branches that the network saw, each by its area; a native image is 1
  seconds  of the server's processor, from the small image to the decoded one, with loaders and prompts done before
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import comfy
import numpy as np
import torch
from PIL import Image

from ..headless.client import Client, WorkflowError
from ..tools.server import PACK, Server
from . import peers_page
from .cache import Cache
from .enlarging import CFG, CFG_OF
from .labs import MOST, Enlarging
from .peer_list import SLOW, ways
from .peer_ways import Stage, Way
from .scenes import METRICS, Scenes
from .world import World, held_out_scenes, mini, write_sheet

PROBE = Path(__file__).parent / "probe"
COUNTED = ("rows", "area", "seconds", "wall")
SLOW_SCENES = 8


class Peers:
    """A `labs.Lab` of ways on the server at `url`."""

    metrics = (*COUNTED, *METRICS)

    def __init__(self, variant: str, scale: int, url: str):
        self.variant, self.scale = variant, scale
        self.world, self.weights = world_and_weights(variant)
        self.client = Client(url)
        self.known = self.client.get_json("/object_info")
        self.scenes = Scenes(World(mini.VARIANTS[variant]), scale, held_out_scenes(MOST))

    def stage(self, i: int) -> Stage:
        scheduler = "normal" if self.variant == "text to image" else "simple"
        return Stage(self.variant, CFG_OF.get(self.variant, CFG), scheduler, self.scale, f"scene_{i}.png", self.scenes.caption(i), i)

    def missing(self, way: Way) -> list[str]:
        stage = self.stage(0)
        way.draw(stage)
        return stage.missing(self.known)

    def measure(self, way: Way, i: int) -> tuple[np.ndarray, dict[str, float]]:
        self.client.upload(Image.fromarray(self.scenes.small(i)), f"scene_{i}.png")
        stage = self.stage(i)
        numbers, preview = stage.finish(way.draw(stage))
        run = self.client.run(stage.completed(self.known))
        image = np.asarray(self.client.images(run, preview.id)[0].convert("RGB"))
        return image, {**{name: run.outputs[numbers.id][name][0] for name in COUNTED}, **self.scenes.score(i, image)}


def world_and_weights(variant: str) -> tuple[str, tuple[str, ...]]:
    return f"peers, {variant}", (*Enlarging.WEIGHTS[variant], "text", "vae", "lsr", "clearsr", "detector")


@contextmanager
def server(packs: Path) -> Iterator[str]:
    """URL of a ComfyUI with Loupe, what counts, and every pack in `packs`. Later nodes of a graph are kept, so that ways that take turns do not load anew."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    (PACK / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PACK / ".cache", ignore_cleanup_errors=True) as base:
        nodes = Path(base) / "custom_nodes"
        shutil.copytree(PROBE, nodes / "loupe_benchmark", ignore=shutil.ignore_patterns("__pycache__"))
        for pack in packs.iterdir():
            if pack.is_dir():
                shutil.copytree(pack, nodes / pack.name, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        with Server(Path(comfy.__path__[0]).parent, base, arguments=["--cache-lru", "64", "--preview-method", "none"]) as running:
            yield running.url


def installed(lab: Peers, chosen: Mapping[str, Way]) -> dict[str, Way]:
    """Those that the server can draw; the others are named."""
    found = {}
    for name, way in chosen.items():
        if missing := lab.missing(way):
            print(f"left out: {name}, for {', '.join(missing)} is not installed", flush=True)
        else:
            found[name] = way
    return found


@torch.inference_mode()
def take_turns(lab: Peers, cache: Cache, chosen: Mapping[str, Way], count: int) -> None:
    """Measure what the cache lacks of the first `count` scenes, scene by scene. Each kind of way is drawn once before, uncounted."""
    warm: set[type] = set()
    for i in range(count):
        for name, way in chosen.items():
            known = cache.of(way, lab.scale)
            if min(len(known.get(metric, ())) for metric in lab.metrics) != i or (name in SLOW and i >= SLOW_SCENES):
                continue
            try:
                if type(way) not in warm:
                    lab.measure(way, i)
                    warm.add(type(way))
                _, values = lab.measure(way, i)
            except WorkflowError as error:
                if i == 0:
                    print(f"left out: {name}: {str(error).splitlines()[0]}", flush=True)
                    continue
                raise
            for metric in lab.metrics:
                known.setdefault(metric, [])[i:] = [round(float(values[metric]), 4)]
            cache.write()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, help="folder with checkouts of other packs")
    parser.add_argument("--variant", choices=list(Enlarging.WEIGHTS), default=next(iter(Enlarging.WEIGHTS)))
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--ways", nargs="+", help="those whose names contain one of these; default: all")
    parser.add_argument("--table", action="store_true", help="print what the cache holds, and measure nothing")
    parser.add_argument("--page", action="store_true", help="write the tables of docs/coming-from.md, and measure nothing")
    parser.add_argument("--graph", action="store_true", help="print the API workflow of the first of the ways, and measure nothing")
    parser.add_argument("--sheet", type=Path, help="write the images as a contact sheet, one row a way, and measure nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen = {name: way for name, way in ways(options.variant).items() if not options.ways or any(part in name for part in options.ways)}
    cache = Cache(*world_and_weights(options.variant), path=peers_page.RESULTS)
    if options.page:
        peers_page.write()
    elif options.table:
        print("\n".join(peers_page.absolute(cache.results, options.variant, options.scale)))
    elif options.packs is None:
        parser.error("--packs is needed to measure")
    else:
        with server(options.packs) as url:
            lab = Peers(options.variant, options.scale, url)
            chosen = installed(lab, chosen)
            if options.graph:
                stage = lab.stage(0)
                stage.finish(next(iter(chosen.values())).draw(stage))
                print(json.dumps(stage.completed(lab.known), indent=1))
            elif options.sheet:
                write_sheet(options.sheet, [[lab.measure(way, i)[0] for i in range(options.scenes)] for way in chosen.values()])
            else:
                take_turns(lab, cache, chosen, options.scenes)
                print("\n".join(peers_page.absolute(cache.results, options.variant, options.scale)))
