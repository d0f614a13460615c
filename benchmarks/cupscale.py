"""`bench cupscale`: C-Upscale's priors, alone and together, on held-out scenes of the mini world.

The true 128 px picture of a scene is enlarged twice; every method starts from the same noise and runs the last 22 of
50 steps. Columns:

  low      RMS difference of the Haar low bands of result and reference, scaled latent units (x 1000)
  base     PSNR of the shrunk picture to the 128 px one (dB)
  truth    PSNR to the true 256 px picture (dB)
  sharp    mean absolute Laplacian, as a share of the true picture's
  shape, colour, slot   shares of the scene's things that the detector finds
  extra    things a picture that nobody asked for
  rows     network rows a step, one image and one guidance branch each
  GSP      processor time of the structure prior, as a share of the network's
  RAP      network time on the small picture a step, in times of one region (two rows)

The second table has the seams: mean absolute step across the lines where regions begin, relative to all lines.
With --cost it measures instead what RAP costs on a network of SDXL's layout, a tenth as wide, with random weights.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import cv2
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ..engine.evaluation import with_parts
from ..engine.latents import resize
from ..methods.noise import seeded_noise
from ..methods.regions import RegionLayout
from ..methods.structure_prior import low_band
from ..models.mini import loaded as mini
from ..patches.attention_prior import AttentionPrior
from ..patches.demofusion_sampler import PAPER_SCHEDULE, schedule
from ..patches.region_prompts import encode_regions
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.render import render
from ..training.mini.scenes import HELD_OUT_SEED, caption, crop_caption, sample_scene
from .scoring import load_detector, score_pictures, sharpness

SCALE, REGION, STEPS, DEPTH = 2, 16, 50, 22
METHODS = {
    "regions alone": {},
    "GSP 0.2": {"structure": 0.2},
    "GSP 1.0": {"structure": 1.0},
    "RAP": {"attention": True},
    "RAP + GSP": {"attention": True, "structure": 0.2},
    "RSP": {"prompts": True},
    "RSP + RAP + GSP": {"prompts": True, "attention": True, "structure": 0.2},
}
OVERLAPS = (0.0, 0.25, 0.5, 0.75)
SDXL_LAYOUT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "context_dim": 2048, "num_heads": -1, "num_head_channels": 32,
    "num_classes": "sequential", "adm_in_channels": 2816, "use_temporal_attention": False, "legacy": False,
}


@dataclass
class Timed:
    """A step edit, and the processor time of its callbacks."""

    edit: StructurePrior
    seconds: float = 0.0

    def __post_init__(self):
        self.key, self.rank = self.edit.key, self.edit.rank

    def __call__(self, run):
        edits = self.edit(run)

        def callback(*args):
            start = time.process_time()
            edits.callback(*args)
            self.seconds += time.process_time() - start

        return edits._replace(callback=callback)


class Bench:
    def __init__(self, cfg: float):
        self.cfg = cfg
        self.model, self.clip, self.vae = mini.load_model(), mini.load_clip(), mini.load_vae()
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", self.count)
        self.sigmas = schedule(self.model, PAPER_SCHEDULE, STEPS, DEPTH, True)
        self.negative = self.encode("")

    def count(self, executor, x, *args, **kwargs):
        start = time.process_time()
        out = executor(x, *args, **kwargs)
        self.rows += len(x)
        self.network += time.process_time() - start
        if len(x) == 1:  # the small picture: one branch, one row
            self.small += time.process_time() - start
        return out

    def encode(self, text: str) -> list:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def latent(self, picture: np.ndarray) -> torch.Tensor:
        return self.vae.encode(torch.from_numpy(picture)[None].float() / 255)

    def picture(self, latent: torch.Tensor) -> np.ndarray:
        return (self.vae.decode(latent)[0].numpy() * 255).round().astype(np.uint8)

    def enlarge(self, scene, reference, start, seed, overlap=0.5, structure=0.0, attention=False, prompts=False) -> torch.Tensor:
        """`start` (the enlarged picture's latent) denoised; unscaled latents."""
        layout = RegionLayout.from_overlap(*start.shape[-2:], REGION, REGION, overlap)
        model = with_parts(self.model, RegionalDenoise(layout=layout, regions_per_call=len(layout.regions)))
        if attention:
            model = with_parts(model, AttentionPrior(reference))
        prior = Timed(StructurePrior(reference, structure, clamp=False))
        if structure:
            model = with_parts(model, prior)
        positive = self.encode(caption(scene))
        if prompts:
            width, height = layout.width, layout.height
            texts = [crop_caption(scene, region.x / width, region.y / height, REGION / width) for region in layout.regions]
            positive = encode_regions(self.clip, texts, layout, positive, 30)
        self.rows, self.network, self.small = 0, 0.0, 0.0
        out = comfy.sample.sample_custom(model, seeded_noise(start.shape, seed), self.cfg, comfy.samplers.sampler_object("euler"), self.sigmas, positive, self.negative, start, disable_pbar=True, seed=seed)
        self.structure = prior.seconds
        return out


def low_error(bench: Bench, out: torch.Tensor, reference: torch.Tensor) -> float:
    process = bench.model.model.process_latent_in
    difference = process(out) - process(resize(reference, *out.shape[-2:]))
    return 1000 * float(low_band(difference).square().mean().sqrt())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def seam(picture: np.ndarray, layout: RegionLayout, cells: int) -> float:
    steps = np.abs(np.diff(picture.astype(float), axis=1)).mean((0, 2))
    lines = sorted({edge * cells - 1 for region in layout.regions for edge in (region.x, region.x + region.width)} - {-1, len(steps)})
    return float(steps[lines].mean() / steps.mean())


@torch.inference_mode()
def run(captions: int, overlaps: int, cfg: float, scored: bool, sheet: Path | None) -> None:
    bench = Bench(cfg)
    scenes = [sample_scene(HELD_OUT_SEED + i) for i in range(captions)]
    detector = load_detector() if scored else None
    size = 128 * SCALE
    table = {name: [] for name in METHODS}
    pictures = {name: [] for name in METHODS}
    seams = {overlap: [] for overlap in OVERLAPS}
    inputs = []
    for scene in scenes:
        small, truth = render(scene, 128), render(scene, size)
        enlarged = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
        inputs.append((small, truth, bench.latent(small), bench.latent(enlarged)))
    for seed, (scene, (small, truth, reference, start)) in enumerate(zip(scenes, inputs)):
        for name, settings in METHODS.items():
            out = bench.enlarge(scene, reference, start, seed, **settings)
            picture = bench.picture(out)
            pictures[name].append(picture)
            shrunk = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
            region = (bench.network - bench.small) / (9 * DEPTH)
            table[name].append((low_error(bench, out, reference), psnr(shrunk, small), psnr(picture, truth), sharpness(picture) / sharpness(truth),
                                bench.rows / DEPTH, bench.structure / bench.network, bench.small / DEPTH / region))
        if seed < overlaps:
            for overlap in OVERLAPS:
                layout = RegionLayout.from_overlap(*start.shape[-2:], REGION, REGION, overlap)
                picture = bench.picture(bench.enlarge(scene, reference, start, seed, overlap))
                seams[overlap].append((seam(picture, layout, 8), bench.network))
    show(table, pictures, scenes, detector, cfg)
    truth_seam = [seam(truth, RegionLayout.from_overlap(32, 32, REGION, REGION, 0.5), 8) for _, truth, *_ in inputs]
    print(f"\n{'overlap':16} {'regions':>7} {'seam':>6} {'network seconds':>16}   ({np.mean(truth_seam):.3f} in the true pictures)")
    for overlap, rows in seams.items():
        if rows:
            count = len(RegionLayout.from_overlap(32, 32, REGION, REGION, overlap).regions)
            print(f"{overlap:<16} {count:7} {np.mean([row[0] for row in rows]):6.3f} {np.mean([row[1] for row in rows]):16.1f}")
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        rows = [np.concatenate([cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), truth, *(pictures[name][i] for name in METHODS)], 1) for i, (small, truth, *_) in enumerate(inputs)]
        cv2.imwrite(str(sheet), np.concatenate(rows)[..., ::-1])


@torch.inference_mode()
def cost(region: int = 64, evaluations: int = 2) -> None:
    """Processor time of a canvas of 3 x 3 regions of `region` cells, with and without RAP, interleaved."""
    config = comfy.supported_models.SDXL({**SDXL_LAYOUT})
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "")
    for parameter in network.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model = comfy.model_patcher.CoreModelPatcher(network.eval(), torch.device("cpu"), torch.device("cpu"))
    model = with_parts(model, RegionalDenoise((region, region), regions_per_call=9))
    prior = with_parts(model, AttentionPrior(torch.zeros(1, 4, region, region)))
    latent, prompt = torch.zeros(1, 4, 2 * region, 2 * region), [[torch.zeros(1, 77, 2048), {"pooled_output": torch.zeros(1, 1280)}]]
    seconds = {model: 0.0, prior: 0.0}
    for number in range(evaluations + 1):
        for patched in seconds:
            start = time.process_time()
            comfy.sample.sample_custom(patched, latent, 4.0, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0]), prompt, prompt, latent, disable_pbar=True, seed=0)
            if number:  # the first one warms up
                seconds[patched] += time.process_time() - start
    print(f"SDXL's layout, {SDXL_LAYOUT['model_channels']} channels, 9 regions of {region} x {region} cells: {seconds[model] / evaluations:.1f} s an evaluation, with RAP {seconds[prior] / evaluations:.1f} s")
    print(f"RAP costs {9 * (seconds[prior] / seconds[model] - 1):.2f} times a region")


def show(table, pictures, scenes, detector, cfg):
    print(f"Mini world, {SCALE}x, {len(scenes)} held-out scenes, last {DEPTH} of {STEPS} steps, guidance scale {cfg}\n")
    found = ("shape", "colour", "slot", "extra") if detector else ()
    print(f"{'':16} {'low':>6} {'base':>6} {'truth':>6} {'sharp':>6} " + "".join(f"{name:>7}" for name in found) + f" {'rows':>7} {'GSP':>6} {'RAP':>6}")
    for name, rows in table.items():
        low, base, truth, sharp, network, structure, attention = np.mean(rows, 0)
        scores = score_pictures(detector, pictures[name], scenes) if detector else {}
        print(f"{name:16} {low:6.1f} {base:6.2f} {truth:6.2f} {sharp:6.2f} " + "".join(f"{scores[key]:7.2f}" for key in found) + f" {network:7.1f} {structure:6.2%} {attention:6.2f}", flush=True)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench cupscale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=6, help="held-out scenes")
    parser.add_argument("--overlaps", type=int, default=1, help="scenes of the second table")
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--no-scores", action="store_true", help="leave out the detector's columns")
    parser.add_argument("--sheet", type=Path, help="write enlarged input, truth and results as a contact sheet")
    parser.add_argument("--cost", action="store_true", help="only measure RAP on SDXL's layout")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.cost:
        return cost()
    run(options.captions, options.overlaps, options.cfg, not options.no_scores, options.sheet)
