"""`bench few-steps`: how much of the reference each method holds in 30, 8 and 4 steps from the same noise level.

Three worlds: `exact`, images of a Gaussian prior with their exact posterior mean as network, as noise prediction and as
flow with shift 3; `mini`, the mini world's denoiser; `flow`, its flow transformer. 30 steps are the papers' last 30 of 50, the
others are evenly spread in the model's own time from that level. Regions, Euler. The numbers are the RMS difference of the
Haar low bands of result and reference (x 1000, scaled units), without the method and with it; `effect` is their mean
paired difference with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch

from ..engine import Part, with_parts
from ..engine.latents import resize
from ..engine.sigmas import PAPER_SCHEDULE, levels_of, noise_levels
from ..methods.schedules import ddim_timesteps, sd_ratio
from ..methods.structure_prior import low_band
from ..models.mini import loaded as mini
from ..patches.demofusion import SkipResidual
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.regional_denoise import RegionalDenoise
from ..patches.structure_prior import StructurePrior
from ..training.mini.render import render
from ..training.mini.scenes import caption
from . import gaussian
from .scoring import interval
from .world import World, held_out_scenes

START, STEPS = 581, (30, 8, 4)
METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], Part]] = {  # of the small latent and the enlarged one
    "Structure Prior 0.2": lambda small, large: StructurePrior(small),
    "skip residual": lambda small, large: SkipResidual(large),
    "Latent Adjustment 0.03, 0.01": lambda small, large: LatentAdjustment(large, 0.03, 0.01),
}


def sigmas_of(model, steps: int) -> torch.Tensor:
    """The papers' last 30 of 50, or fewer steps, from timestep START."""
    sampling = model.get_model_object("model_sampling")
    levels = levels_of(sampling)
    if steps == 30:
        return torch.tensor([*(levels.sigma(sd_ratio(t)) for t in ddim_timesteps(50, 30)), 0.0])
    return noise_levels(sampling, PAPER_SCHEDULE if levels.flow else "simple", steps, START / 999)


class Exact:
    """Images of the Gaussian prior, 64 x 64 cells in one batch."""

    def __init__(self, kind: str, count: int):
        self.model, self.count = gaussian.model(kind, shift=3.0), count
        self.images = [gaussian.image(seed) for seed in range(count)]

    def inputs(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        small = gaussian.small(self.images[i])
        return small, gaussian.enlarged(small)

    def sample(self, model, i: int, latent: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        return gaussian.sample(model, sigmas, latent, 1000 + i)


class Mini:
    """Held-out scenes, 128 to 256 px."""

    def __init__(self, flow: bool, count: int, cfg: float):
        self.world, self.cfg, self.scenes = World(mini.VARIANTS["flow" if flow else "text to image"]), cfg, held_out_scenes(count)
        self.model = with_parts(self.world.model, RegionalDenoise((16, 16), jitter=False))

    def inputs(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        small = render(self.scenes[i], 128)
        large = cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC)
        return self.world.encode([small]), self.world.encode([large])

    def sample(self, model, i: int, latent: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        return self.world.denoise(model, self.world.prompt(caption(self.scenes[i])), latent, i, sigmas, self.cfg)


def low_error(model, out: torch.Tensor, reference: torch.Tensor) -> float:
    process = model.model.process_latent_in
    difference = process(out) - process(resize(reference, *out.shape[-2:]))
    return 1000 * float(low_band(difference).square().mean().sqrt())


@torch.inference_mode()
def run(name: str, world: Exact | Mini, count: int) -> None:
    print(f"\n{name}, {count} images{'':20}" + "".join(f"{f'{steps} steps':>34}" for steps in STEPS))
    inputs = [world.inputs(i) for i in range(count)]

    def errors(method, steps):
        models = [world.model if method is None else with_parts(world.model, method(*latents)) for latents in inputs]
        sigmas = sigmas_of(world.model, steps)
        return np.array([low_error(world.model, world.sample(models[i], i, inputs[i][1], sigmas), inputs[i][0]) for i in range(count)])

    plain = {steps: errors(None, steps) for steps in STEPS}
    for label, method in METHODS.items():
        row = ""
        for steps in STEPS:
            held = errors(method, steps)
            effect = plain[steps] - held
            low, high = interval(effect)
            row += f"{plain[steps].mean():6.0f} {held.mean():5.0f}  {effect.mean():5.0f} [{low:4.0f}, {high:4.0f}]"
        print(f"{label:32}{row}", flush=True)


WORLDS = {
    "exact": lambda count, cfg: [("exact prior, noise prediction", Exact("eps", count)), ("exact prior, flow", Exact("flow", count))],
    "mini": lambda count, cfg: [("mini world, denoiser", Mini(False, count, cfg))],
    "flow": lambda count, cfg: [("mini world, flow transformer", Mini(True, count, cfg))],
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench few-steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--cfg", type=float, default=4.0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for world in options.worlds:
        for name, made in WORLDS[world](options.images, options.cfg):
            run(name, made, options.images)
