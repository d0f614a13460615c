"""ClearSR's latent space adjustment as a part."""

from dataclasses import dataclass
from typing import ClassVar

import comfy.model_sampling
import torch

from ..engine import Edits, Part
from ..engine.latents import fit
from ..engine.sigmas import mixed_sigma, step_index
from ..methods.latent_adjustment import adjust, shares_by_sigma, shares_by_step

TARGETS = ("sample", "denoised")
BOUNDARIES = ("steps", "noise level")
LIMITS = {"sample": (0.1, 0.05), "denoised": (0.3, 0.15)}  # of alpha and beta


@dataclass(frozen=True, eq=False)
class LatentAdjustment(Part):
    """Early steps move towards `reference` by alpha, late ones away from it by beta; see
    `methods.latent_adjustment`.

    reference: unscaled samples, resized to the canvas. target "sample" edits the sampler's state after
    the step, the last one in the finished latent; "denoised" the prediction of every evaluation.
    early_end, late_start: fractions of the run's steps, or with boundaries "noise level" of the
    model's noise levels, as ComfyUI's start and end percents are.
    """

    key: ClassVar[str] = "latent_adjustment"
    rank: ClassVar[int] = 90

    reference: torch.Tensor
    alpha: float = 0.01
    beta: float = 0.01
    early_end: float = 0.2
    late_start: float = 0.8
    boundaries: str = BOUNDARIES[0]
    target: str = TARGETS[0]

    def check(self, model=None, canvas=None):
        """Raises ValueError for strengths that break the image, and for steps that are early and late."""
        for name, value, limit in zip(("alpha", "beta"), (self.alpha, self.beta), LIMITS[self.target]):
            if not 0 <= value <= limit:
                raise ValueError(f"{name} is {value}; with target {self.target!r} it goes from 0 to {limit}. Every early or late step applies it again.")
        if self.early_end > self.late_start:
            raise ValueError(f"early_end is {self.early_end} and late_start {self.late_start}; the early steps have to end before the late ones start.")

    def edits(self, run):
        levels, sampling = run.schedule, run.sampling
        shares = self.shares(levels, sampling)
        if not any(shares):
            return Edits()
        reference = fit(run.model.process_latent_in(self.reference), run.noise)
        mask = 1.0 if run.denoise_mask is None else run.denoise_mask

        def edit(x, share, sigma=0.0):
            return adjust(x, reference, share * mask, mixed_sigma(sampling, sigma)) if share else x

        def before(x, sigma):
            step = step_index(levels, sigma)
            if step > 0:
                x.copy_(edit(x, shares[step - 1], sigma))

        def after(denoised, sigma):
            return edit(denoised, shares[step_index(levels, sigma)])

        def finish(x, sigma):
            # a flow run that stops early comes back divided by its signal
            scale = 1 - sigma if isinstance(sampling, comfy.model_sampling.CONST) else 1.0
            return edit(x * scale, shares[-1], sigma) / scale if shares[-1] else x

        return Edits(after=after) if self.target == "denoised" else Edits(before=before, finish=finish)

    def notices(self, run):
        if (self.alpha or self.beta) and not any(self.shares(run.schedule, run.sampling)):
            yield f"Latent Adjustment changed nothing: with early_end {self.early_end} and late_start {self.late_start} none of the {run.steps} steps is early or late. Run at least 3 steps, or raise early_end or lower late_start."

    def shares(self, levels: list[float], sampling) -> list[float]:
        """c of each step of the schedule `levels`."""
        if self.boundaries == "steps":
            return shares_by_step(len(levels) - 1, self.alpha, self.beta, self.early_end, self.late_start)
        early, late = (float(sampling.percent_to_sigma(percent)) for percent in (self.early_end, self.late_start))
        return shares_by_sigma(levels, self.alpha, self.beta, early, late)
