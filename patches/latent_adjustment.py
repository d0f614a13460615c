"""ClearSR's latent space adjustment as a part."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..engine import Edits, Part
from ..engine.latents import fit
from ..methods.latent_adjustment import adjust, shares_by_level, shares_by_step

TARGETS = ("sample", "denoised")
BOUNDARIES = ("noise level", "steps")
LIMITS = {"sample": (0.1, 0.05), "denoised": (0.3, 0.15)}  # of alpha and beta


@dataclass(frozen=True, eq=False)
class LatentAdjustment(Part):
    """Early steps move towards `reference` by alpha, late ones away from it by beta; see
    `methods.latent_adjustment`.

    reference: unscaled samples, resized to the canvas; None where only settings are checked or drawn. target "sample" edits the sampler's state after
    the step, the last one in the finished latent; "denoised" the prediction of every step.
    early_end, late_start: fractions of the noise levels that the paper's 50 steps start from, or with boundaries
    "steps" of the run's own steps.
    """

    title: ClassVar[str] = "Latent Adjustment"
    key: ClassVar[str] = "latent_adjustment"
    rank: ClassVar[int] = 90

    reference: torch.Tensor | None
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
        shares = self.shares(run.timesteps)
        if not any(shares):
            return Edits()
        reference = fit(run.model.process_latent_in(self.reference), run.noise)
        mask = 1.0 if run.denoise_mask is None else run.denoise_mask

        def edit(x, share, deviation=1.0):
            return adjust(x, reference, share * mask, deviation) if share else x

        def before(x, sigma, step):
            if step > 0:
                x.copy_(edit(x, shares[step - 1], run.levels.deviation(sigma)))

        def evaluated(x, denoised, sigma, step):
            return edit(denoised, shares[step])

        def finish(x, sigma):
            # a flow run that stops early comes back divided by its signal
            signal = run.levels.signal(sigma)
            return edit(x * signal, shares[-1], run.levels.deviation(sigma)) / signal if shares[-1] else x

        return Edits(evaluated=evaluated) if self.target == "denoised" else Edits(before=before, finish=finish)

    def notices(self, run):
        if (self.alpha or self.beta) and not any(self.shares(run.timesteps)):
            yield f"Latent Adjustment changed nothing: with early_end {self.early_end} and late_start {self.late_start} none of the {run.steps} steps is early or late. Raise early_end or lower late_start."

    def shares(self, timesteps: list[float]) -> list[float]:
        """c of each step of a run whose levels have these timesteps."""
        shares = shares_by_level if self.boundaries == "noise level" else lambda levels, *rest: shares_by_step(len(levels) - 1, *rest)
        return shares(timesteps, self.alpha, self.beta, self.early_end, self.late_start)
