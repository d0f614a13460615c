"""`bench upscaling`: LSRNA-DemoFusion and what it is made of, on held-out captions of the mini world.

Every method enlarges the same base sample. Paired columns, so differences are meaningful sooner than the values:
adherence to the caption (shape, colour), things nobody asked for a picture, PSNR of the shrunk result to the base
picture (dB), Fréchet distance of detector features to true renders of other scenes with the same grounds, network
rows (one image and one guidance branch each) and seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import comfy.sample
import comfy.samplers
import cv2
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ..engine.evaluation import with_parts
from ..engine.latents import resize
from ..methods.noise import seeded_noise
from ..models.lsr.loaded import LatentUpscaler
from ..models.mini import loaded as mini
from ..models.mini.world import FOLDER
from ..patches.demofusion_sampler import (
    PAPER_SCHEDULE,
    phase_sizes,
    sample_demofusion,
    schedule,
)
from ..patches.region_noise import add_region_noise
from ..patches.regional_denoise import RegionalDenoise
from ..training.mini.render import render
from ..training.mini.scenes import HELD_OUT_SEED, caption, sample_scene
from .scoring import frechet_distance, load_detector, score_pictures

CFG = 4.0
REGION = (16, 16)


class Bench:
    def __init__(self, scale: int):
        self.scale = scale
        self.rows = 0
        self.model, self.clip, self.vae = mini.load_model(), mini.load_clip(), mini.load_vae()
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", self.count)
        self.lsr = LatentUpscaler.from_file(str(FOLDER / "mini_lsr.safetensors"), "mini_lsr.safetensors")
        self.negative = self.encode("")

    def count(self, executor, x, *args, **kwargs):
        self.rows += len(x)
        return executor(x, *args, **kwargs)

    def encode(self, text: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def sample(self, model, positive, latent, seed, sigmas):
        noise = seeded_noise(latent.shape, seed)
        return comfy.sample.sample_custom(model, noise, CFG, comfy.samplers.sampler_object("euler"), sigmas, positive, self.negative, latent, disable_pbar=True, seed=seed)

    def picture(self, latent: torch.Tensor) -> np.ndarray:
        return (self.vae.decode(latent)[0].numpy() * 255).round().astype(np.uint8)

    def demofusion(self, positive, base, seed, depth: int, progressive: bool = False, enlarge=None) -> torch.Tensor:
        size = tuple(side * self.scale for side in base.shape[-2:])
        regional = RegionalDenoise(REGION, 0.5, "uniform", None, True, seed, 0, "canvas", tuple(side * 8 for side in size))
        sizes = phase_sizes(tuple(base.shape[-2:]), size, progressive)
        sigmas = schedule(self.model, PAPER_SCHEDULE, 50, depth, True)
        extra = {} if enlarge is None else {"enlarge": enlarge}
        return sample_demofusion(self.model, positive, self.negative, base, sizes, sigmas, CFG, seed, regional, **extra)

    def methods(self):
        """Name -> function of (positive, base latent, base picture, seed) to the enlarged latent."""
        bicubic = lambda latent, size: resize(latent, *size)
        lsr = lambda latent, size: self.lsr.upscale(latent, *size)
        target = lambda base: tuple(side * self.scale for side in base.shape[-2:])

        def in_pixels(picture):
            enlarged = cv2.resize(picture, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_LANCZOS4)
            return lambda latent, size: self.vae.encode(torch.from_numpy(enlarged)[None].float() / 255)

        def with_noise(picture, seed):
            image = torch.from_numpy(picture)[None].float() / 255
            return lambda latent, size: add_region_noise(self.model, lsr(latent, size), image, 0.0, 1.2, seed)[0]

        def img2img(positive, base, seed, sizes):
            model = with_parts(self.model, RegionalDenoise(REGION, 0.5, "uniform", None, True, seed, 0, sizes))
            return self.sample(model, positive, lsr(base, target(base)), seed, schedule(self.model, PAPER_SCHEDULE, 50, 30, True))

        return {
            "bicubic latent, no denoising": lambda p, z, image, s: bicubic(z, target(z)),
            "LSR, no denoising": lambda p, z, image, s: lsr(z, target(z)),
            "whole canvas from noise, 50 steps": lambda p, z, image, s: self.sample(self.model, p, torch.zeros(1, 4, *target(z)), s, schedule(self.model, PAPER_SCHEDULE, 50, 50, True)),
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
    scenes = [sample_scene(first + i) for i in range(captions)]
    table = {name: {"pictures": [], "fidelity": [], "rows": 0, "seconds": 0.0} for name in bench.methods()}
    rows = []
    for i, scene in enumerate(scenes):
        positive = bench.encode(caption(scene))
        base = bench.sample(bench.model, positive, torch.zeros(1, 4, 16, 16), i, schedule(bench.model, PAPER_SCHEDULE, 50, 50, True))
        base_picture = bench.picture(base)
        row = [cv2.resize(base_picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)]
        for name, method in bench.methods().items():
            entry = table[name]
            bench.rows, started = 0, time.monotonic()
            picture = bench.picture(method(positive, base, base_picture, i))
            entry["seconds"] += time.monotonic() - started
            entry["rows"] += bench.rows
            shrunk = cv2.resize(picture, base_picture.shape[1::-1], interpolation=cv2.INTER_AREA)
            entry["fidelity"].append(10 * np.log10(255 ** 2 / np.mean((shrunk.astype(float) - base_picture) ** 2)))
            entry["pictures"].append(picture)
            row.append(picture)
        rows.append(np.concatenate(row, 1))
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(sheet), np.concatenate(rows)[..., ::-1])
    net = load_detector()
    side = 128 * scale
    truth = [render(sample_scene(first + 500 + i), side, 1) for i in range(4 * captions)]
    return {
        name: {
            **score_pictures(net, entry["pictures"], scenes),
            "fidelity": float(np.mean(entry["fidelity"])),
            "frechet": frechet_distance(net, entry["pictures"], truth),
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
