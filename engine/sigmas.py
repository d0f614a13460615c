"""Noise levels of the running model, in the papers' terms."""

import math

import comfy.model_sampling
import comfy.samplers
import torch

from ..methods.schedules import ddim_sigmas

PAPER_SCHEDULE = "ddim (paper)"
SCHEDULES = [PAPER_SCHEDULE, *comfy.samplers.SCHEDULER_NAMES]


def timestep(model_sampling, sigma: float) -> float:
    """Training timestep, 0..999, that `sigma` stands for.

    Flow models count 1000 * sigma, Cosmos of the sigma that its flow has; other models without a table
    of discrete noise levels are read on Stable Diffusion's.
    """
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        return 1000 * sigma
    if isinstance(model_sampling, comfy.model_sampling.COSMOS_RFLOW):
        return 1000 * sigma / (1 + sigma)
    if not isinstance(model_sampling, comfy.model_sampling.ModelSamplingDiscrete):
        model_sampling = comfy.model_sampling.ModelSamplingDiscrete()
    return float(model_sampling.timestep(torch.tensor([sigma], device=model_sampling.log_sigmas.device)))


def mixed_sigma(model_sampling, sigma: float) -> float:
    """Noise level m at which the sampler's state is sqrt(1 + m^2) times what the network sees of it:
    sigma for k-diffusion's x0 + sigma * eps, 0 for flow's (1 - sigma) x0 + sigma * eps. Cosmos samples
    its flow as x0 + sigma * eps, 1 + sigma times the mixture."""
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        return 0.0
    return (sigma * (2 + sigma)) ** 0.5 if isinstance(model_sampling, comfy.model_sampling.COSMOS_RFLOW) else sigma


def step_index(levels: list[float], sigma: float) -> int:
    """Step of the schedule `levels` that an evaluation at `sigma` belongs to; sub-steps of a
    multi-stage sampler count to the step they lead to."""
    return min(sum(level > sigma * (1 + 1e-5) for level in levels), max(len(levels) - 2, 0))


def nearest_step(levels: list[float], sigma: float) -> int:
    """Step of the schedule `levels` whose noise level is the nearest to `sigma`, by their ratio."""
    return min(range(max(len(levels) - 1, 1)), key=lambda step: abs(math.log(max(levels[step], 1e-9) / max(sigma, 1e-9))))


class Step(int):
    """Number of a step in its run. `level`: the noise level that it starts from, what random draws go by, so
    that a run split between two samplers draws as one."""

    level: float

    @classmethod
    def of(cls, levels: list[float], step: int) -> "Step":
        out = cls(min(step, max(len(levels) - 2, 0)))
        out.level = levels[out]
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


def schedule(model, name: str, steps: int, depth: int, end_at_zero: bool) -> torch.Tensor:
    """The last `depth` of `steps` noise levels of `model` and the one after them, (depth + 1,)."""
    return noise_levels(model.get_model_object("model_sampling"), name, steps, depth, end_at_zero)


def noise_levels(sampling, name: str, steps: int, depth: int, end_at_zero: bool) -> torch.Tensor:
    """`schedule` for a model sampling of ComfyUI."""
    if name == PAPER_SCHEDULE:
        return paper_schedule(sampling, steps, depth, end_at_zero)
    sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps)[-(depth + 1) :]
    if not sigmas.isfinite().all():
        raise ValueError(f"scheduler is {name!r}, which has no noise levels for steps {steps}. Raise steps, or use another scheduler.")
    return sigmas if end_at_zero else torch.cat([sigmas[:-1], sampling.sigma_min.reshape(1).to(sigmas)])


def prediction_of(model_sampling) -> str:
    """What the network predicts, in the words of `methods.structure_prior`."""
    if isinstance(model_sampling, (comfy.model_sampling.CONST, comfy.model_sampling.COSMOS_RFLOW)):
        return "flow"
    if isinstance(model_sampling, comfy.model_sampling.X0):
        return "x0"
    return "v" if isinstance(model_sampling, comfy.model_sampling.V_PREDICTION) else "eps"
