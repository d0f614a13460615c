"""PixelSmith as a sampler in ComfyUI's stack.

A sampler function keeps the canvas and its patches. Each level of the plan goes through ComfyUI's
guider as one batch of patches, so that everything on the model applies to them; below the guider the
conditioning of the canvas is cut to them (`PatchStack`).
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP

from ..engine import evaluation, step_edits
from ..engine.controls import check_caches
from ..engine.evaluation import Call
from ..engine.other_packs import network_patches
from ..engine.progress import Progress
from ..engine.side_effects import guidance_that_remembers, with_wrappers
from ..engine.views import Axis, View
from ..methods.noise import seeded_noise, stream
from ..methods.pixelsmith import denoise
from ..methods.pixelsmith_plan import Sweep, plan
from ..methods.regions import Region
from . import regional_denoise as regional

KEY = "loupe_pixelsmith"
PUBLISHED = "published"
SIZES = (*regional.SIZES, PUBLISHED)


class Level(NamedTuple):
    """What an evaluation of stacked patches stands for: `canvas` (B, C, ..., H, W) seen through `views`."""

    canvas: torch.Tensor
    views: list[View]
    progress: Progress


@dataclass(frozen=True)
class PatchStack:
    """The regional part of an evaluation whose x holds patches already, view after view.

    size: of a patch, cells. batch: patches per network call, 0 for what fits in memory.
    """

    size: int
    batch: int = 0

    def count(self, height: int, width: int) -> int:
        return 1

    def largest(self, height: int, width: int) -> tuple[int, int, int]:
        """(patches at once, height, width) to make room for."""
        return max(self.batch, 1), self.size, self.size

    def predict(self, call: Call) -> list[torch.Tensor]:
        """Denoised patches of every guidance branch."""
        level = call.model_options["transformer_options"][KEY]
        canvas = Call(call.executor, call.model, call.conds, level.canvas, call.timestep[: len(level.canvas)], call.model_options, call.state, call.batch)
        canvas.progress = level.progress
        return [torch.cat(patches) for patches in canvas.views(list(call.x.chunk(len(level.views))), level.views)]


def sample_pixelsmith(model, x, sigmas, extra_args=None, callback=None, disable=None, sweeps: Sequence[Sweep] = (), guided_steps: int = 1, sizes: str = "canvas"):
    """k-diffusion style sampler; the guidance is the latent image of the run, noised with its noise.

    sweeps: one for each step. sizes: see `RegionalDenoise`; "published" counts the crop as the
    authors' code does, the patch's column less 512 pixels as row and as column.
    """
    guider = model.inner_model
    latent, noise, mask = model.latent_image, model.noise, extra_args["denoise_mask"]
    flow = isinstance(guider.inner_model.model_sampling, comfy.model_sampling.CONST)
    cells = guider.inner_model.latent_format.spacial_downscale_ratio
    pixels = tuple(side * cells for side in x.shape[-2:])
    options = extra_args["model_options"]
    before = [0, *itertools.accumulate(len(sweep.patches) for sweep in sweeps)]
    progress = Progress(tuple(x.shape[-2:]), len(sweeps), before[-1])

    def view(region):
        ids = published_ids(region, pixels, cells) if sizes == PUBLISHED else regional.size_ids(sizes, region, pixels, cells)
        return View(Axis(region.y, 1, region.height), Axis(region.x, 1, region.width), ids)

    def predict(pictures, regions, step):
        if progress.furthest == before[step]:
            progress.begin(step, before[step], len(sweeps[step].patches))

        def stacked(canvas):
            return torch.cat([region.crop(canvas) for region in regions])

        # ComfyUI mixes a masked picture with its noised original around every evaluation
        patches = comfy.samplers.KSamplerX0Inpaint(guider, sigmas)
        patches.latent_image, patches.noise = stacked(latent), stacked(noise)
        level = Level(x, [view(region) for region in regions], progress)
        denoised = patches(
            torch.cat(pictures),
            sigmas[step].expand(len(pictures) * len(x)),
            denoise_mask=None if mask is None else stacked(mask),
            model_options={**options, "transformer_options": {**options["transformer_options"], KEY: level}},
            seed=extra_args["seed"],
        )
        return denoised.chunk(len(pictures))

    def swept(step, x, denoised):
        if callback is not None:
            callback({"x": x, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": denoised})

    return denoise(predict, latent, noise, sigmas.tolist(), sweeps, guided_steps, flow, swept)


def published_ids(region: Region, pixels: tuple[int, int], cells: int) -> tuple[int, int, int, int, int, int]:
    corner = cells * (region.x + region.width // 2 - 64)
    return (*pixels, corner, corner, *pixels)


def sample(
    model,
    positive: list,
    negative: list,
    guidance: torch.Tensor,
    sigmas: torch.Tensor,
    guided_steps: int,
    cfg: float,
    seed: int,
    patch_size: int = 128,
    order: str = "random",
    sizes: str = "canvas",
    batch: int = 0,
    noise_mask: torch.Tensor | None = None,
    batch_index: list[int] | None = None,
) -> torch.Tensor:
    """Denoises `guidance` (unscaled, (B, C, ..., H, W)) along `sigmas`; returns unscaled samples.

    patch_size: cells. order: see `methods.pixelsmith_plan.plan`. noise_mask: 0 keeps the guidance.

    Raises ValueError for what cannot be planned, for a model that carries this pack's patches, and for
    a flow model whose noise is not unit noise.
    """
    if getattr(model.get_model_object("model_sampling"), "noise_scale", 1.0) != 1.0:
        raise ValueError("model is trained with scaled noise, for which PixelSmith's mixing of noise levels is not defined. Use an eps, v or flow model with unit noise.")
    carried = [key for edits in model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, step_edits.KEY) for key in edits.edits]
    if model.get_wrappers(WrappersMP.CALC_COND_BATCH, evaluation.KEY):
        carried.append("regional patches")
    if carried:
        raise ValueError(f"model carries {', '.join(carried)}, which work on a canvas at one noise level; PixelSmith cuts the canvas itself and holds two levels at a time. Connect the model from before those nodes.")
    options = with_wrappers(model)
    remembering = guidance_that_remembers(options, [patch for _, patch in network_patches(options)])
    if remembering:
        raise ValueError(f"model carries guidance that remembers the evaluation before ({', '.join(remembering)}); in PixelSmith that is one of other patches. Connect the model from before that node, or use Regional Denoise.")
    check_caches(model.model_options)
    height, width = guidance.shape[-2:]
    sweeps = plan(height, width, patch_size, len(sigmas) - 1, guided_steps, seed, order)
    logging.info("PixelSmith: %d patches in %d sweeps, %d one after another", sum(len(sweep.patches) for sweep in sweeps), len(sweeps), sum(len(sweep.levels) for sweep in sweeps))
    noise = seeded_noise(guidance.shape, stream(seed, "PixelSmith noise"), batch_index)
    callback = latent_preview.prepare_callback(model, len(sweeps))
    return sample_planned(model, positive, negative, guidance, noise, sigmas, sweeps, guided_steps, cfg, seed, PatchStack(patch_size, batch), sizes, noise_mask, callback)


def sample_planned(model, positive, negative, guidance, noise, sigmas, sweeps, guided_steps, cfg, seed, patches: PatchStack, sizes="canvas", noise_mask=None, callback=None):
    """`sample` with the sweeps and the noise given."""
    model = evaluation.patch_evaluation(model, regional=patches)
    sampler = comfy.samplers.KSAMPLER(sample_pixelsmith, {"sweeps": sweeps, "guided_steps": guided_steps, "sizes": sizes})
    disable_pbar = not comfy.utils.PROGRESS_BAR_ENABLED
    return comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, positive, negative, guidance, noise_mask=noise_mask, callback=callback, disable_pbar=disable_pbar, seed=seed).float()
