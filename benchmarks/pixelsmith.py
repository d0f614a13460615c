"""`bench pixelsmith`: PixelSmith beside DemoFusion on the mini world.

Base samples of held-out captions are enlarged; about five minutes on one core. Columns: adherence to the caption
(shape, colour, slot), things nobody asked for, PSNR of the shrunk result to the base image (dB), network calls, rows
(one image and one guidance branch each) and seconds an image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import comfy.sample
import comfy.utils
import numpy as np
import torch

from ..patches.demofusion_sampler import phase_sizes, sample_demofusion
from ..patches.pixelsmith import sample
from ..patches.region_noise import add_region_noise
from ..patches.regional_denoise import RegionalDenoise
from ..training.mini.scenes import caption
from .scoring import psnr, score_images
from .world import NATIVE_CELLS as NATIVE
from .world import World, held_out_scenes, to_arrays, write_sheet

BASE_STEPS = 30


def methods(world: World, scale: int, cfg: float) -> dict[str, Callable]:
    """name -> function(reference latent, its image, positive, negative, seed) that returns the enlarged latent."""
    model, native, side = world.model, (NATIVE, NATIVE), scale * NATIVE
    whole, last = world.schedule(), world.schedule(30)
    guided_steps = 20 if scale == 2 else 30

    def lanczos(image, size):
        enlarged = comfy.utils.common_upscale(image.movedim(-1, 1), 8 * size, 8 * size, "lanczos", "disabled")
        return world.vae.encode(enlarged.movedim(1, -1))

    def upscaled(latent, image, e_min, e_max, seed):
        return add_region_noise(model, world.upscaler.upscale(latent, side, side), image, e_min, e_max, seed)[0]

    def pixelsmith(latent, image, positive, negative, seed, order="random"):
        return sample(model, positive, negative, lanczos(image, side), whole, guided_steps, cfg, seed, NATIVE, order)

    def lsrna_pixelsmith(latent, image, positive, negative, seed):
        return sample(model, positive, negative, upscaled(latent, image, 0.4, 0.8, seed), last, max(1, guided_steps - 20), cfg, seed, NATIVE)

    def fused(latent, positive, negative, seed, sizes, sigmas, **enlarge):
        regional = RegionalDenoise(native, jitter=True, seed=seed, sizes="canvas", canvas_pixels=(8 * side, 8 * side))
        return sample_demofusion(model, positive, negative, latent, sizes, sigmas, cfg, seed, regional, **enlarge)

    def demofusion(latent, image, positive, negative, seed):
        return fused(latent, positive, negative, seed, phase_sizes(native, (side, side), progressive=True), whole)

    def lsrna_demofusion(latent, image, positive, negative, seed):
        return fused(latent, positive, negative, seed, [(side, side)], last, enlarge=lambda samples, size: upscaled(samples, image, 0.0, 1.2, seed))

    return {
        "Lanczos": lambda latent, image, *_: lanczos(image, side),
        "LSR": lambda latent, *_: world.upscaler.upscale(latent, side, side),
        "PixelSmith": pixelsmith,
        "PixelSmith, cover": lambda *args: pixelsmith(*args, order="cover"),
        "LSRNA-PixelSmith": lsrna_pixelsmith,
        "DemoFusion": demofusion,
        "LSRNA-DemoFusion": lsrna_demofusion,
    }


@torch.inference_mode()
def evaluate(count: int, scale: int, cfg: float, sheet: Path | None) -> None:
    """Adherence of the enlarged images, likeness to the base image and cost, for every method."""
    comfy.utils.set_progress_bar_enabled(False)
    world, scenes = World(), held_out_scenes(count)
    negative = world.empty
    base = []
    for seed, scene in enumerate(scenes):
        positive, latent = world.prompt(caption(scene)), torch.zeros(1, 4, NATIVE, NATIVE)
        latent = comfy.sample.sample(world.model, comfy.sample.prepare_noise(latent, seed), BASE_STEPS, cfg, "euler", "ddim_uniform", positive, negative, latent, disable_pbar=True, seed=seed)
        base.append((positive, latent, world.vae.decode(latent)))

    references = torch.cat([image for *_, image in base]).movedim(-1, 1)
    columns = [references]
    print(f"\nMini world, {scale}x, {count} held-out captions, guidance scale {cfg}\n")
    print(f"{'':18} {'shape':>6} {'colour':>6} {'slot':>6} {'extra':>6} {'PSNR to base':>12} {'calls':>6} {'rows':>8} {'seconds':>8}")
    show("base", world, score_images(world.detector, images_of(references), scenes))
    for name, method in methods(world, scale, cfg).items():
        world.calls.clear()
        start = time.perf_counter()
        latents = [method(latent, image, positive, negative, seed) for seed, (positive, latent, image) in enumerate(base)]
        seconds = time.perf_counter() - start
        images = torch.cat([world.vae.decode(latent) for latent in latents]).movedim(-1, 1)
        likeness = psnr(torch.nn.functional.interpolate(images, references.shape[-2:], mode="area") * 2 - 1, references * 2 - 1)
        show(name, world, score_images(world.detector, images_of(images), scenes), f"{likeness:12.2f}", seconds / count, count)
        columns.append(images)
    if sheet:
        enlarged = [torch.nn.functional.interpolate(column, columns[-1].shape[-2:], mode="nearest") for column in columns]
        write_sheet(sheet, list(zip(*map(images_of, enlarged))))


def show(name, world, scores, likeness=" " * 12, seconds=0.0, count=1):
    adherence = " ".join(f"{scores[key]:6.2f}" for key in ("shape", "colour", "slot", "extra"))
    cost = f"{len(world.calls) / count:6.0f} {world.rows / count:8.0f} {seconds:8.1f}" if seconds else ""
    print(f"{name:18} {adherence} {likeness} {cost}", flush=True)


def images_of(images: torch.Tensor) -> list[np.ndarray]:
    return to_arrays(images.movedim(1, -1))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench pixelsmith", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=6, help="held-out captions")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sheet", type=Path, help="write the pictures as a contact sheet: base, then the methods in the table's order")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    evaluate(options.captions, options.scale, options.cfg, options.sheet)
