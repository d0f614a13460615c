"""PixelSmith (Tragakis et al., NeurIPS 2024): denoising a canvas patch by patch under guidance.

Latents are scaled (model space), shape (B, C, ..., H, W); everything works on the last two
dimensions. The pipeline steps DDIM on unit-variance latents, x / sqrt(1 + sigma^2). Here x is in the
model's own notation, k-diffusion's x0 + sigma * eps or a flow model's (1 - sigma) x0 + sigma * eps:
a DDIM step is an Euler step in both, and all that mixes two noise levels is rescaled by
`Levels.deviation`. Either way the result is the pipeline's.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .pixelsmith_plan import RING, Sweep
from .regions import Region
from .schedules import Levels


def noised(latent: torch.Tensor, noise: torch.Tensor, sigma: float, levels: Levels = Levels()) -> torch.Tensor:
    """`latent` with unit `noise` at level `sigma`."""
    return levels.signal(sigma) * latent + levels.noise(sigma) * noise


def phase_mix(x: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """x with the magnitudes of its spectrum, and phases halfway between its own and those of `guidance`.

    Where the phases are opposite the bisector is undefined and rounding decides it.
    """
    spectrum = torch.fft.rfft2(x, norm="ortho")
    own, other = (torch.polar(torch.ones_like(angle), angle) for angle in (spectrum.angle(), torch.fft.rfft2(guidance, norm="ortho").angle()))
    mixed = torch.polar(spectrum.abs(), (own + other).angle())
    return torch.fft.irfft2(mixed, s=x.shape[-2:], norm="ortho")


def checkerboard(size: int, shift: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(size, size) bool, true where row + column + shift is even."""
    k = torch.arange(size, device=device)
    return (k[:, None] + k + shift) % 2 == 0


def ring(todo: torch.Tensor) -> torch.Tensor:
    """(h, w) bool: cells outside `todo`, up to `RING` rows and columns from it."""
    return (F.max_pool2d(todo[None].float(), 2 * RING + 1, stride=1, padding=RING)[0] > 0) & ~todo


def follows(step: int, guided_steps: int) -> tuple[bool, bool]:
    """Whether a step mixes its phases with the guidance's, and whether half of what it has advanced is
    overwritten by the guidance."""
    # the published first sweep mixes the latent with itself
    return 0 < step < guided_steps, step < guided_steps - 1


def denoise(
    predict: Callable[[list[torch.Tensor], list[Region], int], Sequence[torch.Tensor]],
    guidance: torch.Tensor,
    noise: torch.Tensor,
    sigmas: Sequence[float],
    sweeps: Sequence[Sweep],
    guided_steps: int,
    levels: Levels = Levels(),
    callback: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """The canvas denoised along `sigmas`, one sweep a step.

    predict(images, regions, step) is the network with guidance applied: denoised predictions of
    images at noise level sigmas[step], in a batch of any size. guidance, noise: (B, C, ..., H, W).
    sigmas: one more than sweeps, the last 0 as published. guided_steps: how many steps from the
    first take from the guidance (1 only starts from it). callback(step, x, denoised) runs after each
    sweep with the predictions that were kept. Returns x at the last sigma.
    """
    x = noised(guidance, noise, sigmas[0], levels)
    denoised = torch.empty_like(x)
    for i, sweep in enumerate(sweeps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        mixes, overwrites = follows(i, guided_steps)
        reference = noised(guidance, noise, sigma, levels) if mixes else None
        reference_next = noised(guidance, noise, sigma_next, levels) if overwrites else None
        rescale = levels.deviation(sigma) / levels.deviation(sigma_next)

        before = x.clone()
        advanced = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)

        def seen(region):
            image = region.crop(before)
            if not mixes:
                return image
            done = region.crop(advanced)
            current = region.crop(x)
            mixed = phase_mix(torch.where(done, current * rescale, current), region.crop(reference))
            return torch.where(done, image, mixed)

        for wave in sweep.waves:
            patches = [sweep.patches[k] for k in wave]
            regions = [patch.region for patch in patches]
            images = [seen(region) for region in regions]
            for patch, image, prediction in zip(patches, images, predict(images, regions, i), strict=True):
                region = patch.region
                stepped = image + (sigma_next - sigma) / sigma * (image - prediction)
                if overwrites:
                    stepped = torch.where(checkerboard(region.height, patch.shift, x.device), region.crop(reference_next), stepped)
                todo = ~region.crop(advanced)
                current = region.crop(x)
                current.copy_(torch.where(todo, stepped, torch.where(ring(todo), (stepped + current) / 2, current)))
                region.crop(denoised).copy_(torch.where(todo, prediction, region.crop(denoised)))
                region.crop(advanced).fill_(True)
        if callback is not None:
            callback(i, x, denoised)
    return x
