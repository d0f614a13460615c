"""Editing the sampler's state between evaluations.

One SAMPLER_SAMPLE wrapper per model applies an ordered list of step edits. Samplers hold the state
`x` in a local variable, so edits write into it:

* `before` an evaluation of a step's state. Two-stage samplers evaluate a temporary state at the next
  level first and the real one afterwards; both are edited.
* `after` every evaluation, on the prediction; no sampler loses that.
* at the `callback`, once a step, on `x` and `denoised`. Samplers differ in which of the two they go on
  from, and Euler has taken its derivative by then: move both by the same amount.
* `finish` has the finished latent, and the last prediction that the run reports.

An edit is told the noise level of the state by the schedule. What the network is told may differ: some
samplers take a little off. Evaluations of latents of another size, which some samplers make in between,
are not edited.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from comfy.patcher_extension import WrappersMP

from .progress import notice

KEY = "loupe_step_edits"

# dpm_fast and dpm_adaptive leave the schedule's noise levels; the others evaluate a prediction and then
# rebuild the state from older ones
UNSUPPORTED = {
    "dpm_fast_function": "dpm_fast",
    "dpm_adaptive_function": "dpm_adaptive",
    "sample_sa_solver": "sa_solver",
    "sample_sa_solver_pece": "sa_solver_pece",
    "sample_unipc": "uni_pc",
    "sample_unipc_bh2": "uni_pc_bh2",
}


class Run(NamedTuple):
    """One sampler run, as a step edit sees it. Latents are scaled; noise is unit noise."""

    model: torch.nn.Module
    sigmas: torch.Tensor
    noise: torch.Tensor
    latent_image: torch.Tensor | None
    denoise_mask: torch.Tensor | None
    seed: int


class Edits(NamedTuple):
    """What an edit does in one run; `before` and `callback` write in place."""

    before: Callable[[torch.Tensor, torch.Tensor], None] | None = None  # (x, sigma)
    after: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None  # (denoised, sigma)
    callback: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], None] | None = None  # (x, denoised, sigma, step)
    finish: Callable[[torch.Tensor, float], torch.Tensor] | None = None  # (x, its noise level)
    notice: str | None = None  # what a person should know of this run


class StepEdits:
    """`edits` are called with the Run and return Edits. They are shared between runs and keep nothing;
    `key` makes them unique on a model, `rank` orders them."""

    def __init__(self, edits: dict):
        self.edits = edits

    def __call__(self, executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *args, **kwargs):
        run = Run(guider.inner_model, sigmas, noise, latent_image, denoise_mask, extra_args.get("seed") or 0)
        ordered = sorted(self.edits.values(), key=lambda edit: edit.rank)
        active = [edit(run) for edit in ordered]
        by_step = [edit.key for edit, edits in zip(ordered, active) if edits.callback is not None]
        last = len(sigmas) - 2

        def finished(x, level):
            for edits in active:
                x = x if edits.finish is None else edits.finish(x, level)
            return x

        def reported(step, denoised, *rest):
            callback(step, finished(denoised, 0.0) if step == last else denoised, *rest)

        sampler = executor.class_obj
        function = getattr(sampler, "sampler_function", None)
        moves = any(edits.before or edits.callback for edits in active)
        if moves or any(edits.after for edits in active):
            _check(function, sampler, self.edits, moves)
            sampler.sampler_function = _edited(function, active, by_step)
        try:
            x = executor(guider, sigmas, extra_args, None if callback is None else reported, noise, latent_image, denoise_mask, *args, **kwargs)
        finally:
            if function is not None:
                sampler.sampler_function = function
        for edits in active:
            if edits.notice is not None:
                notice(edits.notice)
        return finished(x, float(sigmas[-1]))


def _check(function, sampler, edits, moves):
    name = type(sampler).__name__ if function is None else moves and UNSUPPORTED.get(getattr(function, "__name__", None))
    if name:
        raise ValueError(f"The sampler {name} cannot carry {', '.join(edits)}: its state cannot be edited step by step. Choose euler, or another of the sampler list such as dpmpp_2m.")


def _edited(function, active, by_step):
    def sample(model, x, sigmas, extra_args=None, callback=None, **kwargs):
        edited = _EditedModel(model, sigmas, active, x.shape)

        def edited_callback(info):
            for edits in active:
                if edits.callback is not None and edited.evaluated is not None and edited.evaluated.shape == info["denoised"].shape:
                    # not info["x"]: ipndm and deis report the state that they began with
                    edits.callback(edited.evaluated, info["denoised"], sigmas[info["i"]], info["i"])
            edited.step += 1
            if callback is not None:
                callback(info)

        out = function(edited, x.clone(), sigmas, extra_args=extra_args, callback=edited_callback, **kwargs)
        if by_step and edited.evaluated is not None and not edited.step:
            notice(f"{', '.join(by_step)} changed nothing: the sampler reports no steps. Choose euler, or another of the sampler list.")
        return out

    sample.__name__ = getattr(function, "__name__", "sample")
    return sample


class _EditedModel:
    """What a sampler evaluates in place of the model. `step`: how many have ended."""

    def __init__(self, model, sigmas, active, shape):
        self._model, self._sigmas, self._shape = model, sigmas, shape
        self._levels = sigmas.tolist()
        self._before = [edits.before for edits in active if edits.before is not None]
        self._after = [edits.after for edits in active if edits.after is not None]
        self._shift = 0.0  # log of what the network was told last, over the schedule's level
        self.step = 0
        self.evaluated = None

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, x, sigma, **kwargs):
        if x.shape != self._shape:
            return self._model(x, sigma, **kwargs)
        level = self._level(float(sigma[0]))
        if level is not None:
            for before in self._before:
                before(x, level)
        self.evaluated = x
        denoised = self._model(x, sigma, **kwargs)
        for after in self._after:
            denoised = after(denoised, sigma[0] * math.exp(-self._shift) if level is None else level)
        return denoised

    def _level(self, told):
        """Level of the step whose state is evaluated; None for a stage between two levels. Stages lie above the
        level that they lead to, halfway or nearer to the one before."""
        levels = self._levels
        # a sampler that reports no steps may be at any
        for step in range(self.step, len(levels) - 1 if told > 0 else 0):
            shift = math.log(told / levels[step])
            above = math.log(levels[step - 1] / levels[step]) / 4 if step else math.inf
            below = math.log(levels[step] / levels[step + 1]) if levels[step + 1] > 0 else math.inf
            if -0.75 * below < shift - self._shift < above:
                self._shift = shift
                return self._sigmas[step]
        return next((sigma for sigma, level in zip(self._sigmas, levels) if math.isclose(told, level, rel_tol=1e-5)), None)


def patch_step_edits(model, *edits):
    """Clone of `model` (ModelPatcher) with `edits` added; one with the same key is replaced."""
    model = model.clone()
    before = model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY)
    kept = before[0].edits if before else {}
    model.remove_wrappers_with_key(WrappersMP.SAMPLER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, StepEdits({**kept, **{edit.key: edit for edit in edits}}))
    return model
