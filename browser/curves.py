"""Weights over a run's noise levels, for the page's plots: samples of the functions that runs call.

A plot is {"timesteps": [t, ...], "curves": {name: [value at t, ...]}}, t falling from at most 999 (noise)
to 0. A node's widgets say nothing of the model's noise levels: without the levels of a `run`, what depends on them is
drawn for Stable Diffusion's. With them a value is what the step from t takes.
"""

import math
from collections.abc import Callable

import comfy.model_sampling

from ..engine.sigmas import PAPER_SCHEDULE, levels_of, noise_levels
from ..methods.demofusion import schedule_weights
from ..methods.latent_adjustment import PRESETS
from ..methods.pixelsmith import follows
from ..methods.pixelsmith_plan import guided_by_level
from ..methods.schedules import DEMOFUSION_RATIO, RunLevels
from ..methods.structure_prior import RUN_SCHEDULES, kappa, run_weight, schedule_weight
from ..patches.latent_adjustment import LatentAdjustment
from ..patches.structure_prior import DIRECTIONS

TIMESTEPS = [float(t) for t in range(991, 0, -10)]
SCHEDULE = ("steps", "strength", "scheduler")  # widgets of samplers that set the levels of their runs


def demofusion(skip_exponent: float, dilation_exponent: float, blur_exponent: float, run: RunLevels | None = None) -> dict:
    timesteps = _starts(run)
    alphas = skip_exponent, dilation_exponent, blur_exponent
    _, c2, c3 = zip(*(schedule_weights(t, *alphas) for t in timesteps))
    c1 = _shares(lambda t: schedule_weights(t, *alphas)[0], run)
    if run and not run.published and run.timesteps[-1] == 0:
        c1[-1] = 0.0  # due when a next step starts
    return _plot(timesteps, {"skip residual": c1, "dilated pass": c2, "blur": c3})


def demofusion_sampler(steps: int, strength: float, scheduler: str, skip_exponent: float, dilation_exponent: float, blur_exponent: float, run: RunLevels | None = None) -> dict:
    return demofusion(skip_exponent, dilation_exponent, blur_exponent, run or _stable_diffusion(scheduler, steps, strength, DEMOFUSION_RATIO))


def structure_prior(weight: float, schedule: str, mode: str, clamp: bool, compare: str, run: RunLevels | None = None) -> dict:
    """Comparing at the reference's size, which only a run knows, at twice that."""
    timesteps = _starts(run)
    area = 1.0 if compare == DIRECTIONS[0] else 4.0
    ratio_at = (run or _stable_diffusion()).model.ratio_at
    if schedule in RUN_SCHEDULES:  # without a run, of one over all levels
        ratios = [ratio_at(t) for t in timesteps]
        return _plot(timesteps, {"weight": [weight * run_weight(schedule, i, len(ratios), ratio, ratios[0]) for i, ratio in enumerate(ratios)]})
    return _plot(timesteps, {
        "weight": [weight * schedule_weight(t, schedule) for t in timesteps],
        "share of the deviation removed": _shares(lambda t: kappa(weight, t, ratio_at(t), schedule, mode, clamp, area), run),
    })


def pixelsmith(guided_until: float, steps: int, strength: float, guided_steps: int, scheduler: str, run: RunLevels | None = None) -> dict:
    timesteps = _starts(run or _stable_diffusion(scheduler, steps, strength))
    guided = guided_steps or guided_by_level(timesteps, guided_until)
    mixed, overwritten = zip(*(follows(step, guided) for step in range(len(timesteps))))
    return _plot(timesteps, {"phases from the guide": [0.5 * on for on in mixed], "cells from the guide": [0.5 * on for on in overwritten]})


def latent_adjustment(preset: str, alpha: float, beta: float, early_end: float, late_start: float, boundaries: str, target: str, run: RunLevels | None = None) -> dict:
    """Without a run, over the paper's 50 steps."""
    run = run or _stable_diffusion()
    adjustment = LatentAdjustment(None, *PRESETS.get(preset, (alpha, beta)), early_end, late_start, boundaries, target)
    adjustment.check()
    return _plot(_starts(run), {"share of the reference": adjustment.shares(run.timesteps)})


def _stable_diffusion(scheduler: str = PAPER_SCHEDULE, steps: int = 50, strength: float = 1.0, highest: float = math.inf) -> RunLevels:
    """A run of it."""
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    levels = levels_of(sampling)
    return RunLevels([levels.timestep(sigma) for sigma in noise_levels(sampling, scheduler, steps, strength, highest=highest).tolist()], levels)


def _starts(run: RunLevels | None) -> list[float]:
    return run.timesteps[:-1] if run else TIMESTEPS


def _shares(share: Callable[[float], float], run: RunLevels | None) -> list[float]:
    return run.shares(share) if run else [share(t) for t in TIMESTEPS]


def _plot(timesteps, curves):
    return {"timesteps": list(timesteps), "curves": {name: list(values) for name, values in curves.items()}}
