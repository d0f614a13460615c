"""`bench shallow-start`: one and two steps from little noise, without and with injected noise, beside the dial's 4 and 8 steps.

The true 128 px image of a held-out scene of the mini world is enlarged with Lanczos, encoded and denoised in regions
(Gaussian blend, overlap 1/4). Columns, each with its 95 % interval over scenes (bootstrap):

  rows     rows that the network computes for an image
  truth    PSNR to the true image of that size (dB)
  base     PSNR of the shrunk result to the small image (dB)
  sharp    mean absolute Laplacian, as a share of the autoencoder's image of the true one
  extra    things an image that nobody asked for

Below: the mean difference over the same scenes to the run under `less`. `enlarged` is the enlarged image through the
autoencoder, without a step; `prior` the Structure Prior; `dial` what `bench creativity` measures.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ..engine import Part, with_parts
from ..engine.sigmas import schedule
from ..methods.creativity import PRESETS, alpha, settings
from ..methods.inject_noise import LAMBDA
from ..models.mini import loaded as mini
from ..patches.inject_noise import InjectNoise
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.render import render
from ..training.mini.scenes import caption
from .scoring import psnr_of_arrays, score_images, sharpness, shown
from .world import NATIVE_CELLS, World, held_out_scenes, write_sheet

COLUMNS = ("truth", "base", "sharp", "extra")
Run = Callable[["Bench", torch.Tensor, torch.Tensor], tuple[float, int, list[Part]]]  # of the small latent and the canvas: strength, steps, parts


class Row(NamedTuple):
    """run: None for the enlarged image as it is. less: rows that it is compared to, over the same scenes."""

    run: Run | None
    less: tuple[str, ...] = ()


class Bench(World):
    def __init__(self, variant: mini.Variant, cfg: float, scale: int, count: int):
        super().__init__(variant)
        self.cfg, self.scale, self.scenes = cfg, scale, held_out_scenes(count)
        self.small = [render(scene, 128, 1) for scene in self.scenes]
        self.true = [render(scene, 128 * scale, 1) for scene in self.scenes]
        self.canvases = [self.encode([cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4)]) for image in self.small]
        self.ideal = [sharpness(self.decode(self.encode([image]))[0]) for image in self.true]

    def images(self, run: Run | None) -> list[np.ndarray]:
        """What `run` makes of every scene."""
        if run is None:
            return [self.decode(canvas)[0] for canvas in self.canvases]
        return [self.image(run, i) for i in range(len(self.scenes))]

    def image(self, run: Run, i: int) -> np.ndarray:
        canvas = self.canvases[i]
        strength, steps, parts = run(self, self.encode([self.small[i]]), canvas)
        model = with_parts(self.model, RegionalDenoise((NATIVE_CELLS, NATIVE_CELLS), 0.25, "gaussian", sizes="canvas"), *parts)
        sigmas = schedule(self.model, "simple", steps, strength)
        (image,) = self.decode(self.denoise(model, self.prompt(caption(self.scenes[i])), canvas, i, sigmas, self.cfg))
        return image

    def scores(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        shrunk = [cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA) for image in images]
        return {
            "truth": np.array([psnr_of_arrays(*pair) for pair in zip(images, self.true)]),
            "base": np.array([psnr_of_arrays(*pair) for pair in zip(shrunk, self.small)]),
            "sharp": np.array([sharpness(image) / whole for image, whole in zip(images, self.ideal)]),
            "extra": np.array([score_images(self.detector, [image], [scene])["extra"] for image, scene in zip(images, self.scenes)]),
        }


def shallow(strength: float, steps: int, weight: float, structure: float) -> Run:
    injected = [InjectNoise(weight)] if weight else []
    return lambda bench, small, canvas: (strength, steps, [*_held(small, structure), *injected])


def dial(creativity: float, preset: str) -> Run:
    """What *Upscale your image* runs."""

    def run(bench, small, canvas):
        strength, structure, fidelity = settings(creativity)
        adjustment = LatentAdjustment(canvas, alpha(fidelity, PRESETS[preset]), 0.0, early_end=0.5, late_start=1.0, boundaries="steps")
        return strength, PRESETS[preset], [*_held(small, structure), adjustment]

    return run


def _held(small, structure):
    return [StructurePrior(small, structure, mode="kappa")] if structure else []


def rows_of(strength: float, weights: list[float], structure: float, dials: list[float]) -> dict[str, Row]:
    rows = {"enlarged": Row(None)}
    presets = {f"dial {creativity:g}, {PRESETS[preset]} steps": Row(dial(creativity, preset)) for creativity in dials for preset in ("fast", "balanced")}
    for steps, prior in itertools.product((1, 2), (0.0, structure)):
        plain = f"{steps} step{'s' * (steps > 1)}{', prior' * bool(prior)}"
        rows[plain] = Row(shallow(strength, steps, 0.0, prior), tuple(presets))
        rows |= {f"{plain}, noise {weight:g}": Row(shallow(strength, steps, weight, prior), (plain, *presets)) for weight in weights}
    return rows | presets


@torch.inference_mode()
def measure(bench: Bench, rows: dict[str, Row], sheet: Path | None) -> None:
    found, drawn = {}, []
    print(f"| run | rows | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for name, row in rows.items():
        bench.calls.clear()
        images = bench.images(row.run)
        seen = bench.rows // len(images)
        found[name] = bench.scores(images)
        drawn.append(images)
        print(f"| {name} | {seen} | {' | '.join(shown(found[name][column]) for column in COLUMNS)} |", flush=True)
    print(f"\n| run | less | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for name, row in rows.items():
        for other in row.less:
            print(f"| {name} | {other} | {' | '.join(shown(found[name][column] - found[other][column], sign='+') for column in COLUMNS)} |")
    if sheet:
        write_sheet(sheet, [bench.true, *drawn])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench shallow-start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(mini.VARIANTS), default=next(iter(mini.VARIANTS)))
    parser.add_argument("--cfg", type=float, help="by default 1 in few steps, otherwise 4")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--strength", type=float, default=0.25, help="where the one and two steps start")
    parser.add_argument("--weight", type=float, nargs="+", default=[round(1 - LAMBDA, 2)], help="of the injected noise")
    parser.add_argument("--structure", type=float, default=0.4, help="weight of the Structure Prior where the row has one")
    parser.add_argument("--creativity", type=float, nargs="+", default=[0.0, 0.125, 0.25], help="of the dial; 0.125 starts where the one and two steps do")
    parser.add_argument("--sheet", type=Path, help="write the images as a contact sheet, the true ones first, one row a run")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    cfg = options.cfg or (1.0 if options.variant == "flow in few steps" else 4.0)
    measure(Bench(mini.VARIANTS[options.variant], cfg, options.scale, options.scenes), rows_of(options.strength, options.weight, options.structure, options.creativity), options.sheet)
