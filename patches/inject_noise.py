"""PixelRush's noise injection as a part."""

from dataclasses import dataclass
from typing import ClassVar

from ..engine import Edits, Part
from ..methods.inject_noise import LAMBDA, inject_noise
from ..methods.noise import seeded_noise, stream


@dataclass(frozen=True)
class InjectNoise(Part):
    """The last steps of a run remove slerp(eps, fresh, weight) for the noise eps that the network sees; see
    `methods.inject_noise`.

    weight: 0 (nothing) to 1. last_steps: how many, counted from the end of the run. Every image of a batch is given the
    same fresh noise, which hangs on `seed` and the noise level.
    """

    title: ClassVar[str] = "Inject Noise"
    key: ClassVar[str] = "inject_noise"
    rank: ClassVar[int] = 95  # the prediction that the other edits have left

    weight: float = 1 - LAMBDA
    last_steps: int = 1
    seed: int = 0

    def check(self, model=None, canvas=None):
        """Raises ValueError for a weight that is no share, and for no steps."""
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it is the share of fresh noise, 0 to 1. The paper's is {1 - LAMBDA:.2f}.")
        if self.last_steps < 1:
            raise ValueError(f"last_steps is {self.last_steps}; use 1 or more, or weight 0 for no noise.")

    def edits(self, run):
        first = self._first(run)
        if first >= run.steps:
            return Edits()
        if run.levels.signal(run.schedule[first]) <= 0:
            raise ValueError(
                f"last_steps is {self.last_steps}, and step {first + 1} of {run.steps} starts from pure noise: there is no image to leave noise in. "
                "Lower last_steps, run more steps, or start from less noise."
            )

        def evaluated(x, denoised, sigma, step):
            if step < first:
                return denoised
            levels = run.levels
            fresh = seeded_noise((1, *x.shape[1:]), stream(self.seed, f"inject noise {levels.name(sigma)}")).to(x).expand_as(x)
            injected = inject_noise(x, denoised, fresh, levels.signal(sigma), levels.noise(sigma), self.weight)
            return injected if run.denoise_mask is None else denoised + (injected - denoised) * run.denoise_mask

        return Edits(evaluated=evaluated)

    def notices(self, run):
        if self.weight and run.steps and not self._ends(run):
            yield "Inject Noise changed nothing: the run stops before its noise is gone. Put it on the model of the sampler that goes on to the end."

    def _first(self, run):
        """Step from which on noise is injected; the number of steps for none."""
        return max(run.steps - self.last_steps, 0) if self.weight and self._ends(run) else run.steps

    def _ends(self, run):
        return run.timesteps[-1] == 0
