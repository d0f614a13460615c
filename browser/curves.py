"""Weights over a run's noise levels, for the page's plots: samples of the functions that runs call.

A plot is {"timesteps": [t, ...], "curves": {name: [value at t, ...]}}, t falling from at most 999 (noise)
to 0. A node's widgets say nothing of the model's noise levels; what depends on them is drawn for
Stable Diffusion's.
"""

import comfy.model_sampling

from ..engine.sigmas import PAPER_SCHEDULE, levels_of, noise_levels
from ..methods.demofusion import schedule_weights
from ..methods.latent_adjustment import PRESETS
from ..methods.pixelsmith import follows
from ..methods.structure_prior import kappa, schedule_weight
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.structure_prior import DIRECTIONS

TIMESTEPS = [float(t) for t in range(991, 0, -10)]


def demofusion(skip_exponent: float, dilation_exponent: float, blur_exponent: float) -> dict:
    return _demofusion(TIMESTEPS, (skip_exponent, dilation_exponent, blur_exponent))


def demofusion_sampler(mode: str, steps: int, denoise_depth: int, scheduler: str, skip_exponent: float, dilation_exponent: float, blur_exponent: float) -> dict:
    depth = denoise_depth if mode == "direct" else steps
    return _demofusion(_timesteps(scheduler, steps, depth), (skip_exponent, dilation_exponent, blur_exponent))


def _demofusion(timesteps, alphas):
    c1, c2, c3 = zip(*(schedule_weights(t, *alphas) for t in timesteps))
    return _plot(timesteps, {"skip residual": c1, "dilated pass": c2, "blur": c3})


def structure_prior(weight: float, schedule: str, strength: str, clamp: bool, compare: str) -> dict:
    """The share removed is an eps model's, at twice the reference's size where that matters."""
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    area = 1.0 if compare == DIRECTIONS[0] else 4.0
    sigmas = sampling.sigma(torch.tensor(TIMESTEPS)).tolist()
    return _plot(TIMESTEPS, {
        "weight": [weight * schedule_weight(t, schedule) for t in TIMESTEPS],
        "share of the deviation removed": [kappa(weight, t, sigma, "eps", schedule, strength, clamp, area) for t, sigma in zip(TIMESTEPS, sigmas)],
    })


def pixelsmith(guided_steps: int, steps: int, denoise_depth: int, scheduler: str) -> dict:
    timesteps = _timesteps(scheduler, steps, denoise_depth)
    mixed, overwritten = zip(*(follows(step, guided_steps) for step in range(len(timesteps))))
    return _plot(timesteps, {"phases from the guidance": [0.5 * on for on in mixed], "cells from the guidance": [0.5 * on for on in overwritten]})


def latent_adjustment(preset: str, alpha: float, beta: float, early_end: float, late_start: float, boundaries: str, target: str) -> dict:
    """Over the paper's 50 steps."""
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    sigmas = noise_levels(sampling, PAPER_SCHEDULE, 50, 50, True).tolist()
    adjustment = LatentAdjustment(None, *PRESETS.get(preset, (alpha, beta)), early_end, late_start, boundaries, target)
    adjustment.check()
    return _plot([timestep(sampling, sigma) for sigma in sigmas[:-1]], {"share of the reference": adjustment.shares(sigmas, sampling)})


def _timesteps(scheduler, steps, depth):
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    return [timestep(sampling, sigma) for sigma in noise_levels(sampling, scheduler, steps, min(depth, steps), True)[:-1].tolist()]


def _plot(timesteps, curves):
    return {"timesteps": list(timesteps), "curves": {name: list(values) for name, values in curves.items()}}
