"""The papers' schedule on tables of noise levels of any length, and the noise levels of a strength on every kind of model."""

import math
import re
from pathlib import Path

import comfy.model_sampling
import pytest
import tiny
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from loupe.engine.sigmas import (
    PAPER_SCHEDULE,
    levels_of,
    noise_levels,
    paper_schedule,
    schedule,
)
from loupe.methods.pixelsmith_plan import guided_by_level
from loupe.methods.schedules import DEMOFUSION_RATIO, ddim_timesteps, start_for


def lcm():
    node = ModelSamplingDiscrete
    out = node.execute(tiny.sdxl(), "lcm", False).result if hasattr(node, "execute") else node().patch(tiny.sdxl(), "lcm", False)
    return out[0]


class Table:
    def __init__(self, length):
        self.sigmas = torch.linspace(0.03, 14.6, length)


@pytest.mark.parametrize("length", [1000, 10000])
def test_tables_of_a_thousand_and_its_multiples_are_read_at_the_timestep(length):
    levels = paper_schedule(Table(length), 50)
    expected = Table(length).sigmas[[(t + 1) * length // 1000 - 1 for t in ddim_timesteps(50)]]
    assert torch.equal(levels[:-1], expected) and levels[-1] == 0


@pytest.mark.parametrize("length", [50, 64, 999, 1024, 1500])
@pytest.mark.parametrize("steps", [1, 4, 8, 50])
def test_other_tables_give_the_next_level_above(length, steps):
    table = Table(length)
    levels = paper_schedule(table, steps)
    assert len(levels) == steps + 1 and (levels.diff() < 0).all() and set(levels[:-1].tolist()) <= set(table.sigmas.tolist())
    times = [(int((table.sigmas == level).nonzero()) + 1) * 1000 / length - 1 for level in levels[:-1]]
    assert all(0 <= time - t < 1000 / length for time, t in zip(times, ddim_timesteps(steps)))


def test_a_distilled_model_has_no_more_steps_than_levels():
    model = lcm()
    assert len(model.get_model_object("model_sampling").sigmas) == 50
    assert len(schedule(model, PAPER_SCHEDULE, 50).unique()) == 51
    with pytest.raises(ValueError, match="scheduler is the paper's with 51 steps, but the model knows 50 noise levels.*another scheduler"):
        schedule(model, PAPER_SCHEDULE, 51)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_the_network_is_told_the_timestep_that_a_level_stands_for(steps):
    sampling = lcm().get_model_object("model_sampling")
    levels = paper_schedule(sampling, steps)[:-1]
    for level, t in zip(levels, ddim_timesteps(steps)):
        assert 0 <= float(sampling.timestep(level.reshape(1))[0]) - t < 20


def flow(base, **shift):
    sampling = type("Sampling", (base, comfy.model_sampling.CONST), {})()
    sampling.set_parameters(**shift)
    return sampling


def shifted(k):
    return flow(comfy.model_sampling.ModelSamplingDiscreteFlow, shift=k)


def flux(mu):
    return flow(comfy.model_sampling.ModelSamplingFlux, shift=mu)


MODELS = {
    "shift 1": lambda: shifted(1.0),
    "shift 1.73": lambda: shifted(1.73),
    "shift 3": lambda: shifted(3.0),
    "mu 1.15": lambda: flux(1.15),
    "shift 6": lambda: shifted(6.0),
    "mu 2.02": lambda: flux(2.02),
    "eps": comfy.model_sampling.ModelSamplingDiscrete,
    "EDM": comfy.model_sampling.ModelSamplingContinuousEDM,
    "Cosmos": comfy.model_sampling.ModelSamplingCosmosRFlow,
}


SCHEDULERS = [PAPER_SCHEDULE, "simple", "beta", "karras", "sgm_uniform"]


@pytest.mark.parametrize("name, scheduler", [(name, scheduler) for name in MODELS for scheduler in SCHEDULERS if (name, scheduler) != ("eps", PAPER_SCHEDULE)])
def test_a_strength_is_one_noise_level_on_every_model(name, scheduler):
    sampling = MODELS[name]()
    levels = levels_of(sampling)
    for strength, steps in ((0.2, 4), (0.6, 8), (0.6, 1), (1.0, 8)):
        sigmas = noise_levels(sampling, scheduler, steps, strength)
        assert float(sigmas[0]) == pytest.approx(levels.sigma(start_for(strength)), rel=1e-6)
        assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
    assert levels.ratio(float(noise_levels(sampling, scheduler, 4, highest=DEMOFUSION_RATIO)[0])) == pytest.approx(DEMOFUSION_RATIO, rel=1e-5)


STRENGTHS = {  # rho, s and KSampler's denoise at shift 3, 6 and 7.5
    0.20: (0.571, 0.364, 0.160, 0.087, 0.071),
    0.45: (1.370, 0.578, 0.313, 0.186, 0.154),
    0.60: (2.280, 0.695, 0.432, 0.275, 0.233),
}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "flow.md"


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_denoise_of_ksampler_that_starts_there(strength):
    ratio, s, *denoise = STRENGTHS[strength]
    assert start_for(strength) == pytest.approx(ratio, abs=1e-3)
    for shift, expected in zip((3, 6, 7.5), denoise):
        sampling = shifted(shift)
        assert float(noise_levels(sampling, PAPER_SCHEDULE, 8, strength)[0]) == pytest.approx(s, abs=1e-3)
        assert start_for(strength) / (start_for(strength) + shift) == pytest.approx(expected, abs=1e-3)
        assert float(sampling.percent_to_sigma(1 - expected)) == pytest.approx(s, abs=2e-3)


def test_the_page_has_the_table():
    rows = [[float(cell) for cell in row.strip("|").split("|")] for row in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d?\.\d\d \|", row)]
    assert len(rows) == 11
    for strength, ratio, s, *denoise in rows:
        rho = start_for(strength)
        assert (ratio, s) == (pytest.approx(rho, abs=6e-4), pytest.approx(rho / (1 + rho), abs=6e-4))
        assert denoise == [pytest.approx(rho / (rho + shift), abs=6e-3) for shift in (3, 6, 7.5)]


@pytest.mark.parametrize("name, steps, twice, four_times", [("shift 3", 50, 24, 34), ("shift 3", 8, 4, 6), ("shift 3", 4, 2, 3), ("mu 1.15", 50, 25, 34), ("eps", 50, 20, 30)])
def test_pixelsmith_is_guided_down_to_one_noise_on_every_model(name, steps, twice, four_times):
    sampling = MODELS[name]()
    timesteps = [levels_of(sampling).timestep(sigma) for sigma in noise_levels(sampling, PAPER_SCHEDULE, steps)[:-1].tolist()]
    assert [guided_by_level(timesteps, until) for until in (0.6, 0.4)] == [twice, four_times]


def test_the_same_table_of_the_papers_is_the_last_of_more_steps():
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    for steps, strength in ((30, 0.6), (22, 0.44), (38, 0.76), (50, 1.0)):
        assert torch.equal(noise_levels(sampling, PAPER_SCHEDULE, steps, strength), paper_schedule(sampling, 50, steps))
        assert torch.equal(noise_levels(sampling, PAPER_SCHEDULE, steps, strength, highest=DEMOFUSION_RATIO), paper_schedule(sampling, 50, steps))


@pytest.mark.parametrize("name", ["eps", "shift 3"])
@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, math.nan])
def test_a_strength_out_of_range_is_named(name, strength):
    with pytest.raises(ValueError, match=f"strength is {strength}; use more than 0 and at most 1"):
        noise_levels(MODELS[name](), PAPER_SCHEDULE, 8, strength)


def test_more_steps_than_the_table_holds_are_named():
    with pytest.raises(ValueError, match="steps is 30 and strength 0.01, which are the last of 3000 steps.*raise strength"):
        noise_levels(MODELS["eps"](), PAPER_SCHEDULE, 30, 0.01)
    with pytest.raises(ValueError, match="scheduler is 'kl_optimal', which has no noise levels for steps 1"):
        noise_levels(MODELS["eps"](), "kl_optimal", 1)
