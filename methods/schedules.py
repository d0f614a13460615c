"""Noise levels and weights that the methods take from one schedule.

Methods depend on the noise level through its ratio to the signal, rho = noise / signal, so that they mean the same on
every kind of model: at equal rho an Euler step of flow, of v and of eps is one and the same.

A timestep t is 0..999, as Stable Diffusion and SDXL count: 999 is almost pure noise. It is a unit of rho for all models.
"""

import bisect
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

INTERVAL = 20  # timesteps between the papers' 50 steps
PUBLISHED_INTERVALS = range(20, 51)  # of DDIM's grids of 50 to 20 steps, the papers' own schedule
POINTS = 64
DEMOFUSION_RATIO = 4.0  # above, DemoFusion's reference overwrites what the steps do: t 744, flow sigma 0.80


def cosine_factor(t: float) -> float:
    """(1 + cos(pi (1000 - t) / 1000)) / 2: 1 at full noise, 0 at none."""
    return 0.5 * (1 + math.cos(math.pi * (1000 - t) / 1000))


def alphas_cumprod(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """a of Stable Diffusion's schedule, (1000,): the share of the latent in the variance of a noised one.

    Its betas are linear in their square root, from 0.00085 to 0.012.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).to(dtype)


@functools.cache
def stable_diffusion() -> tuple[float, ...]:
    """rho of Stable Diffusion's 1000 timesteps, rising."""
    a = alphas_cumprod(torch.float64)
    return tuple(((1 - a) / a).sqrt().tolist())


@dataclass(frozen=True)
class Levels:
    """What the sigmas of one model say of noise and signal.

    flow: a sampler's state is (1 - sigma) x0 + sigma noise_scale n, otherwise x0 + sigma n, with unit noise n.
    table: rising sigmas of a model that has discrete timesteps of its own; their index is then its timestep.
    """

    flow: bool = False
    noise_scale: float = 1.0
    table: tuple[float, ...] | None = None

    def signal(self, sigma: float) -> float:
        """Share of x0 in the state."""
        return 1 - sigma if self.flow else 1.0

    def noise(self, sigma: float) -> float:
        """Standard deviation of the noise in the state."""
        return sigma * self.noise_scale if self.flow else sigma

    def ratio(self, sigma: float) -> float:
        """rho = noise / signal; infinite for pure noise."""
        return self.noise(sigma) / self.signal(sigma) if self.signal(sigma) > 0 else math.inf

    def sigma(self, ratio: float) -> float:
        """Inverse of `ratio`."""
        if not self.flow:
            return ratio
        return 1.0 if math.isinf(ratio) else ratio / (self.noise_scale + ratio)

    def deviation(self, sigma: float) -> float:
        """Standard deviation of the state of data that has 1."""
        return math.hypot(self.signal(sigma), self.noise(sigma))

    def timestep(self, sigma: float) -> float:
        """Timestep, 0..999, of `sigma`, linear in log rho between those of the table."""
        return _index(self.table, sigma) if self.table else sd_timestep(self.ratio(sigma))

    def name(self, sigma: float) -> str:
        """The level in words that are the same for every kind of model."""
        t = self.timestep(sigma)
        return f"t {t:.1f}" if 0 < t < 999 else f"rho {self.ratio(sigma):.3g}"

    def ratio_at(self, t: float) -> float:
        """rho at timestep `t`."""
        return _value(self.table, t) if self.table else sd_ratio(t)


def sd_timestep(ratio: float) -> float:
    """Stable Diffusion's timestep, 0..999, at rho = `ratio`, linear in its logarithm."""
    return _index(stable_diffusion(), ratio)


def sd_ratio(t: float) -> float:
    """rho of Stable Diffusion's timestep `t`."""
    return _value(stable_diffusion(), t)


def start_for(strength: float) -> float:
    """rho from which a run of `strength` 0..1 starts: Stable Diffusion's at timestep 999 strength, where KSampler's
    denoise of the same value starts on SDXL."""
    return sd_ratio(999 * strength)


def _index(table, value):
    # a distilled table has fewer levels than timesteps: its last is timestep 999, and they are evenly spread
    if value <= table[0]:
        position = 0.0
    elif value >= table[-1]:
        position = len(table) - 1.0
    else:
        above = bisect.bisect_right(table, value)
        low, high = math.log(table[above - 1]), math.log(table[above])
        position = above - 1 + (math.log(value) - low) / (high - low)
    t = max((position + 1) * 1000 / len(table) - 1, 0.0)
    return float(round(t)) if abs(t - round(t)) < 1e-3 else t


def _value(table, t):
    position = min(max((t + 1) * len(table) / 1000 - 1, 0.0), len(table) - 1.0)
    below = int(position)
    if position == below:
        return table[below]
    low, high = math.log(table[below]), math.log(table[below + 1])
    return math.exp(low + (position - below) * (high - low))


def published(timesteps: list[float]) -> bool:
    """Whether a run whose levels have these `timesteps`, its end included, walks a grid that the papers use: DDIM's leading
    one, of 20 to 50 steps, or a stretch of it."""
    intervals = {a - b for a, b in zip(timesteps[:-1], timesteps[1:-1])}
    last, end = timesteps[-2:] if len(timesteps) > 1 else (0.0, 0.0)
    if last != 1 or end >= 1:  # the last step goes down from timestep 1
        intervals.add(last - end)
    interval = intervals.pop() if len(intervals) == 1 else 0
    return interval in PUBLISHED_INTERVALS and timesteps[-2] % interval == 1


def stretch(share: Callable[[float], float], t: float, t_next: float) -> float:
    """Share of a step from timestep `t` down to `t_next`, where share(t) is the papers' of every 20 timesteps:
    1 - exp(integral of ln(1 - share) dt / 20)."""
    width = max(t - t_next, 0.0) / POINTS
    logs = sum(math.log(max(1 - share(t_next + (k + 0.5) * width), 1e-300)) for k in range(POINTS))
    return -math.expm1(logs * width / INTERVAL)


@dataclass(frozen=True)
class RunLevels:
    """The levels that a run of a model with the levels `model` goes through, its end included, as timesteps."""

    timesteps: list[float]
    model: Levels = Levels()

    @functools.cached_property
    def published(self) -> bool:
        """Whether it walks a grid of the papers, on which a share is what each step takes."""
        return published(self.timesteps)

    def share(self, share: Callable[[float], float], step: int) -> float:
        """What step `step` takes where share(t) is the papers' at timestep t: elsewhere than on their grids as much as
        their steps take over the same levels."""
        t, t_next = self.timesteps[step : step + 2]
        return share(t) if self.published else stretch(share, t, t_next)

    def shares(self, share: Callable[[float], float]) -> list[float]:
        """`share` of each step."""
        return [self.share(share, step) for step in range(len(self.timesteps) - 1)]


def grid(sigma_at: Callable[[float], float], start: float, steps: int) -> list[float]:
    """`steps` sigmas from `start` down, evenly spread in a model's own time, and 0.

    sigma_at: the model's sigma at a share of its time, falling from 0 (noise) to 1.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sigma_at(middle) > start else (low, middle)
    return [start, *(sigma_at(high + (1 - high) * i / steps) for i in range(1, steps)), 0.0]


def diffused(latent: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """sqrt(a) latent + sqrt(1 - a) noise, the forward process; `alpha` broadcasts, (B, 1, 1, 1) for a batch of images."""
    return alpha.sqrt() * latent + (1 - alpha).sqrt() * noise


def ddim_timesteps(steps: int = 50, depth: int | None = None) -> list[int]:
    """DDIM's leading grid with offset 1, 981, 961, ..., 1 for 50 steps; the last `depth` of it."""
    if not 1 <= steps <= 1000:
        raise ValueError(f"steps is {steps}; use 1 to 1000.")
    if depth is not None and not 1 <= depth <= steps:
        raise ValueError(f"depth is {depth}; it counts the last of {steps} steps, so use 1 to {steps}.")
    return [i * (1000 // steps) + 1 for i in reversed(range(steps))][-(depth or steps) :]


def ddim_sigmas(sigmas: torch.Tensor, steps: int = 50, depth: int | None = None, end_at_zero: bool = False) -> torch.Tensor:
    """Noise levels of `ddim_timesteps` and the level after the last step, (depth + 1,).

    sigmas: the model's (1000,) table. DDIM as the pipelines configure it ends at sigma_0, a little
    above zero; `end_at_zero` removes that rest.
    """
    last = torch.zeros_like(sigmas[:1]) if end_at_zero else sigmas[:1]
    return torch.cat([sigmas[ddim_timesteps(steps, depth)], last])
