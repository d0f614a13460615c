"""DemoFusion as patches on a MODEL, and the sampler that runs them phase by phase."""

import math
from collections.abc import Callable

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..engine.evaluation import patch_evaluation
from ..engine.latents import resize
from ..engine.sigmas import paper_schedule
from ..engine.step_edits import patch_step_edits
from ..methods.noise import seeded_noise, stream
from .demofusion import DilatedPass, Renormalize, SkipResidual
from .regional_denoise import RegionalDenoise

PAPER_SCHEDULE = "ddim (paper)"
SCHEDULES = [PAPER_SCHEDULE, *comfy.samplers.SCHEDULER_NAMES]


def patch_demofusion(
    model,
    reference: torch.Tensor,
    guidance: torch.Tensor | None = None,
    scale: int = 0,
    alphas: tuple[float, float, float] = (3.0, 1.0, 1.0),
    blur_std: float = 0.8,
    renormalize: bool = False,
    canvas_pixels: tuple[int, int] | None = None,
    **evaluation,
):
    """Clone of `model` with the dilated pass and the skip residual towards `guidance`, by default the
    enlarged `reference`; both unscaled. `evaluation`: other fields of `Evaluation`."""
    dilated = DilatedPass(tuple(reference.shape[-2:]), scale, *alphas[1:], blur_std, canvas_pixels)
    edits = [SkipResidual(reference if guidance is None else guidance, alphas[0])]
    if renormalize:
        edits.append(Renormalize(reference))
    return patch_step_edits(patch_evaluation(model, dilated=dilated, **evaluation), *edits)


def phase_sizes(reference: tuple[int, int], target: tuple[int, int], progressive: bool) -> list[tuple[int, int]]:
    """Latent sizes (height, width) that DemoFusion samples: one by one up to the target's multiple of
    the reference, or the target alone."""
    factor = max(1, math.ceil(max(target) / max(reference) - 1e-6))
    if not progressive or factor == 1:
        return [target]
    return [(target[0] * k // factor, target[1] * k // factor) for k in range(2, factor + 1)]


def schedule(model, name: str, steps: int, depth: int, end_at_zero: bool) -> torch.Tensor:
    """The last `depth` of `steps` noise levels of `model` and the one after them, (depth + 1,)."""
    return noise_levels(model.get_model_object("model_sampling"), name, steps, depth, end_at_zero)


def noise_levels(sampling, name: str, steps: int, depth: int, end_at_zero: bool) -> torch.Tensor:
    """`schedule` for a model sampling of ComfyUI."""
    if name == PAPER_SCHEDULE:
        return paper_schedule(sampling, steps, depth, end_at_zero)
    sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps)[-(depth + 1) :]
    return sigmas if end_at_zero else torch.cat([sigmas[:-1], sampling.sigma_min.reshape(1).to(sigmas)])


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
    dilated = DilatedPass(tuple(reference.shape[-2:]))
    pictures = [steps * (regional.count(*size) + dilated.count(*size)) for size in sizes]
    samples = reference
    for phase, size in enumerate(sizes):
        guidance = enlarge(samples, size)
        noise = seeded_noise(guidance.shape, stream(seed, f"DemoFusion phase {phase}"), batch_index)

        def callback(step, denoised, x, _, before=phase * steps):
            preview(before + step, denoised, x, total)

        samples = sample_phase(model, positive, negative, reference, guidance, noise, sigmas, cfg, seed, regional, alphas, blur_std, callback, noise_mask, steps_before=phase * steps, steps_total=total, later=sum(pictures[phase + 1 :]))
    return samples


def sample_phase(model, positive, negative, reference, guidance, noise, sigmas, cfg, seed, regional, alphas=(3.0, 1.0, 1.0), blur_std=0.8, callback=None, noise_mask=None, **progress):
    """One phase: `guidance` (unscaled) noised, denoised along `sigmas` with DemoFusion's patches and
    renormalized to `reference`."""
    model = patch_demofusion(model, reference, guidance, 0, alphas, blur_std, True, regional.canvas_pixels, regional=regional, **progress)
    sampler = comfy.samplers.sampler_object("euler")
    disable_pbar = not comfy.utils.PROGRESS_BAR_ENABLED
    return comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, positive, negative, guidance, noise_mask=noise_mask, callback=callback, disable_pbar=disable_pbar, seed=seed).float()
