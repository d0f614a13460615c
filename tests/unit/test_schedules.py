import pytest
import torch
from loupe.methods.schedules import (
    alphas_cumprod,
    cosine_factor,
    ddim_sigmas,
    ddim_timesteps,
    diffused,
)

pytestmark = pytest.mark.numerics


def test_the_table_of_the_reference(golden):
    _, info = golden("cupscale_schedules")
    table = alphas_cumprod(torch.float64)
    assert table.shape == (1000,) and alphas_cumprod().dtype == torch.float32
    assert table[info["sdxl_leading50_last22_timesteps"]].tolist() == pytest.approx(info["alphas_cumprod_at_those"], rel=1e-6)


def test_noise_keeps_unit_variance():
    generator = torch.Generator().manual_seed(0)
    latent, noise = torch.randn(2, 1000, 4, 8, 8, generator=generator).unbind()
    mixed = diffused(latent, noise, alphas_cumprod().view(-1, 1, 1, 1))
    assert mixed.std().item() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(mixed[0], latent[0], atol=0.15, rtol=0)
    torch.testing.assert_close(mixed[-1], noise[-1], atol=0.3, rtol=0)


def test_grid_of_the_reference(golden, sdxl_sigmas):
    _, description = golden("df_views_cosine")
    for steps, rows in description["cosine"].items():
        assert ddim_timesteps(int(steps)) == [row["t"] for row in rows]
        levels = ddim_sigmas(sdxl_sigmas, int(steps))
        assert levels[:-1].tolist() == pytest.approx([row["sigma_ve"] for row in rows], rel=1e-4)
        assert levels[-1] == pytest.approx(rows[-1]["sigma_ve_prev"], rel=1e-4)
        assert [cosine_factor(row["t"]) for row in rows] == pytest.approx([row["cosine_factor"] for row in rows], rel=1e-4, abs=1e-6)


def test_lsrna_is_the_end_of_the_grid(sdxl_sigmas):
    assert ddim_timesteps(50, 30)[0] == 581 and len(ddim_timesteps(50, 30)) == 30
    assert ddim_sigmas(sdxl_sigmas, 50, 30, end_at_zero=True)[-1] == 0
    with pytest.raises(ValueError, match="depth is 51"):
        ddim_timesteps(50, 51)
    with pytest.raises(ValueError, match="steps is 0"):
        ddim_timesteps(0)
