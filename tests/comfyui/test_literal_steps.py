"""The papers' loops written out in their own variance-preserving state z = a x0 + b e, against runs of every prediction.

Where steps are longer than the papers' 20 timesteps, a loop takes what as many of the papers' steps would.
"""

import gaussian
import numpy as np
import pytest
import tiny
from loupe.engine import Edits, Part
from loupe.engine.evaluation import with_parts
from loupe.methods.schedules import sd_ratio
from loupe.patches.demofusion import SkipResidual
from loupe.patches.latent_adjustment import LatentAdjustment
from loupe.patches.structure_prior import StructurePrior

X0 = gaussian.image(1)
SMALL = gaussian.small(X0)
GUIDE = gaussian.enlarged(SMALL)
NOISE = tiny.noise(X0.shape, 7)
WEIGHT, ALPHA, BETA = 0.2, 0.03, 0.01

GRIDS = {"50": range(981, 0, -20), "22 of 50": range(421, 0, -20), "4 from 921": (921, 691, 461, 231), "4 from 499": (499, 374, 249, 124)}


def cosine(t):
    return np.sin(np.pi * np.asarray(t) / 2000) ** 2


def ratio(t):
    return np.array([sd_ratio(one) for one in np.atleast_1d(t)])


def taken(share, grid, t, t_next):
    """By a step from t to t_next."""
    if "50" in grid:
        return float(share(np.array([t]))[0])
    times = t_next + (t - t_next) * (np.arange(2000) + 0.5) / 2000
    return 1 - np.exp(np.log(1 - share(times)).mean() * (t - t_next) / 20)


def parts(t):
    """a and b."""
    rho = 0.0 if t == 0 else sd_ratio(t)
    return (1 + rho**2) ** -0.5, rho * (1 + rho**2) ** -0.5


def low(x):
    return gaussian.small(x).repeat_interleave(2, -1).repeat_interleave(2, -2)


class Loop:
    """Plain DDIM."""

    def __init__(self, grid):
        self.grid = grid

    def run(self):
        times = [*GRIDS[self.grid], 0]
        a, b = parts(times[0])
        z = (a * GUIDE + b * NOISE).double()
        for step, (t, t_next) in enumerate(zip(times, times[1:])):
            (a, b), (a_next, b_next) = parts(t), parts(t_next)
            z = self.before(z, a, b, t, times[step - 1] if step else None)
            denoised = gaussian.posterior_mean(z / a, b / a)
            edited = self.evaluated(z, denoised, a, t, t_next)
            z = self.after(self.stepped(z, edited, denoised, a, b, a_next, b_next), t, t_next)
        return z.float()

    def before(self, z, a, b, t, t_before):
        return z

    def evaluated(self, z, denoised, a, t, t_next):
        return z

    def stepped(self, z, edited, denoised, a, b, a_next, b_next):
        """With the noise held constant."""
        e = (z - a * denoised) / b
        return a_next * (edited - b * e) / a + b_next * e

    def after(self, z, t, t_next):
        return z


class Structure(Loop):
    def evaluated(self, z, denoised, a, t, t_next):
        removed = taken(lambda time: np.minimum(2 * WEIGHT * cosine(time) * (1 + ratio(time) ** 2), 1 - 1e-12), self.grid, t, t_next)
        return z - a * removed * low(denoised - GUIDE)


class Skip(Loop):
    def before(self, z, a, b, t, t_before):
        noised = a * GUIDE + b * NOISE
        if "50" in self.grid:
            return (1 - float(cosine(t)) ** 3) * z + float(cosine(t)) ** 3 * noised
        deviation = (z - noised) / a
        if t_before is not None:
            added, pieces = deviation - self.deviation, 1000
            kept = (1 - taken(lambda time: cosine(time) ** 3, self.grid, t_before, t)) ** (1 / pieces)
            deviation = self.deviation
            for _ in range(pieces):
                deviation = (deviation + added / pieces / 2) * kept + added / pieces / 2
        self.deviation = deviation
        return noised + a * deviation


class Adjustment(Loop):
    def after(self, z, t, t_next):
        if "50" in self.grid:
            share = ALPHA if t > 781 else -BETA if t <= 181 else 0
        else:
            pulls, pushes = max(t - max(t_next, 781), 0) / 20, max(min(t, 181) - t_next, 0) / 20
            share = 1 - (1 - ALPHA) ** pulls * (1 + BETA) ** pushes
        return (1 - share) * z + share * GUIDE


METHODS = {Structure: StructurePrior(SMALL, WEIGHT), Skip: SkipResidual(SMALL), Adjustment: LatentAdjustment(SMALL, ALPHA, BETA)}


def sample(kind, grid, *parts):
    return gaussian.sample(with_parts(gaussian.model(kind), *parts), [*ratio(GRIDS[grid]), 0.0], GUIDE, NOISE)


@pytest.mark.parametrize("kind", gaussian.KINDS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("loop", METHODS)
def test_a_run_is_the_loop(loop, grid, kind):
    expected = loop(grid).run()
    effect = gaussian.rms(expected - Loop(grid).run())
    assert gaussian.rms(sample(kind, grid, METHODS[loop]) - expected) < 1e-5 * effect + 1e-6


class FrozenVelocity(Loop):
    """The structure prior's step with the network's v held constant, as papers have it for networks that predict v."""

    def evaluated(self, z, denoised, a, t, t_next):
        return z - 2 * a * WEIGHT * float(cosine(t)) * low(denoised - GUIDE)

    def stepped(self, z, edited, denoised, a, b, a_next, b_next):
        v = a * (z - a * denoised) / b - b * denoised
        return a_next * (a * edited - b * v) + b_next * (b * edited + a * v)


class FrozenVelocityPart(Part):
    key, rank = "frozen velocity", 0

    def edits(self, run):
        def evaluated(x, denoised, sigma, step):
            move = -2 * WEIGHT * float(cosine(run.timesteps[step])) * low(denoised - GUIDE)
            x.add_(move)
            return denoised + move / (1 + sigma**2)

        return Edits(evaluated=evaluated)


@pytest.mark.parametrize("grid", ["22 of 50", "4 from 499"])
def test_an_edit_can_move_the_state_and_the_prediction_by_different_amounts(grid):
    expected = FrozenVelocity(grid).run()
    effect = gaussian.rms(expected - Loop(grid).run())
    assert gaussian.rms(sample("v", grid, FrozenVelocityPart()) - expected) < 1e-5 * effect
