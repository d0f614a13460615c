"""What regions do to sharpness and to the outer border, on one scene of each of some grounds of the mini world, 128 to 256 px."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from loupe.benchmarks.enlarging import Enlarger
from loupe.benchmarks.scenes import Scenes
from loupe.benchmarks.scoring import outer_border, sharpness
from loupe.benchmarks.settings import REGIONS
from loupe.training.mini.render import render
from loupe.training.mini.scenes import sample_scene

STILL = replace(REGIONS, overlap=0.5, blend="uniform", jitter=0.0)


def scene_of(ground):
    """The first one of that ground."""
    return next(scene for scene in map(sample_scene, range(5_000_000, 5_000_100)) if scene.ground == ground)


@pytest.fixture(scope="module")
def bench():
    torch.set_num_threads(1)
    return Enlarger("text to image")


@pytest.fixture(scope="module")
def enlarged(bench):
    """(ground, jitter) -> image, each made once."""
    made = {}

    @torch.inference_mode()
    def enlarge(ground, jitter):
        if (ground, jitter) not in made:
            made[ground, jitter] = bench.image(replace(STILL, jitter=jitter), Scenes(bench, 2, [scene_of(ground)]), 0, 1)
        return made[ground, jitter]

    return enlarge


def pitch(image):
    """Power of the 10 rows of brick of a scene in the rows' profile, over that at 10 and at 20."""
    profile = image.astype(float).mean((1, 2))
    power = np.abs(np.fft.rfft(profile - profile.mean())) ** 2
    return power[10] / (power[10] + power[20])


def test_brick_is_drawn_at_the_canvas_pitch(enlarged):
    """Regions told to be whole images draw theirs, twice as fine: 0.03."""
    true = pitch(render(scene_of("brick"), 256, 1))
    assert pitch(enlarged("brick", 0.0)) == pytest.approx(true, abs=0.15)


@pytest.mark.parametrize("ground", ["sky", "grass", "sand", "brick"])
def test_movement_does_not_blur(enlarged, ground):
    still, early, always = (sharpness(enlarged(ground, jitter)) for jitter in (0.0, 0.5, 1.0))
    assert early > 0.93 * still
    assert always > 0.8 * still


def test_early_movement_leaves_the_outer_border(enlarged):
    def borders(jitter):
        return np.mean([outer_border(enlarged(ground, jitter)) / outer_border(enlarged(ground, 0.0)) for ground in ("sky", "grass", "sand")])

    assert borders(0.5) > 0.985
    assert borders(1.0) < 0.97
