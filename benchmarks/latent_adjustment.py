"""`bench latent-adjustment`: ClearSR's latent adjustment on held-out scenes of the mini world, without ClearSR.

The true 128 px image of a scene is enlarged twice in pixels and redrawn region by region, the last `--depth` of 50
steps of ComfyUI's ddpm; the adjustment's reference is the enlarged image's latent, and its early and late steps are
those of the run. Columns:

  base     PSNR of the shrunk image to the 128 px one (dB)
  truth    PSNR to the true 256 px image (dB)
  sharp    mean absolute Laplacian, as a share of the true image's
  colour, extra   share of the scene's things that the detector finds in the right colour, things that nobody asked for
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.regional_denoise import RegionalDenoise
from ..training.mini.render import render
from ..training.mini.scenes import caption
from .scoring import psnr_of_arrays, score_images, sharpness
from .world import NATIVE_CELLS as REGION
from .world import STEPS, World, held_out_scenes

SCALE = 2

METHODS = {
    "off": None,
    "ELA 0.01": {"alpha": 0.01, "beta": 0.0},
    "LLA 0.01": {"alpha": 0.0, "beta": 0.01},
    "both 0.01 (ClearSR)": {"alpha": 0.01, "beta": 0.01},
    "both 0.03, 0.01 (fidelity)": {"alpha": 0.03, "beta": 0.01},
    "both 0.01, on the prediction": {"alpha": 0.01, "beta": 0.01, "target": "denoised"},
}


def enlarge(world: World, scene, start: torch.Tensor, seed: int, settings: dict | None, sigmas: torch.Tensor, cfg: float) -> np.ndarray:
    model = with_parts(world.model, RegionalDenoise((REGION, REGION), jitter=False, regions_per_call=9))
    if settings is not None:
        model = with_parts(model, LatentAdjustment(start, boundaries="steps", **settings))
    return world.decode(world.denoise(model, world.prompt(caption(scene)), start, seed, sigmas, cfg, "ddpm"))[0]


@torch.inference_mode()
def run(captions: int, depth: int, cfg: float) -> None:
    world, scenes, size = World(), held_out_scenes(captions), 128 * SCALE
    sigmas = world.schedule(depth)
    print(f"Mini world, {SCALE}x, {captions} held-out scenes, last {depth} of {STEPS} ddpm steps, guidance scale {cfg}\n")
    print(f"{'':30} {'base':>6} {'truth':>6} {'sharp':>6} {'colour':>6} {'extra':>6}")
    for name, settings in METHODS.items():
        rows, images = [], []
        for seed, scene in enumerate(scenes):
            small, truth = render(scene, 128), render(scene, size)
            start = world.encode([cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)])
            images.append(enlarge(world, scene, start, seed, settings, sigmas, cfg))
            shrunk = cv2.resize(images[-1], (128, 128), interpolation=cv2.INTER_AREA)
            rows.append((psnr_of_arrays(shrunk, small), psnr_of_arrays(images[-1], truth), sharpness(images[-1]) / sharpness(truth)))
        scores = score_images(world.detector, images, scenes)
        print(f"{name:30}" + "".join(f" {value:6.2f}" for value in (*np.mean(rows, 0), scores["colour"], scores["extra"])), flush=True)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench latent-adjustment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=6, help="held-out scenes")
    parser.add_argument("--depth", type=int, default=22, help="steps of the 50 to run")
    parser.add_argument("--cfg", type=float, default=4.0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    run(options.captions, options.depth, options.cfg)
