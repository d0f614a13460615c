"""A claim, what it is measured by, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from ..scoring import interval

UNET, FLOW, FEW = "text to image", "flow", "flow in few steps"
LABELS = {UNET: "mini UNet", FLOW: "mini flow transformer", FEW: "the same in few steps"}


class Metric(NamedTuple):
    """label: with its unit. relative: differences are percentages of the second arm's value."""

    label: str
    digits: int = 2
    relative: bool = False


METRICS = {
    "rows": Metric("network rows, %", 0, True),
    "extra": Metric("extra things an image"),
    "right": Metric("things with the right shape and color, share"),
    "base": Metric("fidelity to the small image, dB"),
    "truth": Metric("PSNR to the true image, dB"),
    "even": Metric("PSNR to the true image at its mean color, dB"),
    "sharp": Metric("sharpness, %", 1, True),
    "detail": Metric("fine detail, %", 1, True),
    "seam": Metric("seams"),
    "border": Metric("saturation of the outer border"),
    "gradient": Metric("error of gradients"),
    "similar": Metric("similarity of one latent's images at two sizes", 3),
}


class Verdict(Enum):
    SHOWN = "shown"
    REVERSED = "reversed"
    OPEN = "not resolvable"


@dataclass(frozen=True)
class Comparison:
    """`better` has more of `metric` than `worse`, or less of it, or, where `within` is given, as much within that.
    worse: an arm, or a number that the metric is held against. scale: of the lab."""

    better: object
    worse: object
    metric: str
    less: bool = False
    within: float | None = None
    scale: int = 2


@dataclass(frozen=True)
class Claim:
    """text: as a sentence. source: paper and place, or Loupe's page. measure: the comparison in a world.
    absent: why there is nothing to measure in a world."""

    method: str
    text: str
    source: str
    worlds: tuple[str, ...]
    measure: Callable[[str], Comparison]
    absent: dict[str, str]


def differences(comparison: Comparison, better: Sequence[float], worse: Sequence[float]) -> np.ndarray:
    """Paired, of the images that both have, in the metric's own direction."""
    count = min(len(better), len(worse))
    a, b = np.array(better[:count], float), np.array(worse[:count], float)
    return 100 * (a / b - 1) if METRICS[comparison.metric].relative else a - b


def verdict(comparison: Comparison, apart: np.ndarray) -> Verdict:
    """By the 95 % interval of the mean difference: on the claimed side of zero, on the other, or on neither."""
    low, high = interval(apart)
    if comparison.within is not None:
        if max(abs(low), abs(high)) <= comparison.within:
            return Verdict.SHOWN
        return Verdict.REVERSED if min(abs(low), abs(high)) > comparison.within and low * high > 0 else Verdict.OPEN
    if comparison.less:
        low, high = -high, -low
    return Verdict.SHOWN if low > 0 else Verdict.REVERSED if high < 0 else Verdict.OPEN
