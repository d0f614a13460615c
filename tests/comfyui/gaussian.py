"""Runs and measures of the models whose network is exact (`benchmarks/gaussian.py`).

Levels are given as rho, noise over signal, and are those of Stable Diffusion's timesteps.
"""

import tiny
import torch
from loupe.benchmarks.gaussian import (
    KINDS,
    SIDE,
    enlarged,
    image,
    model,
    posterior_mean,
    small,
)
from loupe.methods.schedules import sd_ratio

__all__ = ["KINDS", "SIDE", "enlarged", "image", "model", "posterior_mean", "small"]


def sigma_of(kind, rho):
    return rho / (1 + rho) if kind == "flow" else rho


def sigmas_of(kind, levels):
    return torch.tensor([sigma_of(kind, rho) for rho in levels], dtype=torch.float32)


def sample(model, levels, latent, noise, sampler="euler", seed=0):
    """The latent at the end of `levels`, in units of x0."""
    kind = model.model.diffusion_model.kind
    return tiny.sample(model, latent, sampler, cfg=1.0, sigmas=sigmas_of(kind, levels), noise_tensor=noise, seed=seed)


def leading(steps, depth=None):
    """The last `depth` of DDIM's `steps`."""
    return [sd_ratio(1000 // steps * step + 1) for step in reversed(range(depth or steps))] + [0.0]


def trailing(steps, skipped=0):
    """What few-step models walk: 999, 749, 499, 249 for four."""
    return [sd_ratio(1000 * (steps - step) // steps - 1) for step in range(skipped, steps)] + [0.0]


def even(t, steps):
    """From timestep `t` in equal steps."""
    return [sd_ratio(t * (steps - step) / steps) for step in range(steps)] + [0.0]


def rms(x):
    return float(x.double().square().mean().sqrt())


def low_error(x, reference):
    """Of block means."""
    return rms(small(x - reference))


def high_band(x):
    return x - small(x).repeat_interleave(2, -1).repeat_interleave(2, -2)
