"""The sampler that runs DemoFusion phase by phase."""

import math
from collections.abc import Callable

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..engine import Canvas, parts_of
from ..engine.evaluation import Engine
from ..engine.latents import resize
from ..engine.progress import Span
from ..methods.noise import seeded_noise, stream
from .demofusion import DilatedPass, patch_demofusion
from .regional_denoise import RegionalDenoise


def phase_sizes(reference: tuple[int, int], target: tuple[int, int], progressive: bool) -> list[tuple[int, int]]:
    """Latent sizes (height, width) that DemoFusion samples: one by one up to the target's multiple of
    the reference, or the target alone."""
    factor = max(1, math.ceil(max(target) / max(reference) - 1e-6))
    if not progressive or factor == 1:
        return [target]
    return [(target[0] * k // factor, target[1] * k // factor) for k in range(2, factor + 1)]


def sample_demofusion(
    model,
    positive: list,
    negative: list,
    reference: torch.Tensor,
    sizes: list[tuple[int, int]],
    sigmas: torch.Tensor,
    cfg: float,
    seed: int,
    regional: RegionalDenoise,
    alphas: tuple[float, float, float] = (3.0, 1.0, 1.0),
    blur_std: float = 0.8,
    enlarge: Callable[[torch.Tensor, tuple[int, int]], torch.Tensor] = lambda samples, size: resize(samples, *size),
    batch_index: list[int] | None = None,
    noise_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Samples `reference` (unscaled, (B, C, ..., h, w)) at each of `sizes`, every phase guided by the
    enlarged result of the one before. Where `noise_mask` is 0 the enlarged latent stays. Returns unscaled
    samples of the last size.
    """
    steps = len(sigmas) - 1
    total = steps * len(sizes)
    preview = latent_preview.prepare_callback(model, total)
    views = [steps * views_of(model, tuple(reference.shape[-2:]), regional, size) for size in sizes]
    samples = reference
    for phase, size in enumerate(sizes):
        guide = enlarge(samples, size)

        def callback(step, denoised, x, _, before=phase * steps):
            preview(before + step, denoised, x, total)

        samples = sample_phase(
            model,
            positive,
            negative,
            reference,
            guide,
            noise=seeded_noise(guide.shape, stream(seed, f"DemoFusion phase {phase}"), batch_index),
            sigmas=sigmas,
            cfg=cfg,
            seed=seed,
            regional=regional,
            alphas=alphas,
            blur_std=blur_std,
            callback=callback,
            noise_mask=noise_mask,
            span=Span(phase * steps, sum(views[:phase]), total, sum(views[phase + 1 :])),
        )
    return samples


def views_of(model, reference: tuple[int, int], regional: RegionalDenoise, size: tuple[int, int]) -> int:
    """Views in one evaluation of a phase of `size`, from a `reference` of (height, width) cells."""
    parts = {part.key: part for part in (regional, DilatedPass(reference))}
    return Engine({**parts_of(model), **parts}).count(model.model, Canvas.of(model.model, *size))


def sample_phase(
    model,
    positive: list,
    negative: list,
    reference: torch.Tensor,
    guide: torch.Tensor,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    cfg: float,
    seed: int,
    regional: RegionalDenoise,
    alphas: tuple[float, float, float] = (3.0, 1.0, 1.0),
    blur_std: float = 0.8,
    callback: Callable | None = None,
    noise_mask: torch.Tensor | None = None,
    span: Span | None = None,
) -> torch.Tensor:
    """One phase: `guide` (unscaled) noised, denoised along `sigmas` with DemoFusion's patches and
    renormalized to `reference`."""
    model = patch_demofusion(
        model,
        reference,
        guide,
        alphas=alphas,
        blur_std=blur_std,
        renormalize=True,
        canvas_pixels=regional.canvas_pixels,
        parts=(regional,),
        span=span,
    )
    return comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        negative,
        guide,
        noise_mask=noise_mask,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    ).float()
