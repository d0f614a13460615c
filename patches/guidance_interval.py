"""Guidance in a limited interval of noise levels (Kynkäänniemi et al., NeurIPS 2024, arXiv 2404.07724)."""

from dataclasses import dataclass
from typing import ClassVar

from ..engine import Part


@dataclass(frozen=True)
class GuidanceInterval(Part):
    """Outside of the interval the positive prompt predicts alone, at half the cost.

    highest, lowest: noise levels as strengths, 0..1 (timestep / 999): 1 is almost pure noise.
    """

    key: ClassVar[str] = "guidance_interval"
    rank: ClassVar[int] = 5

    highest: float = 1.0
    lowest: float = 0.0

    def check(self, model, canvas=None):
        if not 0 <= self.lowest <= self.highest <= 1:
            raise ValueError(f"Guidance acts from {self.lowest} to {self.highest}; expected two noise levels from 0 to 1, the lower one first.")

    def evaluate(self, call, inner):
        positive = call.positive
        strength = call.run.levels.timestep(call.sigma) / 999
        if positive is None or self.lowest <= strength <= self.highest:
            return inner(call)
        predictions = inner(call.under([branch if i == positive else None for i, branch in enumerate(call.conds)]))
        return [predictions[positive] if branch else prediction for branch, prediction in zip(call.conds, predictions)]
