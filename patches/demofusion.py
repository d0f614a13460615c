"""DemoFusion's global path, skip residual and renormalization on ComfyUI's hooks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import comfy.model_sampling
import torch

from ..engine.latents import fit
from ..engine.sigmas import timestep
from ..engine.step_edits import Edits, Run
from ..engine.views import Axis, View
from ..methods.demofusion import (
    dilated_input,
    dilated_subsets,
    fuse,
    renormalize,
    scatter,
    schedule_weights,
    skip_residual,
    statistics,
)


@dataclass(frozen=True)
class DilatedPass:
    """Every `scale`-th cell of the canvas as a picture of its own, mixed with the local prediction by
    c2 = cf^alpha2.

    scale 0 follows from the `reference` size (height, width, cells); 1 is off. blur_std: the blur of
    the network's input, times c3 = 0.99 cf^alpha3 + 0.01. canvas_pixels: (height, width) told to
    SDXL, the canvas itself by default. patch: cells to the side of a token; that of the model.
    """

    reference: tuple[int, int]
    scale: int = 0
    alpha2: float = 1.0
    alpha3: float = 1.0
    blur_std: float = 0.8
    canvas_pixels: tuple[int, int] | None = None
    patch: int = 1

    def scale_of(self, height: int, width: int) -> int:
        return self.scale or max(1, round(max(height, width) / max(self.reference)))

    def count(self, height: int, width: int) -> int:
        scale = self.scale_of(height, width)
        return 0 if scale == 1 else scale * scale

    def largest(self, height: int, width: int) -> tuple[int, int, int]:
        """(views at once, height, width) to make room for."""
        scale = self.scale_of(height, width)
        return (0, 0, 0) if scale == 1 else (1, *(-(-side // (scale * self.patch)) * self.patch for side in (height, width)))

    def notices(self, levels: list[float], sampling, height: int, width: int) -> Iterator[str]:
        """What a person should know of a run along `levels`."""
        _, c2, _ = schedule_weights(timestep(sampling, levels[0]), alpha2=self.alpha2)
        if len(levels) == 2 and self.scale_of(height, width) > 1 and c2 > 0.9:
            yield "DemoFusion drew this image in its global pass alone: in a run of one step from full noise the regions have no part. Run more steps, or set dilation to 1."

    def fuse(self, call, local: list[torch.Tensor]) -> list[torch.Tensor]:
        """`local` predictions of every guidance branch mixed with the dilated ones."""
        (height, width), x = call.canvas, call.x
        scale = self.scale_of(height, width)
        if scale == 1:
            return local
        _, c2, c3 = schedule_weights(timestep(call.model.model_sampling, call.sigma), alpha2=self.alpha2, alpha3=self.alpha3)
        shown = dilated_input(x, scale, self.blur_std * c3, self.patch)
        pictures = dilated_subsets(shown, scale)
        pixels = self.canvas_pixels or tuple(side * call.cells for side in call.canvas)
        rows, columns = pictures[0].shape[-2:]
        top, left = rows * scale - height, columns * scale - width
        views = [View(Axis(a - top, scale, rows), Axis(b - left, scale, columns), (*pixels, 0, 0, *pixels)) for a in range(scale) for b in range(scale)]
        # the network sees the blurred latent, the step is taken from the sharp one
        sharp = x - shown[..., -height:, -width:]
        denoised = call.views(pictures, views)
        return [mean if branch is None else fuse(mean, sharp + scatter(parts, scale, height, width), c2) for branch, mean, parts in zip(call.conds, local, denoised)]


@dataclass(frozen=True, eq=False)
class SkipResidual:
    """Step edit: x <- (1 - c1) x + c1 (reference at this noise level), c1 = cf^alpha1.

    reference: unscaled samples, resized to the canvas. The noise is the run's own.
    """

    key: ClassVar[str] = "skip_residual"
    rank: ClassVar[int] = 0

    reference: torch.Tensor
    alpha1: float = 3.0

    def __call__(self, run: Run) -> Edits:
        reference = fit(run.model.process_latent_in(self.reference), run.noise)
        noise, sampling = run.noise, run.model.model_sampling
        if not noise.any():  # the sampler was told to add none
            noise = self._noise_of_the_run_before(run, reference)

        def before(x, sigma):
            c1 = schedule_weights(timestep(sampling, float(sigma)), self.alpha1)[0]
            x.copy_(skip_residual(x, sampling.noise_scaling(sigma, noise, reference), c1))

        return Edits(before=before)

    def _noise_of_the_run_before(self, run, reference):
        """What ComfyUI draws from the run's seed. Raises ValueError if the latent clearly holds other noise."""
        noise = torch.randn(run.noise.shape, generator=torch.Generator().manual_seed(run.seed)).to(run.noise)
        level = float(run.sigmas[0])
        flow = isinstance(run.model.model_sampling, comfy.model_sampling.CONST)
        ratio = level / max(1 - level, 1e-6) if flow else level
        if run.latent_image is None or not run.latent_image.any() or schedule_weights(timestep(run.model.model_sampling, level), self.alpha1)[0] < 1e-4:
            return noise
        found = run.latent_image - reference
        together = float((found * noise).sum() / (found.norm() * noise.norm()))
        by_chance = 5 / noise.numel() ** 0.5
        if together < by_chance < ratio / float(found.std()) / 1.5:
            raise ValueError(f"The sampler adds no noise, and its seed {run.seed} is not that of the noise in the latent, which DemoFusion needs. Use the seed of the sampler before, or let this one add noise.")
        return noise


@dataclass(frozen=True, eq=False)
class Renormalize:
    """Step edit: the finished latent gets the reference's mean and standard deviation, picture by
    picture. A run that stops early, or keeps a masked part, leaves that untouched.

    reference: unscaled samples of any size.
    """

    key: ClassVar[str] = "renormalize"
    rank: ClassVar[int] = 100

    reference: torch.Tensor

    def __call__(self, run: Run) -> Edits:
        if run.sigmas[-1] > run.model.model_sampling.sigma_min * 1.001:
            return Edits()
        reference = run.model.process_latent_in(self.reference).to(run.noise)
        mean, std = (value.reshape(-1, *[1] * (run.noise.ndim - 1)) for value in statistics(reference))

        def finish(x, level):
            out = renormalize(x, mean, std)
            return out if run.denoise_mask is None else torch.lerp(x, out, run.denoise_mask)

        return Edits(finish=finish)
