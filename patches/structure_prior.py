"""C-Upscale's structure prior as a part."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..engine import Edits, Part
from ..engine.latents import fit
from ..methods.structure_prior import kappa, structure_edit

DIRECTIONS = ("enlarge reference", "shrink prediction")


@dataclass(frozen=True, eq=False)
class StructurePrior(Part):
    """Pulls the low wavelet band of the prediction to that of `reference`, and the signal in the sampler's
    state with it; see `methods.structure_prior`.

    reference: unscaled samples of any size. "enlarge reference" compares on the canvas, after resizing
    by `kernel`; "shrink prediction" at the reference's size, by area averages.
    """

    key: ClassVar[str] = "structure_prior"
    rank: ClassVar[int] = 50

    reference: torch.Tensor
    weight: float = 0.2
    schedule: str = "cosine"
    mode: str = "paper"
    clamp: bool = True
    direction: str = DIRECTIONS[0]
    kernel: str = "bicubic"
    wavelet: str = "haar"
    levels: int = 1

    def edits(self, run):
        if self.weight == 0:
            return Edits()
        reference = run.model.process_latent_in(self.reference)
        size = run.noise if self.direction == DIRECTIONS[0] else run.noise[..., : reference.shape[-2], : reference.shape[-1]]
        reference = fit(reference, size, self.kernel)
        area = run.noise.shape[-2:].numel() / reference.shape[-2:].numel()

        def share(t):
            return kappa(self.weight, t, run.levels.ratio_at(t), self.schedule, self.mode, self.clamp, area)

        def evaluated(x, denoised, sigma, step):
            edit = structure_edit(denoised, reference, run.share(share, step), self.wavelet, self.levels)
            if run.denoise_mask is not None:
                edit.mul_(run.denoise_mask)
            x.add_(edit, alpha=run.levels.signal(sigma))
            return denoised + edit

        return Edits(evaluated=evaluated)
