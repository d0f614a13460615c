"""A trained network is held at its reference in few steps as on the papers' grids."""

import functools

import gaussian
import numpy as np
import pytest
import torch
from loupe.benchmarks.world import World
from loupe.engine import with_parts
from loupe.engine.latents import resize
from loupe.methods.structure_prior import low_band
from loupe.patches.demofusion import SkipResidual
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.patches.structure_prior import StructurePrior
from loupe.training.mini.render import render
from loupe.training.mini.scenes import caption, sample_scene

pytestmark = pytest.mark.newest

SCENE = sample_scene(5_500_001)


class Bench:
    """One scene, enlarged twice in four regions."""

    def __init__(self):
        self.world, small = World(), render(SCENE, 128)
        self.small, self.start = self.world.encode([small]), self.world.encode([np.kron(small, np.ones((2, 2, 1), np.uint8))])
        self.enlarged = resize(self.small, 32, 32)

    @functools.cache
    def distance(self, levels, target, *parts):
        """Of the result's low band to that of `target`."""
        model = with_parts(self.world.model, RegionalDenoise((16, 16), 0.0), *parts)
        out = self.world.denoise(model, self.world.prompt(caption(SCENE)), self.start, 101, torch.tensor(levels), 1.0)
        scaled = self.world.model.model.process_latent_in
        return gaussian.rms(low_band(scaled(out) - scaled(target)))


@pytest.fixture(scope="module")
def bench():
    with torch.inference_mode():
        return Bench()


@pytest.fixture(scope="module")
def structure(bench):
    return StructurePrior(bench.small, 0.2)


@pytest.fixture(scope="module")
def skip(bench):
    return SkipResidual(bench.start)


@pytest.mark.parametrize("steps", [8, 4])
def test_structure_prior(bench, structure, steps):
    grid, few = (bench.distance(tuple(levels), bench.enlarged, structure) for levels in (gaussian.leading(50, 22), gaussian.even(421, steps)))
    assert few == pytest.approx(grid, rel=0.25)


@pytest.mark.parametrize("steps", [8, 4])
def test_skip_residual(bench, skip, steps):
    def effect(levels):
        return bench.distance(levels, bench.start) - bench.distance(levels, bench.start, skip)

    grid = effect(tuple(gaussian.leading(50, 30)))
    assert grid > 0.1 and effect(tuple(gaussian.even(581, steps))) == pytest.approx(grid, rel=0.25)
