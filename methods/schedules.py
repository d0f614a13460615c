"""Noise levels and weights that several methods take from one schedule.

A timestep t is 0..999, as Stable Diffusion and SDXL count: 999 is almost pure noise.
"""

import math

import torch


def cosine_factor(t: float) -> float:
    """(1 + cos(pi (1000 - t) / 1000)) / 2: 1 at full noise, 0 at none."""
    return 0.5 * (1 + math.cos(math.pi * (1000 - t) / 1000))


def alphas_cumprod(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """a of Stable Diffusion's schedule, (1000,): the share of the latent in the variance of a noised one.

    Its betas are linear in their square root, from 0.00085 to 0.012.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).to(dtype)


def diffused(latent: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """sqrt(a) latent + sqrt(1 - a) noise, the forward process; `alpha` broadcasts, (B, 1, 1, 1) for a batch of images."""
    return alpha.sqrt() * latent + (1 - alpha).sqrt() * noise


def ddim_timesteps(steps: int = 50, depth: int | None = None) -> list[int]:
    """DDIM's leading grid with offset 1, 981, 961, ..., 1 for 50 steps; the last `depth` of it."""
    if not 1 <= steps <= 1000:
        raise ValueError(f"steps is {steps}; use 1 to 1000.")
    if depth is not None and not 1 <= depth <= steps:
        raise ValueError(f"depth is {depth}; it counts the last of {steps} steps, so use 1 to {steps}.")
    return [i * (1000 // steps) + 1 for i in reversed(range(steps))][-(depth or steps) :]


def ddim_sigmas(sigmas: torch.Tensor, steps: int = 50, depth: int | None = None, end_at_zero: bool = False) -> torch.Tensor:
    """Noise levels of `ddim_timesteps` and the level after the last step, (depth + 1,).

    sigmas: the model's (1000,) table. DDIM as the pipelines configure it ends at sigma_0, a little
    above zero; `end_at_zero` removes that rest.
    """
    last = torch.zeros_like(sigmas[:1]) if end_at_zero else sigmas[:1]
    return torch.cat([sigmas[ddim_timesteps(steps, depth)], last])
