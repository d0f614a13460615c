"""`bench upscaling`: LSRNA-DemoFusion and what it is made of, on held-out captions of the mini world.

Every method enlarges the same base sample. Paired columns, so differences are meaningful sooner than the values:
adherence to the caption (shape, colour), things nobody asked for an image, PSNR of the shrunk result to the base
image (dB), Fréchet distance of detector features to true renders of other scenes with the same grounds, network
rows (one image and one guidance branch each) and seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..engine.latents import resize
from ..patches.demofusion_sampler import phase_sizes, sample_demofusion
from ..patches.region_noise import add_region_noise
from ..patches.regional_denoise import RegionalDenoise
from ..training.mini.render import render
from ..training.mini.scenes import HELD_OUT_SEED, caption
from .scoring import frechet_distance, psnr_of_arrays, score_images
from .world import World, held_out_scenes, to_image, write_sheet

CFG = 4.0
REGION = (16, 16)


class Bench(World):
    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale

    def sample(self, model, positive, latent, seed, sigmas):
        return self.denoise(model, positive, latent, seed, sigmas, CFG)

    def demofusion(self, positive, base, seed, depth: int, progressive: bool = False, enlarge=None) -> torch.Tensor:
        size = tuple(side * self.scale for side in base.shape[-2:])
        regional = RegionalDenoise(REGION, 0.5, "uniform", None, True, seed, 0, "canvas", tuple(side * 8 for side in size))
        sizes = phase_sizes(tuple(base.shape[-2:]), size, progressive)
        sigmas = self.schedule(depth)
        extra = {} if enlarge is None else {"enlarge": enlarge}
        return sample_demofusion(self.model, positive, self.empty, base, sizes, sigmas, CFG, seed, regional, **extra)

    def methods(self):
        """Name -> function of (positive, base latent, base image, seed) to the enlarged latent."""
        bicubic = lambda latent, size: resize(latent, *size)
        lsr = lambda latent, size: self.upscaler.upscale(latent, *size)
        target = lambda base: tuple(side * self.scale for side in base.shape[-2:])

        def in_pixels(image):
            enlarged = cv2.resize(image, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_LANCZOS4)
            return lambda latent, size: self.encode([enlarged])

        def with_noise(image, seed):
            reference = to_image([image])
            return lambda latent, size: add_region_noise(self.model, lsr(latent, size), reference, 0.0, 1.2, seed)[0]

        def img2img(positive, base, seed, sizes):
            model = with_parts(self.model, RegionalDenoise(REGION, 0.5, "uniform", None, True, seed, 0, sizes))
            return self.sample(model, positive, lsr(base, target(base)), seed, self.schedule(30))

        return {
            "bicubic latent, no denoising": lambda p, z, image, s: bicubic(z, target(z)),
            "LSR, no denoising": lambda p, z, image, s: lsr(z, target(z)),
            "whole canvas from noise, 50 steps": lambda p, z, image, s: self.sample(self.model, p, torch.zeros(1, 4, *target(z)), s, self.schedule()),
            "regions only, LSR, 30 of 50": lambda p, z, image, s: img2img(p, z, s, "native"),
            "DemoFusion, progressive, 50": lambda p, z, image, s: self.demofusion(p, z, s, 50, progressive=True),
            "DemoFusion, direct, bicubic, 30 of 50": lambda p, z, image, s: self.demofusion(p, z, s, 30),
            "DemoFusion, direct, Lanczos in pixels, 30 of 50": lambda p, z, image, s: self.demofusion(p, z, s, 30, enlarge=in_pixels(image)),
            "LSRNA-DemoFusion without RNA": lambda p, z, image, s: self.demofusion(p, z, s, 30, enlarge=lsr),
            "LSRNA-DemoFusion": lambda p, z, image, s: self.demofusion(p, z, s, 30, enlarge=with_noise(image, s)),
        }


@torch.inference_mode()
def run(scale: int, captions: int, first: int, sheet: Path | None) -> dict[str, dict[str, float]]:
    bench = Bench(scale)
    scenes = held_out_scenes(captions, first)
    table = {name: {"images": [], "fidelity": [], "rows": 0, "seconds": 0.0} for name in bench.methods()}
    rows = []
    for i, scene in enumerate(scenes):
        positive = bench.prompt(caption(scene))
        base = bench.sample(bench.model, positive, torch.zeros(1, 4, 16, 16), i, bench.schedule())
        (base_image,) = bench.decode(base)
        row = [cv2.resize(base_image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)]
        for name, method in bench.methods().items():
            entry = table[name]
            bench.calls.clear()
            started = time.monotonic()
            (image,) = bench.decode(method(positive, base, base_image, i))
            entry["seconds"] += time.monotonic() - started
            entry["rows"] += bench.rows
            shrunk = cv2.resize(image, base_image.shape[1::-1], interpolation=cv2.INTER_AREA)
            entry["fidelity"].append(psnr_of_arrays(shrunk, base_image))
            entry["images"].append(image)
            row.append(image)
        rows.append(row)
    if sheet:
        write_sheet(sheet, rows)
    side = 128 * scale
    truth = [render(scene, side, 1) for scene in held_out_scenes(4 * captions, first + 500)]
    return {
        name: {
            **score_images(bench.detector, entry["images"], scenes),
            "fidelity": float(np.mean(entry["fidelity"])),
            "frechet": frechet_distance(bench.detector, entry["images"], truth),
            "rows": entry["rows"] / captions,
            "seconds": entry["seconds"] / captions,
        }
        for name, entry in table.items()
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench upscaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--captions", type=int, default=24)
    parser.add_argument("--first", type=int, default=HELD_OUT_SEED, help="seed of the first scene")
    parser.add_argument("--sheet", type=Path, help="write base and results as a contact sheet")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = run(options.scale, options.captions, options.first, options.sheet)
    print(json.dumps({name: {k: round(v, 3) for k, v in row.items()} for name, row in results.items()}, indent=1))
