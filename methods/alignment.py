"""Two-stage alignment of a latent denoiser with a frozen implicit decoder (Kim & Kim, CVPR 2024, equations 7-9).

The decoder has only ever seen latents that come from images. A denoiser trained on latents alone leaves errors that
look small there and large in the image; so it is trained on, with the image decoded from its prediction compared to
the true one as well. Latents are scaled, x_t = sqrt(a) x_0 + sqrt(1 - a) eps with a = alphas_cumprod[t].
"""

import math
from typing import NamedTuple

import torch


class AlignmentLoss(NamedTuple):
    """The loss to minimize, and its terms for each image (B,)."""

    total: torch.Tensor
    latent: torch.Tensor
    image: torch.Tensor


def signal_to_noise(alphas_cumprod: torch.Tensor, limit: float = math.inf) -> torch.Tensor:
    """a / (1 - a), which is 1 / sigma^2 in k-diffusion's terms, at most `limit`.

    The paper sets no limit; near t = 0 its weight exceeds 1000 and a few almost clean images rule the batch.
    """
    return (alphas_cumprod / (1 - alphas_cumprod)).clamp(max=limit)


def predicted_latent(noisy: torch.Tensor, eps: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """The clean latent (B, ...) that the noise prediction `eps` implies; alphas_cumprod (B,)."""
    a = _per_image(alphas_cumprod, noisy)
    return (noisy - (1 - a).sqrt() * eps) / a.sqrt()


def alignment_loss(
    latent: torch.Tensor,
    predicted: torch.Tensor,
    image: torch.Tensor,
    decoded: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    *,
    limit: float = math.inf,
    latent_weight: float = 1.0,
    image_weight: float = 1.0,
) -> AlignmentLoss:
    """Equation 9: latent_weight * L_dm + image_weight * L_recon, mean over the batch.

    latent, predicted: true and predicted clean latents of one shape (B, C, h, w). image, decoded: true values and
    those decoded from `predicted`, of one shape (B, ...), at any output size or any part of it. Every term is
    SNR(t) * mean squared difference, SNR at most `limit`; without a limit L_dm is the mean squared error of eps.
    """
    for name, a, b in (("predicted", latent, predicted), ("decoded", image, decoded)):
        if a.shape != b.shape:
            raise ValueError(f"{name} is {tuple(b.shape)}; expected {tuple(a.shape)}, the shape of what it is compared with.")
    weight = signal_to_noise(alphas_cumprod, limit)
    terms = [weight * (a - b).square().flatten(1).mean(1) for a, b in ((latent, predicted), (image, decoded))]
    return AlignmentLoss((latent_weight * terms[0] + image_weight * terms[1]).mean(), *terms)


def _per_image(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
