"""The papers' schedule on tables of noise levels of any length."""

import pytest
import tiny
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from loupe.engine.sigmas import PAPER_SCHEDULE, paper_schedule, schedule
from loupe.methods.schedules import ddim_timesteps


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
    assert len(schedule(model, PAPER_SCHEDULE, 50, 50, True).unique()) == 51
    with pytest.raises(ValueError, match="scheduler is the paper's with 51 steps, but the model knows 50 noise levels.*another scheduler"):
        schedule(model, PAPER_SCHEDULE, 51, 51, True)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_the_network_is_told_the_timestep_that_a_level_stands_for(steps):
    sampling = lcm().get_model_object("model_sampling")
    levels = paper_schedule(sampling, steps)[:-1]
    for level, t in zip(levels, ddim_timesteps(steps)):
        assert 0 <= float(sampling.timestep(level.reshape(1))[0]) - t < 20
