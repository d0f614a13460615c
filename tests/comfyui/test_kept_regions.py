"""Regions that a noise mask keeps as a whole are not shown to the network, which changes nothing else."""

import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from loupe.engine import with_parts
from loupe.engine.run import Run
from loupe.patches.demofusion import DilatedPass, SkipResidual
from loupe.patches.regional_denoise import RegionalDenoise

CELLS = 32


def corner(count=1):
    mask = torch.zeros(count, CELLS, CELLS)
    mask[:, :8, :12] = 1
    return mask


def slope():
    """Less and less from left to right, and nothing in the last third."""
    return (1 - torch.linspace(0, 1.5, CELLS)).clamp(0).expand(1, CELLS, CELLS)


def sampled(build, mask, differential=False, steps=3, images=1, parts=(), jitter=False, regions_per_call=0):
    """The result, and rows that the network saw."""
    model, rows = build(), []

    def count(executor, x, *args, **kwargs):
        rows.append(len(x))
        return executor(x, *args, **kwargs)

    latent = tiny.noise((images, model.model.latent_format.latent_channels, CELLS, CELLS), 3)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", count)
    if differential:
        (model,) = DifferentialDiffusion.execute(model).result
    model = with_parts(model, RegionalDenoise((16, 16), 0.5, jitter=jitter, regions_per_call=regions_per_call), *(part(latent) for part in parts))
    return tiny.sample(model, latent, steps=steps, noise_mask=mask), sum(rows)


@pytest.fixture
def whole(monkeypatch):
    """`sampled` without leaving regions out."""

    def sample(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "kept", lambda *args: None)
            return sampled(*args, **kwargs)

    return sample


@pytest.mark.parametrize("build", [tiny.sd15, tiny.zimage])
@pytest.mark.parametrize("settings", [{}, {"jitter": True}, {"regions_per_call": 1}, {"parts": [lambda latent: SkipResidual(latent, 3.0), lambda latent: DilatedPass((16, 16))]}], ids=["still", "jitter", "one at a time", "DemoFusion"])
def test_a_corner_costs_its_regions(build, settings, whole):
    out, rows = sampled(build, corner(), **settings)
    expected, all_rows = whole(build, corner(), **settings)
    assert tiny.relative(out, expected) < 1e-4
    assert rows < all_rows
    if not settings:
        assert rows * 9 == all_rows * 2


def test_a_region_that_any_image_asks_for_is_seen(whole):
    mask = torch.cat([corner(), torch.zeros(1, CELLS, CELLS)])
    mask[1, -4:, -4:] = 1
    out, rows = sampled(tiny.sd15, mask, images=2)
    expected, all_rows = whole(tiny.sd15, mask, images=2)
    assert tiny.relative(out, expected) < 1e-4
    assert rows * 9 == all_rows * 3


def test_differential_diffusion_reaches_its_regions_step_by_step(whole):
    out, rows = sampled(tiny.sd15, slope(), differential=True, steps=6)
    expected, all_rows = whole(tiny.sd15, slope(), differential=True, steps=6)
    assert tiny.relative(out, expected) < 1e-4
    assert rows < all_rows * 0.7


@pytest.mark.parametrize("differential", [False, True])
def test_a_mask_that_keeps_everything_gives_the_latent_back(differential):
    out, rows = sampled(tiny.sd15, torch.zeros(1, CELLS, CELLS), differential)
    assert rows == 0
    torch.testing.assert_close(out, tiny.noise((1, 4, CELLS, CELLS), 3), rtol=1e-4, atol=1e-5)


def test_without_a_mask_every_region_is_seen(whole):
    out, rows = sampled(tiny.sd15, None)
    expected, all_rows = whole(tiny.sd15, None)
    assert torch.equal(out, expected) and rows == all_rows
