"""ClearSR's latent space adjustment (LSA; arXiv 2410.14279).

Early steps pull the latent towards that of the low-resolution image (ELA), which keeps it faithful;
late steps push it away (LLA), which sharpens detail. Both are (1 - c) x + c x_lr, with c = alpha early
and c = -beta late.
"""

import torch

PRESETS = {"ClearSR": (0.01, 0.01), "fidelity": (0.03, 0.01)}  # alpha, beta


def shares_by_step(steps: int, alpha: float, beta: float, early_end: float = 0.2, late_start: float = 0.8) -> list[float]:
    """c of each of `steps` steps; early_end and late_start are fractions of them.

    The paper reads both off a quality curve and gives no number; it works with about ten late steps of 50.
    """
    early, late = round(early_end * steps), round(late_start * steps)
    return [alpha if i < early else -beta if i >= late else 0.0 for i in range(steps)]


def shares_by_sigma(sigmas: list[float], alpha: float, beta: float, early_above: float, late_below: float) -> list[float]:
    """c of each step of the schedule `sigmas` (one more than steps), by the noise level that it starts from."""
    return [alpha if sigma > early_above else -beta if sigma <= late_below else 0.0 for sigma in sigmas[:-1]]


def adjust(x: torch.Tensor, reference: torch.Tensor, share: float | torch.Tensor, sigma: float = 0.0) -> torch.Tensor:
    """(1 - c) x + c sqrt(1 + sigma^2) x_lr, for c = `share`, scaled latents.

    sigma: noise level of a state x = x0 + sigma * eps. 0 for a predicted or finished latent, for
    flow's state (1 - sigma) x0 + sigma eps and for the variance-preserving x / sqrt(1 + sigma^2).
    """
    return torch.lerp(x, reference * (1 + sigma**2) ** 0.5, share)
