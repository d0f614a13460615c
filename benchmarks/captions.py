"""`bench captions`: what the mini world's captioner says of the regions of held-out scenes, against the scene.

The true 128 px image of a scene is enlarged (bicubic) and cut into regions of 128 px, as *Split Image into Regions* does it. Columns:

  shape, color, slot   shares of the things that a region's true caption names: said with that shape, and with the right
                       color and place
  extra                things a region that its true caption does not name
  ground               shares of the regions
  all                  regions whose caption is right to the letter
"""

from __future__ import annotations

import argparse

import torch

from ..methods.regions import RegionLayout
from ..models.captioner import caption_with_clip
from ..patches.region_prompts import crops_of
from ..training.mini.render import render
from ..training.mini.scenes import Scene, crop_caption
from .world import World, held_out_scenes, to_image

COLUMNS = ("shape", "color", "slot", "extra", "ground", "all")


def phrases(caption: str) -> tuple[list[list[str]], str]:
    """Things as [color, shape, row, column], and the ground."""
    *things, ground = caption.split(", ")
    return [thing.split() for thing in things], ground


def compare(said: str, true: str) -> dict[str, int]:
    """Counts; a thing said is the true one of its shape."""
    (left, ground), (things, true_ground) = phrases(said), phrases(true)
    counts = dict.fromkeys(COLUMNS, 0) | {"things": len(things), "ground": ground == true_ground, "all": said == true}
    for color, shape, *slot in things:
        found = next((thing for thing in left if thing[1] == shape), None)
        if found:
            left.remove(found)
            counts["shape"] += 1
            counts["color"] += found[0] == color
            counts["slot"] += found[2:] == slot
    return counts | {"extra": len(left)}


def score(clip, scenes: list[Scene], scale: int, overlap: float) -> dict[str, float]:
    layout = RegionLayout.from_overlap(16 * scale, 16 * scale, 16, 16, overlap)
    rows = []
    for scene in scenes:
        image = to_image([render(scene, 128)]).movedim(-1, 1)
        large = torch.nn.functional.interpolate(image, scale_factor=scale, mode="bicubic").clamp(0, 1).movedim(1, -1)
        said = caption_with_clip(clip, crops_of(large, layout), "", 90)
        true = (crop_caption(scene, region.x / layout.width, region.y / layout.height, 1 / scale) for region in layout.regions)
        rows += [compare(*captions) for captions in zip(said, true, strict=True)]
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    return {name: total[name] / (total["things"] if name in ("shape", "color", "slot") else len(rows)) for name in COLUMNS}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench captions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--overlap", type=float, default=0.5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    clip, scenes = World().clip, held_out_scenes(options.scenes)
    print("| scale |", " | ".join(COLUMNS), "|")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for scale in options.scales:
        print(f"| {scale} |", " | ".join(f"{value:.2f}" for value in score(clip, scenes, scale, options.overlap).values()), "|", flush=True)
