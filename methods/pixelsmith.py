"""PixelSmith (Tragakis et al., NeurIPS 2024): denoising a canvas patch by patch under guidance.

Latents are scaled (model space), shape (B, C, ..., H, W); everything works on the last two
dimensions. The pipeline steps DDIM on unit-variance latents, x / sqrt(1 + sigma^2). Here x is in the
model's own notation, k-diffusion's x0 + sigma * eps or a flow model's (1 - sigma) x0 + sigma * eps:
a DDIM step is an Euler step in both, and all that mixes two noise levels is rescaled by
`Levels.deviation`. Either way the result is the pipeline's.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .pixelsmith_plan import Sweep, reached
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


KEPT, AVERAGED, TAKEN = 0, 1, 2


def shares(todo: np.ndarray) -> np.ndarray:
    """What happens to the cells of a patch, of which `todo` (h, w), uint8, are still to be written: they are `TAKEN` from
    it, what lies up to `RING` rows and columns from them is `AVERAGED` with what is there, the rest is `KEPT`."""
    return reached(todo) + todo


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
        left = np.ones(x.shape[-2:], dtype=np.uint8)

        def claimed(region):
            """The `shares` of a patch, whose cells are no longer left; None where it is the first on all of them."""
            todo = region.crop(left)
            found = None if todo.all() else torch.from_numpy(shares(todo))
            todo[:] = 0
            return found

        def seen(region, share):
            if not mixes:
                return region.crop(before)
            current, other = region.crop(x), region.crop(reference)
            if share is None:
                return phase_mix(current, other)
            taken = share == TAKEN
            mixed = phase_mix(torch.where(taken, current, current * rescale), other)
            return torch.where(taken, mixed, region.crop(before))

        def write(region, share, stepped, prediction):
            current, kept = region.crop(x), region.crop(denoised)
            if share is None:
                current.copy_(stepped)
                kept.copy_(prediction)
                return
            taken = share == TAKEN
            current.copy_(torch.where(taken, stepped, torch.where(share == AVERAGED, (stepped + current) / 2, current)))
            kept.copy_(torch.where(taken, prediction, kept))

        for wave in sweep.waves:
            patches = [sweep.patches[k] for k in wave]
            regions = [patch.region for patch in patches]
            # patches of a wave that read what is left write into no other's region
            claims = [claimed(region) for region in regions]
            # `claims` outlives these copies, which nothing waits for
            found = [None if claim is None else claim.to(x.device, non_blocking=True) for claim in claims]
            images = [seen(region, share) for region, share in zip(regions, found)]
            for patch, share, image, prediction in zip(patches, found, images, predict(images, regions, i), strict=True):
                stepped = image + (sigma_next - sigma) / sigma * (image - prediction)
                if overwrites:
                    board = checkerboard(patch.region.height, patch.shift, x.device)
                    stepped = torch.where(board, patch.region.crop(reference_next), stepped)
                write(patch.region, share, stepped, prediction)
        if callback is not None:
            callback(i, x, denoised)
    return x
