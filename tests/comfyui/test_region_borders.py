"""Steps at the borders of regions that know only themselves, exactly.

A line of cells is denoised in windows, each by the exact posterior mean given its window alone. All of it is linear, so a
run of every unit line gives the covariance of the results.
"""

import functools

import gaussian
import pytest
import torch
from loupe.engine.evaluation import with_parts
from loupe.patches.regional_denoise import RegionalDenoise

LENGTH, WINDOW = 512, 64
GRIDS = {"22 of 50": gaussian.leading(50, 22), "4 from 421": gaussian.even(421, 4), "1 from 249": gaussian.even(249, 1)}


@functools.cache
def covariance(length):
    """Of the prior, power 1 / (f^2 + 1/48^2)."""
    power = 1 / (torch.fft.fftfreq(4096, dtype=torch.float64) ** 2 + 48**-2)
    row = torch.fft.ifft(power / power.mean()).real[:length]
    cells = torch.arange(length)
    return row[(cells[:, None] - cells).abs()]


@functools.cache
def gain(length, rho):
    prior = covariance(length)
    return torch.linalg.solve(prior + rho**2 * torch.eye(length, dtype=torch.float64), prior).float()


def posterior_mean(y, rho):
    return y @ gain(y.shape[-1], rho)


def blurred():
    """Of the lines that the runs start from: matrix of a Hann window over 7 cells."""
    taps = torch.hann_window(8, periodic=True, dtype=torch.float64)[1:]
    lines = torch.nn.functional.pad(torch.eye(LENGTH, dtype=torch.float64)[:, None], (3, 3), mode="replicate")
    return torch.nn.functional.conv1d(lines, (taps / taps.sum())[None, None])[:, 0].mT


def border_ratio(levels, overlap, blend):
    """Energy of first differences where regions begin or end, over that elsewhere."""
    part = RegionalDenoise((1, WINDOW), overlap, blend)
    unit = torch.eye(LENGTH).reshape(-1, 4, 1, LENGTH)
    out = gaussian.sample(with_parts(gaussian.model("flow", posterior_mean), part), levels, unit, torch.zeros_like(unit))
    run = out.reshape(LENGTH, LENGTH).mT.double() @ torch.linalg.cholesky(blurred() @ covariance(LENGTH) @ blurred().mT + levels[0] ** 2 * torch.eye(LENGTH, dtype=torch.float64))
    energy = run.diff(dim=0).square().sum(1)
    stride = int(WINDOW * (1 - overlap))
    begins = [min(start, LENGTH - WINDOW) for start in range(0, LENGTH - WINDOW + stride, stride)]
    border = torch.zeros(LENGTH - 1, dtype=torch.bool)
    border[[at - 1 for start in begins for at in (start, start + WINDOW) if 0 < at < LENGTH]] = True
    return float(energy[border].mean() / energy[~border].mean())


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("grid", GRIDS)
def test_gaussian_weights_hide_the_borders(grid, overlap):
    assert border_ratio(GRIDS[grid], overlap, "gaussian") < 1.01


@pytest.mark.parametrize("grid", GRIDS)
def test_uniform_weights_show_them(grid):
    assert border_ratio(GRIDS[grid], 0.25, "uniform") > 1.5
