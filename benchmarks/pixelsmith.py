"""`bench pixelsmith`: network calls of the planned execution, and PixelSmith beside DemoFusion on the mini world.

The calls are counted on SDXL's sizes without a network. The evaluation enlarges base samples of
held-out captions and takes about five minutes on one core; it needs the bundled networks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from ..methods.pixelsmith_plan import plan
from ..models.mini.world import FOLDER
from ..training.mini.scenes import HELD_OUT_SEED, caption, sample_scene
from .scoring import load_detector, psnr, score_pictures

CANVASES = {"2048 x 2048": (256, 256), "3072 x 3072": (384, 384), "4096 x 4096": (512, 512), "8192 x 8192": (1024, 1024)}
RUNS = (("50 steps, 20 guided", 50, 20), ("50 steps, 30 guided", 50, 30), ("30 steps, 10 guided", 30, 10))
NATIVE = 16  # latent cells of a mini-world picture
BASE_STEPS = 30


def count_calls(batch: int, runs: int, size: int = 128) -> None:
    """Patches one by one against planned calls, for the whole run, mean of `runs` seeds."""
    print(f"Patches of {size} cells, at most {batch} in a call, mean of {runs} runs\n")
    print(f"{'canvas':14} {'run':22} {'one by one':>10} {'planned':>8} {'share':>6} {'a sweep':>9} {'levels of a guided sweep':>25}")
    for canvas, (height, width) in CANVASES.items():
        for name, steps, guided_steps in RUNS:
            sweeps = [sweep for seed in range(runs) for sweep in plan(height, width, size, steps, guided_steps, seed)]
            patches, calls = sum(len(sweep.patches) for sweep in sweeps) / runs, sum(sweep.calls(batch) for sweep in sweeps) / runs
            guided = [len(sweep.levels) for i, sweep in enumerate(sweeps) if 0 < i % steps < guided_steps]
            print(f"{canvas:14} {name:22} {patches:10.0f} {calls:8.0f} {calls / patches:6.1%} {patches / steps:9.1f} {np.mean(guided):25.1f}")


@dataclass
class World:
    """The bundled networks in ComfyUI, and a count of network calls and of the rows in them."""

    model: object
    clip: object
    vae: object
    upscaler: object
    cfg: float
    calls: list[int] = field(default_factory=list)

    def __post_init__(self):
        def counted(apply, arguments):
            self.calls.append(len(arguments["input"]))
            return apply(arguments["input"], arguments["timestep"], **arguments["c"])

        self.model.set_model_unet_function_wrapper(counted)

    def prompt(self, text: str) -> list:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


def load_world(cfg: float) -> World:
    from ..models.lsr.loaded import LatentUpscaler
    from ..models.mini import loaded as mini

    name = "mini_lsr.safetensors"
    return World(mini.load_model(), mini.load_clip(), mini.load_vae(), LatentUpscaler.from_file(str(FOLDER / name), name), cfg)


def methods(world: World, scale: int) -> dict[str, Callable]:
    """name -> function(reference latent, its picture, positive, negative, seed) that returns the enlarged latent."""
    import comfy.utils

    from ..patches.demofusion_sampler import (
        PAPER_SCHEDULE,
        phase_sizes,
        sample_demofusion,
        schedule,
    )
    from ..patches.pixelsmith import sample
    from ..patches.region_noise import add_region_noise
    from ..patches.regional_denoise import RegionalDenoise

    model, native, side = world.model, (NATIVE, NATIVE), scale * NATIVE
    whole, last = (schedule(model, PAPER_SCHEDULE, 50, depth, end_at_zero=True) for depth in (50, 30))
    guided_steps = 20 if scale == 2 else 30

    def lanczos(picture, size):
        enlarged = comfy.utils.common_upscale(picture.movedim(-1, 1), 8 * size, 8 * size, "lanczos", "disabled")
        return world.vae.encode(enlarged.movedim(1, -1))

    def upscaled(latent, picture, e_min, e_max, seed):
        return add_region_noise(model, world.upscaler.upscale(latent, side, side), picture, e_min, e_max, seed)[0]

    def pixelsmith(latent, picture, positive, negative, seed, order="random"):
        return sample(model, positive, negative, lanczos(picture, side), whole, guided_steps, world.cfg, seed, NATIVE, order)

    def lsrna_pixelsmith(latent, picture, positive, negative, seed):
        return sample(model, positive, negative, upscaled(latent, picture, 0.4, 0.8, seed), last, max(1, guided_steps - 20), world.cfg, seed, NATIVE)

    def fused(latent, positive, negative, seed, sizes, sigmas, **enlarge):
        regional = RegionalDenoise(native, jitter=True, seed=seed, sizes="canvas", canvas_pixels=(8 * side, 8 * side))
        return sample_demofusion(model, positive, negative, latent, sizes, sigmas, world.cfg, seed, regional, **enlarge)

    def demofusion(latent, picture, positive, negative, seed):
        return fused(latent, positive, negative, seed, phase_sizes(native, (side, side), progressive=True), whole)

    def lsrna_demofusion(latent, picture, positive, negative, seed):
        return fused(latent, positive, negative, seed, [(side, side)], last, enlarge=lambda samples, size: upscaled(samples, picture, 0.0, 1.2, seed))

    return {
        "Lanczos": lambda latent, picture, *_: lanczos(picture, side),
        "LSR": lambda latent, *_: world.upscaler.upscale(latent, side, side),
        "PixelSmith": pixelsmith,
        "PixelSmith, cover": lambda *args: pixelsmith(*args, order="cover"),
        "LSRNA-PixelSmith": lsrna_pixelsmith,
        "DemoFusion": demofusion,
        "LSRNA-DemoFusion": lsrna_demofusion,
    }


@torch.inference_mode()
def evaluate(count: int, scale: int, cfg: float, sheet: str | None) -> None:
    """Adherence of the enlarged pictures, likeness to the base picture and cost, for every method."""
    import comfy.sample
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    world = load_world(cfg)
    scenes = [sample_scene(HELD_OUT_SEED + i) for i in range(count)]
    negative = world.prompt("")
    base = []
    for seed, scene in enumerate(scenes):
        positive, latent = world.prompt(caption(scene)), torch.zeros(1, 4, NATIVE, NATIVE)
        latent = comfy.sample.sample(world.model, comfy.sample.prepare_noise(latent, seed), BASE_STEPS, cfg, "euler", "ddim_uniform", positive, negative, latent, disable_pbar=True, seed=seed)
        base.append((positive, latent, world.vae.decode(latent)))

    detector = load_detector()
    references = torch.cat([picture for *_, picture in base]).movedim(-1, 1)
    columns = [references]
    print(f"\nMini world, {scale}x, {count} held-out captions, guidance scale {cfg}\n")
    print(f"{'':18} {'shape':>6} {'colour':>6} {'slot':>6} {'extra':>6} {'PSNR to base':>12} {'calls':>6} {'rows':>8} {'seconds':>8}")
    show("base", world, score_pictures(detector, to_uint8(references), scenes))
    for name, method in methods(world, scale).items():
        world.calls.clear()
        start = time.perf_counter()
        latents = [method(latent, picture, positive, negative, seed) for seed, (positive, latent, picture) in enumerate(base)]
        seconds = time.perf_counter() - start
        pictures = torch.cat([world.vae.decode(latent) for latent in latents]).movedim(-1, 1)
        likeness = psnr(torch.nn.functional.interpolate(pictures, references.shape[-2:], mode="area") * 2 - 1, references * 2 - 1)
        show(name, world, score_pictures(detector, to_uint8(pictures), scenes), f"{likeness:12.2f}", seconds / count, count)
        columns.append(pictures)
    if sheet:
        enlarged = [torch.nn.functional.interpolate(column, columns[-1].shape[-2:], mode="nearest") for column in columns]
        rows = [np.concatenate(row, 1) for row in zip(*map(to_uint8, enlarged))]
        cv2.imwrite(sheet, np.concatenate(rows)[..., ::-1])


def show(name, world, scores, likeness=" " * 12, seconds=0.0, count=1):
    adherence = " ".join(f"{scores[key]:6.2f}" for key in ("shape", "colour", "slot", "extra"))
    cost = f"{len(world.calls) / count:6.0f} {sum(world.calls) / count:8.0f} {seconds:8.1f}" if seconds else ""
    print(f"{name:18} {adherence} {likeness} {cost}", flush=True)


def to_uint8(pictures: torch.Tensor) -> list[np.ndarray]:
    return list((pictures.clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy())


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench pixelsmith", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="most patches in a network call")
    parser.add_argument("--runs", type=int, default=4, help="seeds to average the calls over")
    parser.add_argument("--pictures", type=int, default=6, help="held-out captions for the evaluation, 0 for none")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sheet", help="write the pictures as a contact sheet: base, then the methods in the table's order")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    count_calls(options.batch, options.runs)
    if options.pictures:
        evaluate(options.pictures, options.scale, options.cfg, options.sheet)
