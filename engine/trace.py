"""Which evaluations of a sampler are those of its steps: a dry run of it on a few cells.

A sampler evaluates the state of each step, and may evaluate states in between. The evaluation of a step is the last one
before the sampler reports that step.
"""

from typing import NamedTuple

import torch

SIDE = 8  # cells; samplers that shrink latents in between need a few


class Own(NamedTuple):
    """The evaluation of step `step`, whose state is at noise level `sigma`."""

    step: int
    sigma: float


class Trace(NamedTuple):
    """evaluations: of each evaluation its step, None for a state in between. draws: the sampler adds noise of its own."""

    evaluations: list[Own | None]
    draws: bool


def trace(function, model, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict, options: dict) -> Trace:
    """Of the sampler `function` with keyword arguments `options`, for a latent of the shape of `x`; nothing of `model` is
    evaluated, and the random state stays.

    Raises ValueError where the sampler does not get through it.
    """
    sigmas = sigmas.detach().cpu()
    shape = (1, *(min(side, SIDE) for side in x.shape[1:]))
    state = torch.get_rng_state()
    try:
        (evaluations, first), (_, second) = (_dry_run(function, model, shape, sigmas, extra_args, options, seed) for seed in (1, 2))
    except Exception as error:
        raise ValueError(f"it fails on a small latent ({type(error).__name__}: {error})") from error
    finally:
        torch.set_rng_state(state)
    return Trace(evaluations, not torch.equal(first, second))


def _dry_run(function, model, shape, sigmas, extra_args, options, seed):
    torch.default_generator.manual_seed(seed)  # the CPU's alone, on which all of it runs
    extra_args = {**extra_args, "seed": seed, "denoise_mask": None}
    if options.get("noise_sampler") is not None:
        options = {**options, "noise_sampler": lambda sigma, following: torch.randn(shape)}
    stand_in = _StandIn(model, shape, extra_args.get("model_options", {}))
    evaluations = stand_in.evaluations

    def callback(info):
        step = int(info["i"])
        level = info.get("sigma_hat", info.get("sigma", sigmas[step]))
        if evaluations:
            evaluations[-1] = Own(step, float(level))

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * max(float(sigmas[0]), 1e-3)
    out = function(stand_in, x, sigmas, extra_args=extra_args, callback=callback, **{**options, "disable": True})
    return evaluations, out


class _StandIn:
    """Predicts half of the state, and tells what listens behind the guidance, as some samplers do."""

    def __init__(self, model, shape, model_options):
        self._model, self._shape, self._own = model, shape, model_options.get("sampler_post_cfg_function", [])
        self.evaluations = []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, x, sigma, **kwargs):
        denoised = x * 0.5
        options = kwargs.get("model_options", {})
        for listen in options.get("sampler_post_cfg_function", []):
            if listen not in self._own:
                listen({"denoised": denoised, "cond_denoised": denoised, "uncond_denoised": denoised, "input": x, "sigma": sigma, "cond": None, "uncond": None, "cond_scale": 1.0, "model": None, "model_options": options})
        if tuple(x.shape) == self._shape:
            self.evaluations.append(None)
        return denoised
