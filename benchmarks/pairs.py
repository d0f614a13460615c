"""Two ways to do the same, timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


class Pairs:
    """Processor seconds of `before` and `after`, the one that goes first alternating. The first pair warms up."""

    def __init__(self, before: Callable[[], object], after: Callable[[], object], count: int):
        both = before, after
        self.seconds = np.zeros((count, 2))
        for number in range(count + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                seconds = seconds_of(both[which])
                if number:
                    self.seconds[number - 1, which] = seconds

    @property
    def ratio(self) -> float:
        """Median of before / after."""
        return float(np.median(self._ratios))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the ratio, by resampling the pairs."""
        drawn = np.random.default_rng(0).choice(self._ratios, (2000, len(self._ratios)))
        low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
        return float(low), float(high)

    @property
    def _ratios(self):
        return self.seconds[:, 0] / self.seconds[:, 1]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.ratio:.2f} [{low:.2f}, {high:.2f}], n = {len(self.seconds)}"


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds of `work()`."""
    started = time.process_time()
    work()
    return time.process_time() - started
