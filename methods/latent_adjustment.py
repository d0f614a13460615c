"""ClearSR's latent space adjustment (LSA; arXiv 2410.14279).

Early steps pull the latent towards that of the low-resolution image (ELA), which keeps it faithful;
late steps push it away (LLA), which sharpens detail. Both are (1 - c) x + c x_lr, with c = alpha early
and c = -beta late.
"""

import math

import torch

from .schedules import INTERVAL, published

START = 981  # first timestep of the paper's 50 steps
PRESETS = {"ClearSR": (0.01, 0.01), "fidelity": (0.03, 0.01)}  # alpha, beta


def shares_by_step(steps: int, alpha: float, beta: float, early_end: float = 0.2, late_start: float = 0.8) -> list[float]:
    """c of each of `steps` steps; early_end and late_start are fractions of them.

    The paper reads both off a quality curve and gives no number; it works with about ten late steps of 50.
    """
    early, late = round(early_end * steps), round(late_start * steps)
    return [alpha if i < early else -beta if i >= late else 0.0 for i in range(steps)]


def shares_by_level(timesteps: list[float], alpha: float, beta: float, early_end: float = 0.2, late_start: float = 0.8) -> list[float]:
    """c of each step of a run whose levels have these `timesteps` (one more than steps), 0..999.

    early_end and late_start are fractions of the paper's 50 steps, whatever the run's are: with 0.2 and 0.8 the levels
    above 781 are early and those from 181 on late. A step takes the part of each that it covers.
    """
    early, late = START - 1000 * early_end if early_end else math.inf, START - 1000 * late_start

    def share(t, t_next):
        pulls, pushes = max(t - max(t_next, early), 0) / INTERVAL, max(min(t, late) - t_next, 0) / INTERVAL
        return 1 - (1 - alpha) ** pulls - ((1 + beta) ** pushes - 1)

    if published(timesteps):
        return [alpha if t > early else -beta if t <= late else 0.0 for t in timesteps[:-1]]
    return [share(t, t_next) for t, t_next in zip(timesteps, timesteps[1:])]


def adjust(x: torch.Tensor, reference: torch.Tensor, share: float | torch.Tensor, deviation: float = 1.0) -> torch.Tensor:
    """(1 - c) x + c N x_lr, for c = `share`, scaled latents.

    deviation: N, the standard deviation of a state whose latent and noise have 1: sqrt(1 + sigma^2) for x0 + sigma eps,
    hypot(sigma, 1 - sigma) for flow's (1 - sigma) x0 + sigma eps, 1 for the paper's variance-preserving state and for a
    predicted or finished latent.
    """
    return torch.lerp(x, reference * deviation, share)
