"""At equal ratios of noise to signal a method gives the same image whatever the network predicts, and in few steps.

An Euler step of flow is one of eps, so with one exact network there is nothing that a tolerance would have to cover.
"""

import functools

import gaussian
import pytest
import tiny
from loupe.engine.evaluation import with_parts
from loupe.patches.demofusion import DilatedPass, SkipResidual
from loupe.patches.demofusion_sampler import sample_demofusion
from loupe.patches.inject_noise import InjectNoise
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.pixelsmith import sample as sample_pixelsmith
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.patches.structure_prior import StructurePrior

X0 = gaussian.image(1)
SMALL = gaussian.small(X0)
GUIDE = gaussian.enlarged(SMALL)
NOISE = tiny.noise(X0.shape, 7)
GRIDS = {"22 of 50": gaussian.leading(50, 22), "30 of 50": gaussian.leading(50, 30), "4 trailing": gaussian.trailing(8, 4)}


def part(*parts):
    return lambda model, levels: gaussian.sample(with_parts(model, *parts), levels, GUIDE, NOISE)


def demofusion(model, levels):
    sigmas = gaussian.sigmas_of(model.model.diffusion_model.kind, levels)
    return sample_demofusion(model, tiny.conditioning(), tiny.conditioning(), SMALL, [(gaussian.SIDE,) * 2], sigmas, 1.0, 3, RegionalDenoise((32, 32), jitter=True), enlarge=lambda samples, size: GUIDE)


def pixelsmith(model, levels):
    sigmas = gaussian.sigmas_of(model.model.diffusion_model.kind, levels)
    return sample_pixelsmith(model, tiny.conditioning(), tiny.conditioning(), GUIDE, sigmas, max(1, len(levels) // 2), 1.0, 3, 32)


METHODS = {
    "Structure Prior": part(StructurePrior(SMALL, 0.2)),
    "Structure Prior, kappa": part(StructurePrior(SMALL, 0.2, mode="kappa")),
    "skip residual": part(SkipResidual(SMALL)),
    "dilated pass": part(DilatedPass((32, 32))),
    "Latent Adjustment": part(LatentAdjustment(SMALL, 0.03, 0.01)),
    "Inject Noise": part(InjectNoise(last_steps=2)),
    "PixelSmith": pixelsmith,
    "DemoFusion": demofusion,
}


@functools.cache
def plain(grid):
    return gaussian.sample(gaussian.model("eps"), GRIDS[grid], GUIDE, NOISE)


@functools.cache
def of_eps(name, grid):
    return METHODS[name](gaussian.model("eps"), GRIDS[grid])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["v", "flow"])
def test_without_a_method(kind, grid):
    assert tiny.relative(gaussian.sample(gaussian.model(kind), GRIDS[grid], GUIDE, NOISE), plain(grid)) < 1e-6


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["v", "flow"])
@pytest.mark.parametrize("name", METHODS)
def test_of_a_method(name, kind, grid):
    effect = gaussian.rms(of_eps(name, grid) - plain(grid))
    other = METHODS[name](gaussian.model(kind), GRIDS[grid])
    assert effect > 1e-3
    assert gaussian.rms(other - of_eps(name, grid)) < 1e-4 * effect
