"""Editing the sampler's state between evaluations.

Samplers hold the state `x` in a local variable, so edits write into it:

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

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

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


class Edits(NamedTuple):
    """What a part does to the state in one run; `before` and `callback` write in place. sigma: of the state."""

    before: Callable[[torch.Tensor, float], None] | None = None  # (x, sigma)
    after: Callable[[torch.Tensor, float], torch.Tensor] | None = None  # (denoised, sigma)
    callback: Callable[[torch.Tensor, torch.Tensor, float, int], None] | None = None  # (x, denoised, sigma, step)
    finish: Callable[[torch.Tensor, float], torch.Tensor] | None = None  # (x, sigma)


@contextlib.contextmanager
def edited(sampler, run, edits: dict[str, Edits]):
    """In here `sampler`'s state is edited. Yields a list that names, afterwards, what changed nothing.

    Raises ValueError for samplers whose state cannot be edited.
    """
    function, unreported = getattr(sampler, "sampler_function", None), []
    moves = any(edit.before or edit.callback for edit in edits.values())
    if not moves and not any(edit.after for edit in edits.values()):
        yield unreported
        return
    _check(function, sampler, edits, moves)
    sampler.sampler_function = _edited(function, run, edits, unreported)
    try:
        yield unreported
    finally:
        sampler.sampler_function = function


def _check(function, sampler, edits, moves):
    name = type(sampler).__name__ if function is None else moves and UNSUPPORTED.get(getattr(function, "__name__", None))
    if name:
        raise ValueError(f"The sampler {name} cannot carry {', '.join(edits)}: its state cannot be edited step by step. Choose euler, or another of the sampler list such as dpmpp_2m.")


def _edited(function, run, edits, unreported):
    by_step = [key for key, edit in edits.items() if edit.callback is not None]

    def sample(model, x, sigmas, extra_args=None, callback=None, **kwargs):
        edited = _EditedModel(model, run, edits.values(), x.shape)

        def edited_callback(info):
            # not info["x"]: ipndm and deis report the state that they began with
            if edited.evaluated is not None and edited.evaluated.shape == info["denoised"].shape:
                for edit in edits.values():
                    if edit.callback is not None:
                        edit.callback(edited.evaluated, info["denoised"], run.schedule[info["i"]], info["i"])
            if callback is not None:
                callback(info)

        out = function(edited, x.clone(), sigmas, extra_args=extra_args, callback=edited_callback, **kwargs)
        if by_step and edited.evaluated is not None and not run.ended:
            unreported.append(f"{', '.join(by_step)} changed nothing: the sampler reports no steps. Choose euler, or another of the sampler list.")
        return out

    sample.__name__ = getattr(function, "__name__", "sample")
    return sample


class _EditedModel:
    """What a sampler evaluates in place of the model."""

    def __init__(self, model, run, edits, shape):
        self._model, self._run, self._shape = model, run, shape
        self._before = [edit.before for edit in edits if edit.before is not None]
        self._after = [edit.after for edit in edits if edit.after is not None]
        self._shift = 0.0  # log of what the network was told last, over the schedule's level
        self.evaluated = None

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, x, sigma, **kwargs):
        if x.shape != self._shape:
            return self._model(x, sigma, **kwargs)
        told, _ = self._run.read(sigma, x)
        level = self._level(told)
        if level is not None:
            for before in self._before:
                before(x, level)
        self.evaluated = x
        denoised = self._model(x, sigma, **kwargs)
        self._run.forget()
        for after in self._after:
            denoised = after(denoised, told * math.exp(-self._shift) if level is None else level)
        return denoised

    def _level(self, told):
        """Level of the step whose state is evaluated; None for a stage between two levels. Stages lie above the
        level that they lead to, halfway or nearer to the one before."""
        levels = self._run.schedule
        # a sampler that reports no steps may be at any
        for step in range(self._run.ended, len(levels) - 1 if told > 0 else 0):
            shift = math.log(told / levels[step])
            above = math.log(levels[step - 1] / levels[step]) / 4 if step else math.inf
            below = math.log(levels[step] / levels[step + 1]) if levels[step + 1] > 0 else math.inf
            if -0.75 * below < shift - self._shift < above:
                self._shift = shift
                return levels[step]
        return next((level for level in levels if math.isclose(told, level, rel_tol=1e-5)), None)
