"""Editing the sampler's state, once a step, in the evaluation of that step.

Samplers hold the state `x` in a local variable, so edits write into it: `before` the network sees it, and, together with
the prediction, when it has been `evaluated`. By then the sampler has used neither, so a move of x0 by d with the noise
kept, signal * d on the state and d on the prediction, comes out as d of every solver. States that a sampler evaluates
between its steps are left alone (`trace`).

`finish` has the finished latent, and the last prediction that the run reports.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .trace import Own, trace

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
# ComfyUI steps these on a flow model's state as if it were x0 + sigma n, which carries an edit on 2 to 13 times too far
UNSUPPORTED_ON_FLOW = {
    "sample_ddpm": "ddpm",
    "sample_ipndm_v": "ipndm_v",
    "sample_res_multistep_ancestral": "res_multistep_ancestral",
    "sample_dpmpp_2m_cfg_pp": "dpmpp_2m_cfg_pp",
    "sample_dpmpp_2s_ancestral_cfg_pp": "dpmpp_2s_ancestral_cfg_pp",
    "sample_res_multistep_cfg_pp": "res_multistep_cfg_pp",
    "sample_res_multistep_ancestral_cfg_pp": "res_multistep_ancestral_cfg_pp",
    "sample_gradient_estimation_cfg_pp": "gradient_estimation_cfg_pp",
}


class Edits(NamedTuple):
    """What a part does to the state in one run. sigma: noise level of the state `x`, which both write in place."""

    before: Callable[[torch.Tensor, float, int], None] | None = None  # (x, sigma, step)
    evaluated: Callable[[torch.Tensor, torch.Tensor, float, int], torch.Tensor] | None = None  # (x, denoised, sigma, step), the new denoised
    finish: Callable[[torch.Tensor, float], torch.Tensor] | None = None  # (x, sigma)


@contextlib.contextmanager
def edited(sampler, run, edits: dict[str, Edits]):
    """In here `sampler`'s state is edited, and the run knows whether the sampler draws noise.

    edits: by what messages call them. Raises ValueError for samplers whose state cannot be edited.
    """
    moving = {title: edit for title, edit in edits.items() if edit.before or edit.evaluated}
    if not moving:
        yield
        return
    function = getattr(sampler, "sampler_function", None)
    name = type(sampler).__name__ if function is None else _refused(function, run)
    if name:
        raise _cannot(name, moving, "its state cannot be edited step by step" + (" on a flow model" if name in UNSUPPORTED_ON_FLOW.values() else ""))
    sampler.sampler_function = _edited(function, run, moving)
    try:
        yield
    finally:
        sampler.sampler_function = function


def _refused(function, run):
    refused = {**UNSUPPORTED, **UNSUPPORTED_ON_FLOW} if run.levels.flow else UNSUPPORTED
    return refused.get(getattr(function, "__name__", None))


def _cannot(sampler, titles, why):
    return ValueError(f"The sampler {sampler} cannot carry {', '.join(titles)}: {why}. Choose euler, or another of the sampler list such as dpmpp_2m.")


def _edited(function, run, edits):
    name = getattr(function, "__name__", type(function).__name__)

    def sample(model, x, sigmas, extra_args=None, callback=None, **kwargs):
        try:
            found = trace(function, model, x, sigmas, extra_args or {}, kwargs)
        except ValueError as error:
            raise _cannot(name, edits, str(error)) from error
        evaluations = _of_steps(found.evaluations, run.schedule)
        if evaluations is None:
            raise _cannot(name, edits, "it does not report every step")
        run.draws_noise = found.draws
        edited = _EditedModel(model, edits.values(), x.shape, evaluations)

        def edited_callback(info):
            if info["i"] != edited.step:
                raise _cannot(name, edits, "it evaluates other states than it did on a small latent")
            if callback is not None:
                callback(info)

        return function(edited, x.clone(), sigmas, extra_args=extra_args, callback=edited_callback, **kwargs)

    sample.__name__ = name
    return sample


def _of_steps(evaluations: Sequence[Own | None], levels: Sequence[float]) -> Sequence[Own | None] | None:
    """`evaluations` with that of every step named; None where it cannot be told."""
    reported = [own.step for own in evaluations if own is not None]
    if not reported and len(evaluations) == len(levels) - 1:
        return [Own(step, level) for step, level in enumerate(levels[:-1])]
    return evaluations if reported == list(range(len(levels) - 1)) else None


class _EditedModel:
    """What a sampler evaluates in place of the model. step: of the evaluation that was the last one."""

    def __init__(self, model, edits, shape, evaluations: Sequence[Own | None]):
        self._model, self._shape, self._evaluations = model, shape, iter(evaluations)
        self._before = [edit.before for edit in edits if edit.before is not None]
        self._evaluated = [edit.evaluated for edit in edits if edit.evaluated is not None]
        self.step = None

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, x, sigma, **kwargs):
        if x.shape != self._shape:
            return self._model(x, sigma, **kwargs)
        own = next(self._evaluations, None)
        if own is None:
            self.step = None
            return self._model(x, sigma, **kwargs)
        self.step, level = own
        for before in self._before:
            before(x, level, self.step)
        denoised = self._model(x, sigma, **kwargs)
        for evaluated in self._evaluated:
            denoised = evaluated(x, denoised, level, self.step)
        return denoised
