"""Guidance in an interval of noise levels: what it leaves out, and that it changes nothing else."""

import pytest
import tiny
import torch
from loupe.engine.evaluation import with_parts
from loupe.patches.guidance_interval import GuidanceInterval
from test_regional import latent_of, regional


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_the_whole_interval_changes_nothing(name):
    model = tiny.MODELS[name]()
    latent = latent_of(model, 2, 8, 12)
    assert torch.equal(tiny.sample(with_parts(model, GuidanceInterval()), latent), tiny.sample(model, latent))


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_outside_the_positive_prompt_is_alone(name):
    model = tiny.MODELS[name]()
    latent = latent_of(model, 2, 8, 12)
    none = with_parts(regional(model), GuidanceInterval(highest=0.0))
    assert tiny.relative(tiny.sample(none, latent), tiny.sample(regional(model), latent, cfg=1.0)) < 1e-5


@pytest.mark.numerics
def test_a_batch_of_regions_equals_single_ones():
    model = tiny.sdxl()
    latent = latent_of(model, 2, 12, 20)
    out = [tiny.sample(with_parts(regional(model, regions_per_call=n, shift=True, overlap=0.0), GuidanceInterval(0.8, 0.3)), latent, steps=4) for n in (1, 5)]
    assert tiny.relative(*out) < 1e-4


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.0), (0.0, 1.1), (0.7, 0.2)])
def test_an_impossible_interval_is_refused(low, high):
    with pytest.raises(ValueError, match="expected noise levels from 0 to 1"):
        with_parts(tiny.sdxl(), GuidanceInterval(high, low))
