"""A move of x0 by 1, with its noise kept, moves the result by 1, whatever solver carries it on, on eps and on flow."""

import functools

import comfy.samplers
import gaussian
import pytest
import tiny
import torch
from loupe.engine import Part
from loupe.engine.evaluation import with_parts
from loupe.engine.step_edits import UNSUPPORTED, UNSUPPORTED_ON_FLOW, Edits

LEVELS = [4.0, 3.0, 2.33, 1.86, 1.5, 1.2, 1.0, 0.6, 0.3, 0.0]
STEPS = 1, 4, 8
LATENT = torch.zeros(len(STEPS), 4, 4, 4)
CARRYING = [name for name in comfy.samplers.SAMPLER_NAMES if name not in UNSUPPORTED.values()]
REFUSED = sorted(UNSUPPORTED_ON_FLOW.values())
CARRYING_FLOW = [name for name in CARRYING if name not in REFUSED]
LOOKING_BACK = ("dpmpp_2m", "dpmpp_3m", "res_multistep", "er_sde", "lms", "ipndm", "deis", "gradient_estimation")


class Edit(Part):
    key, rank = "edit", 0

    def __init__(self, edit):
        self.edit = edit

    def edits(self, run):
        return Edits(evaluated=lambda x, denoised, sigma, step: self.edit(run, x, denoised, sigma, step))


def no_noise(y, rho):
    return y


@functools.cache
def responses(kind, sampler):
    """To moves at each of STEPS, each in an image of its own."""

    def move(run, x, denoised, sigma, step):
        if step in STEPS:
            x[STEPS.index(step)] += run.levels.signal(sigma)
            denoised[STEPS.index(step)] += 1
        return denoised

    model = gaussian.model(kind, no_noise)
    still, moved = (gaussian.sample(one, LEVELS, LATENT, LATENT, sampler) for one in (model, with_parts(model, Edit(move))))
    return (moved - still).mean((1, 2, 3)).tolist()


def usual(sampler, found):
    """Solvers that look back at the predictions before carry a little more or less on, CFG++ about twice."""
    if sampler.endswith("cfg_pp"):
        return all(0.65 < response < 2.2 for response in found)
    if sampler.startswith(LOOKING_BACK):
        return all(0.65 < response < 1.55 for response in found)
    return found == pytest.approx([1, 1, 1], abs=1e-3)


@pytest.mark.parametrize("name", CARRYING)
def test_on_eps(name):
    assert usual(name, responses("eps", name))


@pytest.mark.parametrize("name", CARRYING_FLOW)
def test_on_flow(name):
    assert usual(name, responses("flow", name))


@pytest.mark.parametrize("name", [name for name in CARRYING_FLOW if name.endswith("cfg_pp") or "sde" in name])
def test_solvers_in_the_logarithm_of_the_ratio_respond_the_same_on_both(name):
    assert responses("flow", name) == pytest.approx(responses("eps", name), abs=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_the_samplers_refused_on_flow_respond_wrongly(name, monkeypatch):
    with pytest.raises(ValueError, match=f"sampler {name} cannot carry edit.*on a flow model. Choose euler"):
        responses("flow", name)
    monkeypatch.setattr("loupe.engine.step_edits.UNSUPPORTED_ON_FLOW", {})
    assert not usual(name, responses("flow", name))


@pytest.mark.parametrize("name", CARRYING_FLOW)
def test_every_step_from_pure_noise_is_edited(name):
    """ComfyUI moves the first level of some solvers a little below 1."""
    sigmas, seen = torch.tensor([1.0, 0.95, 0.9, 0.83, 0.75, 0.64, 0.5, 0.3, 0.0]), []

    def edit(run, x, denoised, sigma, step):
        seen.append((step, sigma))
        return denoised

    out = tiny.sample(with_parts(gaussian.model("flow"), Edit(edit)), LATENT, name, cfg=1.0, sigmas=sigmas)
    assert out.isfinite().all()
    assert [step for step, _ in seen] == list(range(8))
    assert [sigma for _, sigma in seen] == pytest.approx(sigmas[:-1].tolist(), abs=1e-3)


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("name", CARRYING)
def test_a_run_knows_whether_its_sampler_draws_noise(name, kind, monkeypatch):
    monkeypatch.setattr("loupe.engine.step_edits.UNSUPPORTED_ON_FLOW", {})
    known = []

    def edit(run, x, denoised, sigma, step):
        known.append(run.draws_noise)
        return denoised

    model = with_parts(gaussian.model(kind, no_noise), Edit(edit))
    first, second = (gaussian.sample(model, LEVELS[-4:], LATENT, LATENT, name, seed=seed) for seed in (1, 2))
    assert set(known) == {not torch.equal(first, second)}
