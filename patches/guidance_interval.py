"""Guidance in a limited interval of noise levels (Kynkäänniemi et al., NeurIPS 2024, arXiv 2404.07724)."""

from dataclasses import dataclass
from typing import ClassVar

from ..engine import Part


@dataclass(frozen=True)
class GuidanceInterval(Part):
    """Outside of the interval the positive prompt predicts alone, at half the cost.

    highest, lowest: noise levels as strengths, 0..1 (timestep / 999): 1 is almost pure noise.
    """

    title: ClassVar[str] = "Guidance Interval"
    key: ClassVar[str] = "guidance_interval"
    rank: ClassVar[int] = 5

    highest: float = 1.0
    lowest: float = 0.0

    def check(self, model, canvas=None):
        check_interval(self.highest, self.lowest)

    def evaluate(self, call, inner):
        positive = call.positive
        strength = call.run.levels.timestep(call.sigma) / 999
        if positive is None or self.lowest <= strength <= self.highest:
            return inner(call)
        predictions = inner(call.under([branch if i == positive else None for i, branch in enumerate(call.conds)]))
        return [predictions[positive] if branch else prediction for branch, prediction in zip(call.conds, predictions)]


def check_interval(highest: float, lowest: float) -> None:
    """Raises ValueError for what is no interval of noise levels."""
    if not 0 <= lowest <= highest <= 1:
        raise ValueError(f"highest is {highest} and lowest {lowest}; expected noise levels from 0 to 1, lowest not above highest. Raise highest, or lower lowest.")
