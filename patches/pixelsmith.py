"""PixelSmith as a sampler in ComfyUI's stack.

A sampler function keeps the canvas and its patches. Each wave of the plan goes through ComfyUI's
guider as one batch of patches, so that everything on the model applies to them; below the guider the
conditioning of the canvas is cut to them (`PixelSmith`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from tqdm.auto import tqdm

from ..engine import Part, Work, parts_of, with_parts
from ..engine.controls import check_caches
from ..engine.other_packs import network_patches
from ..engine.progress import Progress
from ..engine.side_effects import guidance_that_remembers, with_wrappers
from ..engine.sigmas import levels_of
from ..engine.views import Axis, View
from ..methods.noise import seeded_noise, stream
from ..methods.pixelsmith import denoise
from ..methods.pixelsmith_plan import Sweep, guided_by_level, plan
from ..methods.regions import Region
from . import regional_denoise

KEY = "loupe_pixelsmith"
PUBLISHED = "published"
SIZES = (*regional_denoise.SIZES, PUBLISHED)


class Wave(NamedTuple):
    """What an evaluation of stacked patches stands for: `canvas` (B, C, ..., H, W) seen through `views`."""

    canvas: torch.Tensor
    views: list[View]
    progress: Progress


@dataclass(frozen=True)
class PixelSmith(Part):
    """Evaluates an x that holds patches already, view after view.

    size: of a patch, cells. regions_per_call: patches in one network call, 0 for what fits into memory.
    """

    title: ClassVar[str] = "PixelSmith"
    key: ClassVar[str] = "pixelsmith"
    rank: ClassVar[int] = 30

    size: int
    regions_per_call: int = 0

    def works(self, model, canvas, sigma, inner):
        return [Work("patches", self.regions_per_call or 1, self.size, self.size)]

    def evaluate(self, call, inner):
        """Denoised patches of every guidance branch."""
        wave = call.options[KEY]
        patches = call.on(wave.canvas, wave.progress).predict_views(list(call.x.chunk(len(wave.views))), wave.views)
        return [torch.cat(branch) for branch in patches]


def sample_pixelsmith(model, x, sigmas, extra_args=None, callback=None, disable=None, sweeps: Sequence[Sweep] = (), guided_steps: int = 1, sizes: str = "canvas"):
    """k-diffusion style sampler; the guidance is the latent image of the run, noised with its noise.

    sweeps: one for each step. sizes: see `RegionalDenoise`; "published" counts the crop as the
    authors' code does, the patch's column less 512 pixels as row and as column.
    """
    guider = model.inner_model
    latent, noise, mask = model.latent_image, model.noise, extra_args["denoise_mask"]
    levels = levels_of(guider.inner_model.model_sampling)
    pixels_per_cell = guider.inner_model.latent_format.spacial_downscale_ratio
    pixels = tuple(side * pixels_per_cell for side in x.shape[-2:])
    options = extra_args["model_options"]
    progress = Progress(tuple(x.shape[-2:]), [len(sweep.patches) for sweep in sweeps])
    bar = tqdm(total=progress.end, unit="patch", disable=disable)

    def view(region):
        ids = published_ids(region, pixels, pixels_per_cell) if sizes == PUBLISHED else regional_denoise.size_ids(sizes, region, pixels, pixels_per_cell)
        return View(Axis(region.y, 1, region.height), Axis(region.x, 1, region.width), ids)

    def predict(images, regions, step):
        if progress.furthest == progress.before[step]:
            progress.begin(step)

        def stacked(canvas):
            return torch.cat([region.crop(canvas) for region in regions])

        # ComfyUI mixes a masked image with its noised original around every evaluation
        patches = comfy.samplers.KSamplerX0Inpaint(guider, sigmas)
        if mask is not None:
            patches.latent_image, patches.noise = stacked(latent), stacked(noise)
        wave = Wave(x, [view(region) for region in regions], progress)
        denoised = patches(
            torch.cat(images),
            sigmas[step].expand(len(images) * len(x)),
            denoise_mask=None if mask is None else stacked(mask),
            model_options={**options, KEY: wave},
            seed=extra_args["seed"],
        )
        bar.update(len(images))
        return denoised.chunk(len(images))

    def swept(step, x, denoised):
        if callback is not None:
            callback({"x": x, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": denoised})

    with bar:
        return denoise(predict, latent, noise, sigmas.tolist(), sweeps, guided_steps, levels, swept)


def published_ids(region: Region, pixels: tuple[int, int], pixels_per_cell: int) -> tuple[int, int, int, int, int, int]:
    corner = pixels_per_cell * (region.x + region.width // 2 - 64)
    return (*pixels, corner, corner, *pixels)


def guided_steps_of(model, sigmas: torch.Tensor, until: float) -> int:
    """Steps of a run of `model` (ModelPatcher) along `sigmas` that follow the guidance; see `guided_by_level`."""
    levels = levels_of(model.get_model_object("model_sampling"))
    return guided_by_level([levels.timestep(sigma) for sigma in sigmas[:-1].tolist()], until)


def sample(
    model,
    positive: list,
    negative: list,
    guide: torch.Tensor,
    sigmas: torch.Tensor,
    guided_steps: int,
    cfg: float,
    seed: int,
    patch_size: int = 128,
    order: str = "random",
    sizes: str = "canvas",
    regions_per_call: int = 0,
    noise_mask: torch.Tensor | None = None,
    batch_index: list[int] | None = None,
) -> torch.Tensor:
    """Denoises `guide` (unscaled, (B, C, ..., H, W)) along `sigmas`; returns unscaled samples.

    patch_size: cells. order: see `methods.pixelsmith_plan.plan`. noise_mask: 0 keeps the guide.

    Raises ValueError for what cannot be planned, for a model that carries this pack's patches, and for
    a flow model whose noise is not unit noise.
    """
    _check(model)
    height, width = guide.shape[-2:]
    sweeps = plan(height, width, patch_size, len(sigmas) - 1, guided_steps, seed, order)
    logging.getLogger("loupe").info("Loupe: PixelSmith draws %d patches in %d sweeps, %d one after another", sum(len(sweep.patches) for sweep in sweeps), len(sweeps), sum(len(sweep.waves) for sweep in sweeps))
    return sample_planned(
        model,
        positive,
        negative,
        guide,
        noise=seeded_noise(guide.shape, stream(seed, "PixelSmith noise"), batch_index),
        sigmas=sigmas,
        sweeps=sweeps,
        guided_steps=guided_steps,
        cfg=cfg,
        seed=seed,
        patches=PixelSmith(patch_size, regions_per_call),
        sizes=sizes,
        noise_mask=noise_mask,
        callback=latent_preview.prepare_callback(model, len(sweeps)),
    )


def _check(model):
    if getattr(model.get_model_object("model_sampling"), "noise_scale", 1.0) != 1.0:
        raise ValueError("model is trained with scaled noise, for which PixelSmith's mixing of noise levels is not defined. Use an eps, v or flow model with unit noise.")
    carried = [part.title for part in parts_of(model).values()]
    if carried:
        raise ValueError(f"model carries {', '.join(carried)}, which work on a canvas at one noise level; PixelSmith cuts the canvas itself and holds two levels at a time. Connect the model from before those nodes.")
    options = with_wrappers(model)
    remembering = guidance_that_remembers(options, [patch for _, patch in network_patches(options)])
    if remembering:
        raise ValueError(f"model carries guidance that remembers the previous evaluation ({', '.join(remembering)}); PixelSmith evaluates different patches each time. Connect the model from before that node, or use Regional Denoise.")
    check_caches(model.model_options)


def sample_planned(
    model,
    positive: list,
    negative: list,
    guide: torch.Tensor,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    sweeps: Sequence[Sweep],
    guided_steps: int,
    cfg: float,
    seed: int,
    patches: PixelSmith,
    sizes: str = "canvas",
    noise_mask: torch.Tensor | None = None,
    callback: Callable | None = None,
) -> torch.Tensor:
    """`sample` with the sweeps and the noise given."""
    return comfy.sample.sample_custom(
        with_parts(model, patches),
        noise,
        cfg,
        comfy.samplers.KSAMPLER(sample_pixelsmith, {"sweeps": sweeps, "guided_steps": guided_steps, "sizes": sizes}),
        sigmas,
        positive,
        negative,
        guide,
        noise_mask=noise_mask,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    ).float()
