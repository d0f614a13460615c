"""`bench frontier`: what settings of the regional samplers give for their network rows, on held-out scenes.

The true 128 px image of a scene is enlarged and drawn again. Results are kept in benchmarks/cache/frontier.json, by
world, weights and setting; what is there is not computed again. Columns, each with its 95 % interval over images:

  rows    network rows an image (one view and one guidance branch each)
  extra   things that nobody asked for
  base    PSNR of the shrunk result to the small image (dB)
  truth   PSNR to the true image of that size (dB)
  sharp   mean absolute Laplacian over that of the autoencoder's image of the true one; geometric mean
  miss    mean |log2 sharp|: too much is a fault as well
  seam    steps across the borders of the regions over those of the autoencoder's image
  border  saturation of the outer 8 px against 16 to 48 px in, over the same of the autoencoder's image
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from ..engine import with_parts
from ..engine.latents import resize
from ..engine.sigmas import PAPER_SCHEDULE, levels_of, schedule
from ..methods.region_noise import start_factor
from ..methods.regions import RegionLayout
from ..methods.schedules import DEMOFUSION_RATIO
from ..models.mini import file
from ..models.mini import loaded as mini
from ..patches import pixelsmith
from ..patches.demofusion import DilatedPass, Renormalize, SkipResidual
from ..patches.demofusion_sampler import phase_sizes
from ..patches.guidance_interval import GuidanceInterval
from ..patches.region_noise import add_region_noise
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.render import render
from ..training.mini.scenes import caption
from . import frontier_page
from .scoring import (
    outer_border,
    psnr_of_arrays,
    score_images,
    seam,
    sharpness,
)
from .settings import Setting, all_settings
from .world import NATIVE_CELLS, World, held_out_scenes, to_image, write_sheet

CACHE = Path(__file__).parent / "cache" / "frontier.json"
NATIVE = (NATIVE_CELLS, NATIVE_CELLS)
METRICS = ("rows", "extra", "base", "truth", "sharp", "seam", "border")
WEIGHTS = {"text to image": ("unet", "vae"), "flow": ("flow", "vae"), "flow in few steps": ("flow", "flow_lora", "vae")}
CFG = 4.0  # of variants but those in few steps


class Bench(World):
    def __init__(self, variant: str, scale: int):
        super().__init__(mini.VARIANTS[variant])
        self.cfg = 1.0 if variant == "flow in few steps" else CFG
        self.scale = scale

    def guide(self, setting: Setting, small: np.ndarray, latent: torch.Tensor, size: tuple[int, int], seed: int, ratio: float) -> torch.Tensor:
        """The enlarged image at `size` (height, width, cells), unscaled."""
        if setting.guide == "lsr":
            out = self.upscaler.upscale(latent, *size)
        elif setting.guide == "latent":
            out = resize(latent, *size)
        else:
            out = self.encode([cv2.resize(small, (size[1] * 8, size[0] * 8), interpolation=cv2.INTER_LANCZOS4)])
        if setting.edge_noise:
            out, _ = add_region_noise(self.model, out, to_image([small]), 0.0, start_factor(ratio) * setting.edge_noise, seed)
        return out

    def enlarge(self, setting: Setting, positive: list, small: np.ndarray, seed: int) -> np.ndarray:
        reference = self.encode([small])
        target = tuple(side * self.scale for side in reference.shape[-2:])
        if setting.method == "none":
            return cv2.resize(small, (target[1] * 8, target[0] * 8), interpolation=cv2.INTER_LANCZOS4)
        highest = DEMOFUSION_RATIO if setting.method == "demofusion" and setting.scheduler != PAPER_SCHEDULE else float("inf")
        sigmas = schedule(self.model, setting.scheduler, setting.steps, setting.strength, highest=highest)
        ratio = levels_of(self.model.get_model_object("model_sampling")).ratio(float(sigmas[0]))
        extra = [] if setting.guidance == (0.0, 1.0) else [GuidanceInterval(setting.guidance[1], setting.guidance[0])]
        latent = reference
        for size in phase_sizes(tuple(reference.shape[-2:]), target, setting.progressive):
            guide = self.guide(setting, small, latent, size, seed, ratio)
            latent = getattr(self, setting.method)(setting, positive, reference, guide, seed, sigmas, extra)
        return self.decode(latent)[0]

    def cut(self, setting: Setting, seed: int) -> RegionalDenoise:
        return RegionalDenoise(NATIVE, setting.overlap, setting.blend, jitter=setting.jitter > 0, jitter_until=setting.jitter, shift=setting.shift, seed=seed, sizes="canvas")

    def regions(self, setting, positive, reference, guide, seed, sigmas, extra):
        prior = [StructurePrior(reference, setting.structure, mode="kappa")] if setting.structure else []
        model = with_parts(self.model, self.cut(setting, seed), *prior, *extra)
        return self.denoise(model, positive, guide, seed, sigmas, self.cfg)

    def demofusion(self, setting, positive, reference, guide, seed, sigmas, extra):
        parts = (DilatedPass(tuple(reference.shape[-2:]), least=setting.dilated), SkipResidual(guide), Renormalize(reference))
        model = with_parts(self.model, self.cut(setting, seed), *parts, *extra)
        return self.denoise(model, positive, guide, seed, sigmas, self.cfg)

    def pixelsmith(self, setting, positive, reference, guide, seed, sigmas, extra):
        model = with_parts(self.model, *extra) if extra else self.model
        guided = pixelsmith.guided_steps_of(self.model, sigmas, setting.guided_until)
        return pixelsmith.sample(model, positive, self.empty, guide, sigmas, guided, self.cfg, seed, NATIVE_CELLS, setting.order)


class Scenes:
    """Held-out scenes at a scale, and what results are compared with."""

    def __init__(self, bench: Bench, count: int):
        self.bench, self.scenes = bench, held_out_scenes(count)

    @cached_property
    def small(self) -> list[np.ndarray]:
        return [render(scene, 128, 1) for scene in self.scenes]

    @cached_property
    def true(self) -> list[np.ndarray]:
        return [render(scene, 128 * self.bench.scale, 1) for scene in self.scenes]

    @cached_property
    def ideal(self) -> list[np.ndarray]:
        return [self.bench.decode(self.bench.encode([image]))[0] for image in self.true]

    def score(self, i: int, setting: Setting, image: np.ndarray) -> dict[str, float]:
        shrunk = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
        lines = RegionLayout.from_overlap(*(side // 8 for side in image.shape[:2]), *NATIVE, setting.overlap)
        return {
            "extra": score_images(self.bench.detector, [image], [self.scenes[i]])["extra"],
            "base": psnr_of_arrays(shrunk, self.small[i]),
            "truth": psnr_of_arrays(image, self.true[i]),
            "sharp": sharpness(image) / sharpness(self.ideal[i]),
            "seam": seam(image, lines, 8) / seam(self.ideal[i], lines, 8),
            "border": outer_border(image) / outer_border(self.ideal[i]),
        }


class Cache:
    """JSON of lists, one number an image, by world and setting; of other weights, it starts anew."""

    def __init__(self, path: Path, variant: str):
        self.path, self.variant = path, variant
        self.all = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        digest = weights_digest(variant)
        if self.all.get(variant, {}).get("weights") != digest:
            self.all[variant] = {"weights": digest, "results": {}}

    @property
    def results(self) -> dict[str, dict]:
        return self.all[self.variant]["results"]

    def of(self, name: str, setting: Setting, scale: int) -> dict[str, list[float]]:
        """Metric -> values, of image after image; an empty list each where nothing is known."""
        found = self.results.setdefault(f"{name} @ {scale}x", {"setting": repr(setting)})
        if found["setting"] != repr(setting):
            found.clear()
            found["setting"] = repr(setting)
        for metric in METRICS:
            found.setdefault(metric, [])
        return found

    def write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(compact(self.all), encoding="utf-8")
        os.replace(partial, self.path)


def compact(value) -> str:
    """JSON, a list in one line."""
    text = json.dumps(value, indent=1)
    lines, inside = [], False
    for line in text.split("\n"):
        lines.append(line.strip() if inside else ("\n" + line))
        inside = line.rstrip().endswith("[") or (inside and "]" not in line)
    return "".join(lines).lstrip("\n") + "\n"


def weights_digest(variant: str) -> str:
    return hashlib.sha256(b"".join(file.path_of(name).read_bytes() for name in WEIGHTS[variant])).hexdigest()[:16]


@torch.inference_mode()
def measure(bench: Bench, cache: Cache, settings: dict[str, Setting], count: int, seeds: int, sheet: Path | None) -> None:
    scenes, sheets = Scenes(bench, count), []
    for name, setting in settings.items():
        known, row = cache.of(name, setting, bench.scale), []
        done = len(known["rows"])
        # seed after seed, so that more seeds go on from fewer
        for n in range(0 if sheet else done, count * seeds):
            i, seed = n % count, n
            bench.calls.clear()
            image = bench.enlarge(setting, bench.prompt(caption(scenes.scenes[i])), scenes.small[i], seed)
            row.append(image)
            if n < done:
                continue
            for metric, value in {"rows": bench.rows, **scenes.score(i, setting, image)}.items():
                known[metric].append(round(float(value), 4))
            cache.write()
        sheets.append(row)
    if sheet:
        write_sheet(sheet, sheets)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench frontier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(WEIGHTS), default=next(iter(WEIGHTS)))
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--settings", nargs="+", choices=list(all_settings()), help="default: all")
    parser.add_argument("--table", action="store_true", help="print what the cache holds, and measure nothing")
    parser.add_argument("--page", action="store_true", help="write the tables and the plot of docs/cost.md, and measure nothing")
    parser.add_argument("--sheet", type=Path, help="write the images as a contact sheet, one row a setting")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = {name: setting for name, setting in all_settings().items() if not options.settings or name in options.settings}
    cache = Cache(CACHE, options.variant)
    if options.page:
        frontier_page.write(cache.all)
        return
    if not options.table:
        measure(Bench(options.variant, options.scale), cache, settings, options.captions, options.seeds, options.sheet)
    print("\n".join(frontier_page.absolute(cache.results, options.scale, settings, options.captions * options.seeds)))
