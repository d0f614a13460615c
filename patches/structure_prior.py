"""C-Upscale's structure prior as a part."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..engine import Edits, Part
from ..engine.latents import fit
from ..methods.structure_prior import RUN_SCHEDULES, kappa, run_weight, structure_edit

DIRECTIONS = ("enlarge reference", "shrink prediction")
TARGETS = ("image", "prediction")


@dataclass(frozen=True, eq=False)
class StructurePrior(Part):
    """Pulls the low wavelet band of the prediction to that of `reference`, and the signal in the sampler's
    state with it; see `methods.structure_prior`.

    reference: unscaled samples of any size; None where only settings are checked. "enlarge reference" compares on the canvas, after resizing
    by `kernel`; "shrink prediction" at the reference's size, by area averages. target "image" moves x0 for good;
    "prediction" only what the step aims at, by weight s(t), which moves the next state by the part of it that the step
    covers: with weight 1, I-Max (schedule "cosine over the run") and ScaleDiff ("variance over the run", band "resize").
    """

    title: ClassVar[str] = "Structure Prior"
    key: ClassVar[str] = "structure_prior"
    rank: ClassVar[int] = 50

    reference: torch.Tensor | None
    weight: float = 0.2
    schedule: str = "cosine"
    mode: str = "paper"
    clamp: bool = True
    direction: str = DIRECTIONS[0]
    kernel: str = "bicubic"
    wavelet: str = "haar"
    levels: int = 1
    band: str = "wavelet"
    target: str = TARGETS[0]

    def check(self, model, canvas=None):
        """Raises ValueError for a low band that is not defined at the reference's size."""
        if self.band != "wavelet" and self.direction != DIRECTIONS[0]:
            raise ValueError(f"compare is {self.direction!r} and low_band {self.band!r}, which is of the canvas. Set compare to {DIRECTIONS[0]!r}, or low_band to 'wavelet'.")

    def edits(self, run):
        if self.weight == 0:
            return Edits()
        reference = run.model.process_latent_in(self.reference)
        size = run.noise if self.direction == DIRECTIONS[0] else run.noise[..., : reference.shape[-2], : reference.shape[-1]]
        reference = fit(reference, size, self.kernel)
        area = run.noise.shape[-2:].numel() / reference.shape[-2:].numel()

        def share(step):
            weight, schedule, levels = self.weight, self.schedule, run.levels
            if schedule in RUN_SCHEDULES:
                weight *= run_weight(schedule, step, run.steps, *(levels.ratio(run.schedule[i]) for i in (step, 0)))
                schedule = "constant"
            if self.target == TARGETS[1]:
                return kappa(weight, run.timesteps[step], 0.0, schedule, "kappa", self.clamp)
            return run.share(lambda t: kappa(weight, t, levels.ratio_at(t), schedule, self.mode, self.clamp, area), step)

        def evaluated(x, denoised, sigma, step):
            edit = structure_edit(denoised, reference, share(step), self.wavelet, self.levels, self.band)
            if run.denoise_mask is not None:
                edit.mul_(run.denoise_mask)
            if self.target == TARGETS[0]:
                x.add_(edit, alpha=run.levels.signal(sigma))
            return denoised + edit

        return Edits(evaluated=evaluated)
