"""What a method holds does not hang on the number of steps, and no noise is left over or lost on the way."""

import math

import comfy.sample
import gaussian
import pytest
import tiny
import torch
from loupe.engine import Edits, Part
from loupe.engine.evaluation import with_parts
from loupe.patches.demofusion import DilatedPass, SkipResidual
from loupe.patches.demofusion_sampler import sample_demofusion
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.region_noise import add_region_noise
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.patches.structure_prior import StructurePrior

X0 = gaussian.image(1, batch=4)
SMALL = gaussian.small(X0)
GUIDE = gaussian.enlarged(SMALL)
NOISE = tiny.noise(X0.shape, 7)
PAPER = gaussian.leading(50, 30)
STEPS = 15, 8, 5, 4


def sampled(kind, levels, *parts):
    return gaussian.sample(with_parts(gaussian.model(kind), *parts), levels, GUIDE, NOISE)


def low_error(kind, levels, *parts):
    return gaussian.low_error(sampled(kind, levels, *parts), GUIDE)


def change(kind, levels, part):
    """Of the distance to the reference's low band."""
    return low_error(kind, levels, part) - low_error(kind, levels)


class Watch(Part):
    """The states that the network is shown."""

    key, rank = "watch", 99

    def __init__(self):
        self.seen = []

    def edits(self, run):
        return Edits(before=lambda x, sigma, step: self.seen.append((x.clone(), run.levels.signal(sigma), run.levels.noise(sigma))))


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_structure_prior_holds_as_much(kind):
    for levels in (PAPER, *(gaussian.even(581, steps) for steps in STEPS)):
        assert 0.10 < low_error(kind, levels, StructurePrior(SMALL, 0.2)) < 0.135


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_skip_residual_holds_as_much(kind):
    effect = change(kind, PAPER, SkipResidual(SMALL))
    assert effect < -0.07
    for steps in STEPS:
        assert change(kind, gaussian.even(581, steps), SkipResidual(SMALL)) == pytest.approx(effect, rel=0.15)


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_latent_adjustment_pushes_as_much(kind):
    """Ten of the papers' steps are late, which stand for 181 timesteps."""
    part = LatentAdjustment(SMALL, 0.03, 0.01)
    effect = change(kind, PAPER, part) * 181 / 200
    assert effect > 0.05
    for steps in STEPS:
        assert change(kind, gaussian.even(581, steps), part) == pytest.approx(effect, rel=0.1)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "lcm", "dpmpp_2m_sde"])
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_skip_residual_keeps_the_noise_at_its_level(kind, sampler):
    """The network knows the image, so that the rest of the state is noise."""
    watch, levels = Watch(), gaussian.trailing(8)
    model = with_parts(gaussian.model(kind, lambda y, rho: X0.expand_as(y)), SkipResidual(X0), watch)
    gaussian.sample(model, levels, X0, NOISE, sampler)
    assert len(watch.seen) == 8
    for x, signal, noise in watch.seen[1:]:
        assert gaussian.rms(x - signal * X0) / noise == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_dilated_pass_leaves_no_noise_in_long_steps(kind):
    plain, passed = (gaussian.rms(gaussian.high_band(sampled(kind, gaussian.trailing(4), *parts))) for parts in ((), (DilatedPass((32, 32)),)))
    assert 0.95 * plain < passed < plain


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_demofusion_from_where_its_reference_overwrites_everything(kind):
    """Levels above flow's 0.80 change nothing."""

    def result(depth):
        sigmas = gaussian.sigmas_of(kind, gaussian.leading(50, depth))
        return sample_demofusion(gaussian.model(kind), tiny.conditioning(), tiny.conditioning(), SMALL[:1], [(64, 64)], sigmas, 1.0, 3, RegionalDenoise((32, 32)), enlarge=lambda samples, size: GUIDE[:1])

    assert tiny.relative(result(38), result(50)) < 5e-4


@pytest.mark.parametrize("kind", gaussian.KINDS)
@pytest.mark.parametrize("t", [581, 421])
def test_region_noise_adds_to_the_noise_of_the_run(t, kind):
    """Also where both are drawn from the same seed."""
    model, watch, added, seed = gaussian.model(kind), Watch(), 1.2, 5
    latent, _ = add_region_noise(model, GUIDE, torch.zeros(1, 128, 128, 3), added, added, seed)
    gaussian.sample(with_parts(model, watch), gaussian.even(t, 2), latent, comfy.sample.prepare_noise(latent, seed), seed=seed)
    x, signal, noise = watch.seen[0]
    assert gaussian.rms(x / signal - GUIDE) == pytest.approx(math.hypot(noise / signal, added), rel=0.01)
