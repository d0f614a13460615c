"""Noise injection of PixelRush (arXiv 2602.12769): fresh noise in the noise that a step removes.

A step of a few-step model averages over what an image may hold and comes out smooth. Part of the noise that it would
remove is therefore exchanged: eps' = slerp(eps, fresh, weight). With lambda, the paper's weight of the prediction, weight
is 1 - lambda. A step to no noise then leaves rho sin(weight pi / 2) of noise in the image.
"""

import torch

LAMBDA = 0.95  # the paper's


def slerp(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """From `start` (weight 0) to `end` (weight 1) along the arc between them, (B, ...), each image for itself.

    The norms are those of the tensors: neither is brought to unit length. A tensor of zeros counts as orthogonal.
    """
    a, b = start.flatten(1).float(), end.flatten(1).float()
    norms = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)
    angle = ((a * b).sum(1) / norms).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    shares = torch.stack([((1 - weight) * angle).sin(), (weight * angle).sin()]) / angle.sin()
    kept, taken = shares.view(2, -1, *[1] * (start.ndim - 1)).to(start)
    return kept * start + taken * end


def inject_noise(x: torch.Tensor, denoised: torch.Tensor, fresh: torch.Tensor, signal: float, noise: float, weight: float) -> torch.Tensor:
    """The prediction, scaled latents (B, ...), that takes slerp(eps, fresh, weight) for the noise eps of the state `x`.

    x: signal x0 + noise eps, signal > 0. fresh: unit noise that `x` does not hold. weight: 0 (nothing) to 1.
    """
    eps = (x - signal * denoised) / noise
    return denoised + noise / signal * (eps - slerp(eps, fresh, weight))
