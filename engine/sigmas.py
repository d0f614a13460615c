"""Noise levels of the running model, in the papers' terms."""

import math

import comfy.model_sampling
import comfy.samplers
import torch

from ..methods.schedules import Levels, ddim_sigmas, grid, start_for

PAPER_SCHEDULE = "ddim (paper)"
CURVE_STEPS = 1000
SCHEDULES = [PAPER_SCHEDULE, *comfy.samplers.SCHEDULER_NAMES]


def levels_of(model_sampling) -> Levels:
    """What the sigmas of ComfyUI's `model_sampling`, on the CPU, say of noise and signal."""
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        return Levels(flow=True, noise_scale=float(getattr(model_sampling, "noise_scale", 1.0)))
    return Levels(table=_table(model_sampling))


def _table(model_sampling):
    # EDM's and Stable Cascade's networks are not told the index
    other = comfy.model_sampling.ModelSamplingDiscreteEDM, comfy.model_sampling.StableCascadeSampling
    discrete = isinstance(model_sampling, comfy.model_sampling.ModelSamplingDiscrete) and not isinstance(model_sampling, other)
    return tuple(model_sampling.sigmas.tolist()) if discrete else None


def nearest_step(levels: list[float], sigma: float) -> int:
    """Step of the schedule `levels` whose noise level is the nearest to `sigma`, by their ratio."""
    return min(range(max(len(levels) - 1, 1)), key=lambda step: abs(math.log(max(levels[step], 1e-9) / max(sigma, 1e-9))))


class Step(int):
    """Number of a step in its run. `level`: the name of the one that it starts from, what random draws go by, so that a
    run split between two samplers draws as one."""

    level: str

    @classmethod
    def of(cls, levels: Levels, sigmas: list[float], step: int) -> "Step":
        out = cls(min(step, max(len(sigmas) - 2, 0)))
        out.level = levels.name(sigmas[out])
        return out


def paper_schedule(model_sampling, steps: int, depth: int | None = None, end_at_zero: bool = True) -> torch.Tensor:
    """The papers' DDIM grid for this model, (depth + 1,); see `methods.schedules.ddim_sigmas`."""
    table = model_sampling.sigmas.cpu()
    # a distilled model knows fewer levels than timesteps: the next one above
    level_of = [((t + 1) * len(table) + 999) // 1000 - 1 for t in range(1000)]
    sigmas = ddim_sigmas(table[level_of], steps, depth, end_at_zero)
    if len(sigmas[:-1].unique()) < len(sigmas) - 1:
        raise ValueError(f"scheduler is the paper's with {steps} steps, but the model knows {len(table)} noise levels. Use at most {len(table)} steps, or another scheduler.")
    return sigmas


def schedule(model, name: str, steps: int, strength: float = 1.0, end_at_zero: bool = True, highest: float = math.inf) -> torch.Tensor:
    """`steps` noise levels of `model` (ModelPatcher) and the one after them, (steps + 1,); see `noise_levels`."""
    return noise_levels(model.get_model_object("model_sampling"), name, steps, strength, end_at_zero, highest)


def noise_levels(sampling, name: str, steps: int, strength: float = 1.0, end_at_zero: bool = True, highest: float = math.inf) -> torch.Tensor:
    """The part of the schedule `name` below the noise level of `strength` (`methods.schedules.start_for`) in `steps` steps.

    The papers' grid is that of models with a table of timesteps, the last `steps` of steps / strength; others walk evenly
    through their own time. highest: rho above which no other grid than the papers' starts.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; use more than 0 and at most 1.")
    levels = levels_of(sampling)
    if name == PAPER_SCHEDULE and levels.table is not None:
        whole = max(round(steps / strength), steps)
        if whole > 1000:
            raise ValueError(f"steps is {steps} and strength {strength}, which are the last of {whole} steps; the papers' grid has at most 1000. Lower steps, raise strength, or use another scheduler.")
        return paper_schedule(sampling, whole, steps, end_at_zero)
    start = min(start_for(strength), highest)
    if strength == 1 and highest == math.inf and levels.table is not None:
        sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps)
    elif name in (PAPER_SCHEDULE, "simple"):
        sigmas = torch.tensor(grid(lambda share: float(sampling.percent_to_sigma(share)), levels.sigma(start), steps))
    else:
        sigmas = torch.tensor(grid(_curve(sampling, name), levels.sigma(start), steps))
    if not sigmas.isfinite().all():
        raise ValueError(f"scheduler is {name!r}, which has no noise levels for steps {steps}. Raise steps, or use another scheduler.")
    return sigmas if end_at_zero else torch.cat([sigmas[:-1], sampling.sigma_min.reshape(1).to(sigmas)])


def _curve(sampling, name):
    """Sigma at a share of the schedule `name`, between those of many steps."""
    sigmas = comfy.samplers.calculate_sigmas(sampling, name, CURVE_STEPS).tolist()

    def sigma(share):
        place = share * (len(sigmas) - 1)
        below = min(int(place), len(sigmas) - 2)
        return sigmas[below] + (place - below) * (sigmas[below + 1] - sigmas[below])

    return sigma
