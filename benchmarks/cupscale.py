"""`bench cupscale`: C-Upscale's priors, alone and together, on held-out scenes of the mini world.

The true 128 px image of a scene is enlarged twice; every method starts from the same noise and runs the last 22 of
50 steps. Columns:

  low      RMS difference of the Haar low bands of result and reference, scaled latent units (x 1000)
  base     PSNR of the shrunk image to the 128 px one (dB)
  truth    PSNR to the true 256 px image (dB)
  sharp    mean absolute Laplacian, as a share of the true image's
  shape, colour, slot   shares of the scene's things that the detector finds
  extra    things an image that nobody asked for
  rows     network rows a step, one image and one guidance branch each
  GSP      processor time of the structure prior, as a share of the network's
  RAP      network time on the small image a step, in times of one region (two rows)

The second table has the seams: mean absolute step across the lines where regions begin, relative to all lines.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..engine import Part, with_parts
from ..engine.latents import resize
from ..methods.regions import RegionLayout
from ..methods.structure_prior import low_band
from ..patches.attention_prior import AttentionPrior
from ..patches.region_prompts import encode_regions
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.render import render
from ..training.mini.scenes import caption, crop_caption
from .scoring import psnr_of_arrays, score_images, seam, sharpness
from .world import STEPS, World, held_out_scenes, write_sheet

SCALE, REGION, DEPTH = 2, 16, 22
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


@dataclass
class Timed(Part):
    """Another part, and the processor time of its edits."""

    edit: StructurePrior
    seconds: float = 0.0

    def __post_init__(self):
        self.key, self.rank = self.edit.key, self.edit.rank

    def edits(self, run):
        edits = self.edit.edits(run)

        def evaluated(*args):
            start = time.process_time()
            denoised = edits.evaluated(*args)
            self.seconds += time.process_time() - start
            return denoised

        return edits._replace(evaluated=evaluated)


class Bench(World):
    """The mini world with C-Upscale's parts on it. `structure`: processor time of the structure prior in the last run."""

    def __init__(self, cfg: float):
        super().__init__()
        self.cfg = cfg
        self.sigmas = self.schedule(DEPTH)

    def enlarge(self, scene, reference, start, seed, overlap=0.5, structure=0.0, attention=False, prompts=False) -> torch.Tensor:
        """`start` (the enlarged image's latent) denoised; unscaled latents."""
        layout = RegionLayout.from_overlap(*start.shape[-2:], REGION, REGION, overlap)
        model = with_parts(self.model, RegionalDenoise(layout=layout, regions_per_call=len(layout.regions)))
        if attention:
            model = with_parts(model, AttentionPrior(reference))
        prior = Timed(StructurePrior(reference, structure, clamp=False))
        if structure:
            model = with_parts(model, prior)
        positive = self.prompt(caption(scene))
        if prompts:
            width, height = layout.width, layout.height
            texts = [crop_caption(scene, region.x / width, region.y / height, REGION / width) for region in layout.regions]
            positive = encode_regions(self.clip, texts, layout, positive, 30)
        self.calls.clear()
        out = self.denoise(model, positive, start, seed, self.sigmas, self.cfg)
        self.structure = prior.seconds
        return out

    @property
    def network(self) -> float:
        """Processor time of the network in the last run."""
        return sum(call.seconds for call in self.calls)

    @property
    def small(self) -> float:
        """The part of it that the small image took: one branch, one row."""
        return sum(call.seconds for call in self.calls if call.rows == 1)


def low_error(bench: Bench, out: torch.Tensor, reference: torch.Tensor) -> float:
    process = bench.model.model.process_latent_in
    difference = process(out) - process(resize(reference, *out.shape[-2:]))
    return 1000 * float(low_band(difference).square().mean().sqrt())


@torch.inference_mode()
def run(captions: int, overlaps: int, cfg: float, scored: bool, sheet: Path | None) -> None:
    bench = Bench(cfg)
    scenes = held_out_scenes(captions)
    detector = bench.detector if scored else None
    size = 128 * SCALE
    table = {name: [] for name in METHODS}
    images = {name: [] for name in METHODS}
    seams = {overlap: [] for overlap in OVERLAPS}
    inputs = []
    for scene in scenes:
        small, truth = render(scene, 128), render(scene, size)
        enlarged = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
        inputs.append((small, truth, bench.encode([small]), bench.encode([enlarged])))
    for seed, (scene, (small, truth, reference, start)) in enumerate(zip(scenes, inputs)):
        for name, settings in METHODS.items():
            out = bench.enlarge(scene, reference, start, seed, **settings)
            (image,) = bench.decode(out)
            images[name].append(image)
            shrunk = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
            region = (bench.network - bench.small) / (9 * DEPTH)
            table[name].append((low_error(bench, out, reference), psnr_of_arrays(shrunk, small), psnr_of_arrays(image, truth), sharpness(image) / sharpness(truth),
                                bench.rows / DEPTH, bench.structure / bench.network, bench.small / DEPTH / region))
        if seed < overlaps:
            for overlap in OVERLAPS:
                layout = RegionLayout.from_overlap(*start.shape[-2:], REGION, REGION, overlap)
                (image,) = bench.decode(bench.enlarge(scene, reference, start, seed, overlap))
                seams[overlap].append((seam(image, layout, 8), bench.network))
    show(table, images, scenes, detector, cfg)
    truth_seam = [seam(truth, RegionLayout.from_overlap(32, 32, REGION, REGION, 0.5), 8) for _, truth, *_ in inputs]
    print(f"\n{'overlap':16} {'regions':>7} {'seam':>6} {'network seconds':>16}   ({np.mean(truth_seam):.3f} in the true pictures)")
    for overlap, rows in seams.items():
        if rows:
            count = len(RegionLayout.from_overlap(32, 32, REGION, REGION, overlap).regions)
            print(f"{overlap:<16} {count:7} {np.mean([row[0] for row in rows]):6.3f} {np.mean([row[1] for row in rows]):16.1f}")
    if sheet:
        write_sheet(sheet, [[cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), truth, *(images[name][i] for name in METHODS)] for i, (small, truth, *_) in enumerate(inputs)])


def show(table, images, scenes, detector, cfg):
    print(f"Mini world, {SCALE}x, {len(scenes)} held-out scenes, last {DEPTH} of {STEPS} steps, guidance scale {cfg}\n")
    found = ("shape", "colour", "slot", "extra") if detector else ()
    print(f"{'':16} {'low':>6} {'base':>6} {'truth':>6} {'sharp':>6} " + "".join(f"{name:>7}" for name in found) + f" {'rows':>7} {'GSP':>6} {'RAP':>6}")
    for name, rows in table.items():
        low, base, truth, sharp, network, structure, attention = np.mean(rows, 0)
        scores = score_images(detector, images[name], scenes) if detector else {}
        print(f"{name:16} {low:6.1f} {base:6.2f} {truth:6.2f} {sharp:6.2f} " + "".join(f"{scores[key]:7.2f}" for key in found) + f" {network:7.1f} {structure:6.2%} {attention:6.2f}", flush=True)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench cupscale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=6, help="held-out scenes")
    parser.add_argument("--overlaps", type=int, default=1, help="scenes of the second table")
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--no-scores", action="store_true", help="leave out the detector's columns")
    parser.add_argument("--sheet", type=Path, help="write enlarged input, truth and results as a contact sheet")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    run(options.captions, options.overlaps, options.cfg, not options.no_scores, options.sheet)
