"""DemoFusion (Du et al., CVPR 2024) and the denoising of LSRNA (Jeong et al., CVPR 2025).

Latents are scaled (model space) and in k-diffusion's notation, x = x0 + sigma * eps, shape
(B, C, ..., H, W); everything works on the last two dimensions. The pipelines step DDIM on
x / sqrt(1 + sigma^2), which equals Euler on x. A timestep t is 0..999.
"""

import math
import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .regions import Region, RegionLayout, jittered, merge
from .schedules import cosine_factor


def schedule_weights(t: float, alpha1: float = 3.0, alpha2: float = 1.0, alpha3: float = 1.0) -> tuple[float, float, float]:
    """c1 (skip residual), c2 (dilated pass) and c3 (blur) at timestep t."""
    cf = cosine_factor(t)
    return cf**alpha1, cf**alpha2, 0.99 * cf**alpha3 + 0.01


def gaussian_kernel(size: int, std: float, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normalized Gaussian of `size` taps, (size,), `std` in cells. The papers' kernel is its outer product with itself."""
    k = torch.arange(size, device=device, dtype=dtype) - size // 2
    k = torch.exp(-0.5 * (k / std) ** 2)
    return k / k.sum()


def blur(x: torch.Tensor, scale: int, std: float) -> torch.Tensor:
    """Gaussian blur of every channel and frame, kernel 2 * scale - 1 in both directions, zero padding.

    Taps too small for single precision are left out: processors are slow at them.
    """
    reach = min(scale - 1, math.ceil(6 * std))
    kernel = gaussian_kernel(2 * reach + 1, std, x.device, x.dtype)
    planes = x.reshape(-1, 1, *x.shape[-2:])
    planes = F.conv2d(planes, kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(planes, kernel.view(1, 1, 1, -1), padding=(0, reach)).reshape(x.shape)


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased standard deviation of each sample, (B, 1, ..., 1)."""
    dims = tuple(range(1, x.ndim))
    return x.mean(dims, keepdim=True), x.std(dims, keepdim=True)


def renormalize(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """x shifted and scaled, each sample as a whole, to `mean` and `std` (B, 1, ..., 1); one that is even becomes `mean`."""
    x_mean, x_std = statistics(x)
    return (x - x_mean) / x_std.clamp(min=1e-12) * std + mean


def match_statistics(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """x with the mean and standard deviation of each sample of `target`."""
    return renormalize(x, *statistics(target))


def dilated_pad(x: torch.Tensor, scale: int, patch: int = 1) -> torch.Tensor:
    """x zero-padded at the top and left, so that every `scale`-th cell makes whole tokens of `patch` cells."""
    multiple = scale * patch
    return F.pad(x, (-x.shape[-1] % multiple, 0, -x.shape[-2] % multiple, 0))


def dilated_input(x: torch.Tensor, scale: int, std: float, patch: int = 1) -> torch.Tensor:
    """What the dilated pass shows the network: the padded latent blurred, with the statistics of the
    sharp one. `std` is the blur at this step, sigma * c3."""
    x = dilated_pad(x, scale, patch)
    return x if scale == 1 else match_statistics(blur(x, scale, std), x)


def dilated_subsets(x: torch.Tensor, scale: int) -> list[torch.Tensor]:
    """The scale^2 phases x[a::scale, b::scale] of a padded latent, a outermost."""
    return [x[..., a::scale, b::scale] for a in range(scale) for b in range(scale)]


def scatter(subsets: Sequence[torch.Tensor], scale: int, height: int, width: int) -> torch.Tensor:
    """Inverse of `dilated_subsets` after `dilated_pad`: the unpadded (..., height, width) latent."""
    rows, columns = subsets[0].shape[-2:]
    x = subsets[0].new_empty(*subsets[0].shape[:-2], rows * scale, columns * scale)
    for phase, subset in enumerate(subsets):
        x[..., phase // scale :: scale, phase % scale :: scale] = subset
    return x[..., -height:, -width:]


def skip_residual(x: torch.Tensor, noised: torch.Tensor, c1: float) -> torch.Tensor:
    """x pulled towards `noised`, the guidance at the same noise level."""
    return (1 - c1) * x + c1 * noised


def held_residual(deviation: torch.Tensor, before: torch.Tensor, share: float) -> torch.Tensor:
    """Deviation from the guidance, in units of x0, that a skip residual leaves where its steps are of any length.

    before: what it left at the evaluation before; the step since has added the rest of `deviation` at an even pace, while
    `share` of all of it went.
    """
    if share == 1:
        return torch.zeros_like(deviation)
    rate = -math.log1p(-share)
    added = share / rate if rate > 1e-6 else 1.0
    return (1 - share) * before + added * (deviation - before)


def skip_residual_of_fresh_noise(x: torch.Tensor, guidance: torch.Tensor, noise: torch.Tensor, c1: float) -> torch.Tensor:
    """`skip_residual` for a state whose noise is not known: x pulled towards `guidance`, its share of the state, and as
    much fresh `noise`, at the state's level, as keeps the level."""
    return (1 - c1) * x + c1 * guidance + math.sqrt(c1 * (2 - c1)) * noise


def fuse(local: torch.Tensor, dilated: torch.Tensor, c2: float) -> torch.Tensor:
    """Local and dilated predictions, fused before the step: the step is affine in the prediction,
    so this equals fusing the two stepped latents."""
    return (1 - c2) * local + c2 * dilated


def denoise(
    predict_eps: Callable[[torch.Tensor, float, Region | None], torch.Tensor],
    guidance: torch.Tensor,
    noise: torch.Tensor,
    sigmas: Sequence[float],
    timesteps: Sequence[float],
    layout: RegionLayout,
    scale: int,
    jitter: int,
    views: Sequence[Sequence[Region]] | random.Random,
    alphas: tuple[float, float, float] = (3.0, 1.0, 1.0),
    blur_std: float = 0.8,
    callback: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """One high-resolution phase, written out as the papers have it.

    predict_eps(x_in, t, region) is the network: x_in is x / sqrt(1 + sigma^2), region the view in
    jitter-padded cells or None in the dilated pass. guidance, noise: (B, C, ..., H, W). sigmas: one
    more than timesteps. scale: dilation. views: the regions of every step, or the generator to draw
    them from. callback(i, x) runs after each step. Returns x at the last sigma, before the anchor's
    statistics are put back.
    """
    height, width = guidance.shape[-2:]
    weights = layout.weights(guidance.device, guidance.dtype)
    x = guidance + sigmas[0] * noise
    for i, t in enumerate(timesteps):
        c1, c2, c3 = schedule_weights(t, *alphas)
        c_in = (1 + sigmas[i] ** 2) ** -0.5
        x = skip_residual(x, guidance + sigmas[i] * noise, c1)

        regions = jittered(layout, jitter, views) if isinstance(views, random.Random) else views[i]
        padded = F.pad(x, (jitter,) * 4)
        eps = [predict_eps(region.crop(padded) * c_in, t, region) for region in regions]
        local = merge(eps, regions, height, width, weights, jitter)

        subsets = dilated_subsets(dilated_input(x, scale, blur_std * c3), scale)
        dilated = scatter([predict_eps(subset * c_in, t, None) for subset in subsets], scale, height, width)

        x = x + (sigmas[i + 1] - sigmas[i]) * fuse(local, dilated, c2)
        if callback is not None:
            callback(i, x)
    return x
