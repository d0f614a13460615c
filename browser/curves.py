"""Weights over a run's noise levels, for the page's plots: samples of the functions that runs call.

A plot is {"timesteps": [t, ...], "curves": {name: [value at t, ...]}}, t falling from at most 999 (noise)
to 0. A node's widgets say nothing of the model's noise levels; what depends on them is drawn for
Stable Diffusion's.
"""

import math

import comfy.model_sampling

from ..engine.sigmas import PAPER_SCHEDULE, levels_of, noise_levels
from ..methods.demofusion import schedule_weights
from ..methods.latent_adjustment import PRESETS
from ..methods.pixelsmith import follows
from ..methods.pixelsmith_plan import guided_by_level
from ..methods.schedules import DEMOFUSION_RATIO, sd_ratio
from ..methods.structure_prior import kappa, schedule_weight
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.structure_prior import DIRECTIONS

TIMESTEPS = [float(t) for t in range(991, 0, -10)]


def demofusion(skip_exponent: float, dilation_exponent: float, blur_exponent: float) -> dict:
    return _demofusion(TIMESTEPS, (skip_exponent, dilation_exponent, blur_exponent))


def demofusion_sampler(steps: int, strength: float, scheduler: str, skip_exponent: float, dilation_exponent: float, blur_exponent: float) -> dict:
    timesteps = _timesteps(scheduler, steps, strength, DEMOFUSION_RATIO)
    return _demofusion(timesteps[:-1], (skip_exponent, dilation_exponent, blur_exponent))


def _demofusion(timesteps, alphas):
    c1, c2, c3 = zip(*(schedule_weights(t, *alphas) for t in timesteps))
    return _plot(timesteps, {"skip residual": c1, "dilated pass": c2, "blur": c3})


def structure_prior(weight: float, schedule: str, strength: str, clamp: bool, compare: str) -> dict:
    """The share removed is that of the paper's steps, at twice the reference's size where that matters."""
    area = 1.0 if compare == DIRECTIONS[0] else 4.0
    return _plot(TIMESTEPS, {
        "weight": [weight * schedule_weight(t, schedule) for t in TIMESTEPS],
        "share of the deviation removed": [kappa(weight, t, sd_ratio(t), schedule, strength, clamp, area) for t in TIMESTEPS],
    })


def pixelsmith(guided_until: float, steps: int, strength: float, guided_steps: int, scheduler: str) -> dict:
    timesteps = _timesteps(scheduler, steps, strength)[:-1]
    guided = guided_steps or guided_by_level(timesteps, guided_until)
    mixed, overwritten = zip(*(follows(step, guided) for step in range(len(timesteps))))
    return _plot(timesteps, {"phases from the guidance": [0.5 * on for on in mixed], "cells from the guidance": [0.5 * on for on in overwritten]})


def latent_adjustment(preset: str, alpha: float, beta: float, early_end: float, late_start: float, boundaries: str, target: str) -> dict:
    """Over the paper's 50 steps."""
    timesteps = _timesteps(PAPER_SCHEDULE, 50, 1.0)
    adjustment = LatentAdjustment(None, *PRESETS.get(preset, (alpha, beta)), early_end, late_start, boundaries, target)
    adjustment.check()
    return _plot(timesteps[:-1], {"share of the reference": adjustment.shares(timesteps)})


def _timesteps(scheduler, steps, strength, highest=math.inf):
    """Of the noise levels of a run, the one after its last step included."""
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    levels = levels_of(sampling)
    return [levels.timestep(sigma) for sigma in noise_levels(sampling, scheduler, steps, strength, highest=highest).tolist()]


def _plot(timesteps, curves):
    return {"timesteps": list(timesteps), "curves": {name: list(values) for name, values in curves.items()}}
