"""DemoFusion's global path, skip residual and renormalization as parts."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..engine import Edits, Part, Work, with_parts
from ..engine.latents import fit
from ..engine.progress import Span
from ..engine.sigmas import levels_of
from ..engine.views import Axis, View
from ..methods.demofusion import (
    dilated_input,
    dilated_subsets,
    fuse,
    held_residual,
    renormalize,
    scatter,
    schedule_weights,
    skip_residual,
    skip_residual_of_fresh_noise,
    statistics,
)
from ..methods.noise import seeded_noise, stream
from ..methods.schedules import cosine_factor

PURE_NOISE = 1 / 16  # share of x0 below which a state holds nothing but the reference and noise


def patch_demofusion(
    model,
    reference: torch.Tensor,
    guide: torch.Tensor | None = None,
    scale: int = 0,
    alphas: tuple[float, float, float] = (3.0, 1.0, 1.0),
    blur_std: float = 0.8,
    renormalize: bool = False,
    canvas_pixels: tuple[int, int] | None = None,
    parts: tuple[Part, ...] = (),
    span: Span | None = None,
):
    """Clone of `model` with the dilated pass and the skip residual towards `guide`, by default the
    enlarged `reference`; both unscaled. `parts`: further ones."""
    dilated = DilatedPass(tuple(reference.shape[-2:]), scale, *alphas[1:], blur_std, canvas_pixels)
    skip = SkipResidual(reference if guide is None else guide, alphas[0])
    return with_parts(model, dilated, skip, *([Renormalize(reference)] if renormalize else []), *parts, span=span)


@dataclass(frozen=True)
class DilatedPass(Part):
    """Every `scale`-th cell of the canvas as an image of its own, mixed with the local prediction by
    c2 = cf^alpha2.

    scale 0 follows from the `reference` size (height, width, cells); 1 is off. blur_std: the blur of
    the network's input, times c3 = 0.99 cf^alpha3 + 0.01. canvas_pixels: (height, width) told to
    SDXL, the canvas itself by default. least: weight c2 below which the pass is left out.

    On the papers' grids noise predictions are mixed, elsewhere clean ones: what the blur takes out of the noise would
    stay in the image where steps are long.
    """

    title: ClassVar[str] = "DemoFusion's dilated pass"
    key: ClassVar[str] = "dilated_pass"
    rank: ClassVar[int] = 10

    reference: tuple[int, int]
    scale: int = 0
    alpha2: float = 1.0
    alpha3: float = 1.0
    blur_std: float = 0.8
    canvas_pixels: tuple[int, int] | None = None
    least: float = 0.0

    def scale_of(self, size: tuple[int, int]) -> int:
        """For a canvas of `size` cells."""
        return self.scale or max(1, round(max(size) / max(self.reference)))

    def works(self, model, canvas, sigma, inner):
        scale = self.scale_of(canvas.size)
        if scale == 1:
            return inner
        if self.least and sigma is not None:
            _, c2, _ = schedule_weights(levels_of(model.model_sampling).timestep(sigma), alpha2=self.alpha2)
            if c2 < self.least:
                return inner
        height, width = (-(-side // (scale * canvas.patch)) * canvas.patch for side in canvas.size)
        return [*inner, Work("dilated views", scale * scale, height, width)]

    def notices(self, run):
        if run.size is None or not run.steps:
            return
        _, c2, _ = schedule_weights(run.timesteps[0], alpha2=self.alpha2)
        if run.steps == 1 and self.scale_of(run.size) > 1 and c2 > 0.9:
            yield "DemoFusion drew this image in its global pass alone: in a run of one step from full noise the regions have no part. Run more steps, or set dilation to 1."

    def evaluate(self, call, inner):
        """The local predictions of every guidance branch mixed with the dilated ones."""
        local, canvas, x = inner(call), call.canvas, call.x
        scale = self.scale_of(canvas.size)
        if scale == 1:
            return local
        levels = call.run.levels
        _, c2, c3 = schedule_weights(levels.timestep(call.sigma), alpha2=self.alpha2, alpha3=self.alpha3)
        if c2 < self.least:
            return local
        shown = dilated_input(x, scale, self.blur_std * c3, canvas.patch)
        images = dilated_subsets(shown, scale)
        pixels = self.canvas_pixels or canvas.pixels
        rows, columns = images[0].shape[-2:]
        top, left = rows * scale - canvas.height, columns * scale - canvas.width
        views = [View(Axis(a - top, scale, rows), Axis(b - left, scale, columns), (*pixels, 0, 0, *pixels)) for a in range(scale) for b in range(scale)]
        denoised = call.predict_views(images, views)
        dilated = [scatter(parts, scale, *canvas.size) for parts in denoised]
        if call.run.published:
            # the papers fuse noise predictions: the network sees the blurred latent, the step is taken from the sharp one
            sharp = (x - shown[..., -canvas.height :, -canvas.width :]) / levels.signal(call.sigma)
            dilated = [sharp + prediction for prediction in dilated]
        return [mean if branch is None else fuse(mean, prediction, c2) for branch, mean, prediction in zip(call.conds, local, dilated)]


@dataclass(frozen=True, eq=False)
class SkipResidual(Part):
    """x <- (1 - c1) x + c1 (reference at this noise level), c1 = cf^alpha1 of each of the papers' steps; other steps take
    as much over the same levels.

    reference: unscaled samples, resized to the canvas. The noise is the run's own; a sampler that draws noise is given
    fresh noise instead.
    """

    title: ClassVar[str] = "DemoFusion's skip residual"
    key: ClassVar[str] = "skip_residual"
    rank: ClassVar[int] = 0

    reference: torch.Tensor
    alpha1: float = 3.0

    def edits(self, run):
        reference, levels = fit(run.model.process_latent_in(self.reference), run.noise), run.levels
        noise = run.noise if run.noise.any() else self._noise_of_the_run_before(run, reference)
        left = None  # deviation from the reference after the evaluation before

        def share(t):
            return cosine_factor(t) ** self.alpha1

        def of_step(step):
            if run.published:
                return share(run.timesteps[step])
            return run.share(share, step - 1) if step else 0.0

        def pulled(x, sigma, step):
            nonlocal left
            signal, level = levels.signal(sigma), levels.noise(sigma)
            if run.draws_noise:
                fresh = seeded_noise(x.shape, stream(run.seed, f"skip residual {levels.name(sigma)}")).to(x)
                return skip_residual_of_fresh_noise(x, signal * reference, level * fresh, of_step(step))
            noised = signal * reference + level * noise
            if run.published:
                return skip_residual(x, noised, of_step(step))
            if signal < PURE_NOISE:
                left = torch.zeros_like(x)
                return noised
            deviation = (x - noised) / signal
            left = deviation if left is None else held_residual(deviation, left, of_step(step))
            return noised + signal * left

        def before(x, sigma, step):
            x.copy_(_where_sampled(run, x, pulled(x, sigma, step)))

        def finish(x, sigma):
            # what the step before pulls away is due when the next one starts, which a run that stops early does not see
            if run.published or not run.steps or sigma == 0:
                return x
            signal = levels.signal(sigma)
            # a flow run comes back divided by its signal
            return _where_sampled(run, x, pulled(x * signal, sigma, run.steps) / signal)

        return Edits(before=before, finish=finish)

    def _noise_of_the_run_before(self, run, reference):
        """What ComfyUI draws from the run's seed. Raises ValueError if the latent clearly holds other noise."""
        noise = torch.randn(run.noise.shape, generator=torch.Generator().manual_seed(run.seed)).to(run.noise)
        ratio = run.levels.ratio(run.schedule[0])
        if run.latent_image is None or not run.latent_image.any() or schedule_weights(run.timesteps[0], self.alpha1)[0] < 1e-4:
            return noise
        found = run.latent_image - reference
        together = float((found * noise).sum() / (found.norm() * noise.norm()))
        by_chance = 5 / noise.numel() ** 0.5
        if together < by_chance < ratio / float(found.std()) / 1.5:
            raise ValueError(f"The sampler adds no noise, and its seed {run.seed} is not that of the noise in the latent, which DemoFusion needs. Use the seed of the sampler before, or let this one add noise.")
        return noise


@dataclass(frozen=True, eq=False)
class Renormalize(Part):
    """The finished latent gets the reference's mean and standard deviation, image by image. A run that stops early,
    or keeps a masked part, leaves that untouched.

    reference: unscaled samples of any size.
    """

    title: ClassVar[str] = "DemoFusion's renormalizing"
    key: ClassVar[str] = "renormalize"
    rank: ClassVar[int] = 100

    reference: torch.Tensor

    def edits(self, run):
        if not run.steps or run.schedule[-1] > float(run.sampling.sigma_min) * 1.001:
            return Edits()
        reference = run.model.process_latent_in(self.reference).to(run.noise)
        mean, std = (value.reshape(-1, *[1] * (run.noise.ndim - 1)) for value in statistics(reference))

        def finish(x, sigma):
            return _where_sampled(run, x, renormalize(x, mean, std))

        return Edits(finish=finish)


def _where_sampled(run, x, edited):
    """`edited`, but `x` where a noise mask keeps what was there."""
    return edited if run.denoise_mask is None else torch.lerp(x, edited, run.denoise_mask)
