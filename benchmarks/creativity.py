"""`bench creativity`: what each setting of the dial keeps and invents, on held-out scenes of the mini world.

The true 128 px image of a scene is enlarged with Lanczos, encoded and denoised in regions, as the template does. Columns,
each with its 95 % interval over scenes (bootstrap):

  start    strength that the denoise starts at
  truth    PSNR to the true image of that size (dB)
  base     PSNR of the shrunk result to the small image (dB)
  sharp    mean absolute Laplacian, as a share of the autoencoder's image of the true one
  extra    things an image that nobody asked for
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..engine.sigmas import schedule
from ..methods.creativity import PRESETS, TABLE, alpha, settings
from ..models.mini import loaded as mini
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.render import render
from ..training.mini.scenes import caption
from .scoring import psnr_of_arrays, score_images, sharpness, shown
from .world import NATIVE_CELLS, World, held_out_scenes, write_sheet

CFG = 4.0  # of variants but those in few steps


class Bench(World):
    def __init__(self, variant: mini.Variant, scale: int, preset: str, structure: bool, adjustment: bool):
        super().__init__(variant)
        self.cfg = 1.0 if variant is mini.VARIANTS["flow in few steps"] else CFG
        self.scale, self.steps, self.structure, self.adjustment = scale, PRESETS[preset], structure, adjustment

    def enlarge(self, scene, small: np.ndarray, creativity: float, seed: int) -> np.ndarray:
        strength, structure, fidelity = settings(creativity)
        canvas = self.encode([cv2.resize(small, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_LANCZOS4)])
        model = with_parts(self.model, RegionalDenoise((NATIVE_CELLS, NATIVE_CELLS), 0.25, "gaussian", regions_per_call=0, sizes="canvas"))
        if self.structure:
            model = with_parts(model, StructurePrior(self.encode([small]), structure, mode="kappa"))
        if self.adjustment:
            model = with_parts(model, LatentAdjustment(canvas, alpha(fidelity, self.steps), 0.0, early_end=0.5, late_start=1.0, boundaries="steps"))
        (image,) = self.decode(self.denoise(model, self.prompt(caption(scene)), canvas, seed, schedule(self.model, "simple", self.steps, strength), self.cfg))
        return image


@torch.inference_mode()
def run(bench: Bench, creativities: list[float], count: int, sheet: Path | None) -> None:
    scenes, side = held_out_scenes(count), 128 * bench.scale
    small = [render(scene, 128, 1) for scene in scenes]
    true = [render(scene, side, 1) for scene in scenes]
    ideal = [sharpness(bench.decode(bench.encode([image]))[0]) for image in true]
    rows = []
    print("| creativity | start | truth | base | sharp | extra |\n|---|---|---|---|---|---|")
    for creativity in creativities:
        images = [bench.enlarge(scene, image, creativity, i) for i, (scene, image) in enumerate(zip(scenes, small))]
        rows.append(images)
        columns = (
            [psnr_of_arrays(image, other) for image, other in zip(images, true)],
            [psnr_of_arrays(cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA), other) for image, other in zip(images, small)],
            [sharpness(image) / whole for image, whole in zip(images, ideal)],
            [score_images(bench.detector, [image], [scene])["extra"] for image, scene in zip(images, scenes)],
        )
        print(f"| {creativity:.2f} | {settings(creativity).strength:.2f} | {' | '.join(map(shown, columns))} |", flush=True)
    if sheet:
        write_sheet(sheet, rows)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench creativity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(mini.VARIANTS), default=next(iter(mini.VARIANTS)))
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--preset", choices=list(PRESETS), default=next(iter(PRESETS)))
    parser.add_argument("--creativity", type=float, nargs="+", default=list(TABLE))
    parser.add_argument("--without", choices=["structure", "adjustment"], nargs="*", default=[])
    parser.add_argument("--sheet", type=Path, help="write the images as a contact sheet, one row a creativity")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    bench = Bench(mini.VARIANTS[options.variant], options.scale, options.preset, "structure" not in options.without, "adjustment" not in options.without)
    run(bench, options.creativity, options.scenes, options.sheet)
