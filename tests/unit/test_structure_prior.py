import math

import pytest
import pywt
import torch
import torch.nn.functional as F
from loupe.methods.structure_prior import (
    RUN_SCHEDULES,
    SCHEDULES,
    gradient,
    kappa,
    low_band,
    low_band_adjoint,
    low_pass,
    run_weight,
    schedule_weight,
    structure_edit,
)
from loupe.methods.wavelets import WAVELETS
from tolerance import close

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3", "c4"])
def test_update_of_the_reference(case, golden):
    tensors, info = golden("cupscale_gsp")
    info = info["cases"][case]
    denoised, reference = tensors[f"{case}.x0_hat"], tensors[f"{case}.ref"]
    if info["direction"] == "lr_to_hr":
        enlarged = F.interpolate(tensors[f"{case}.z_lr"], denoised.shape[-2:], mode=info["resize"])
        torch.testing.assert_close(enlarged, reference, atol=1e-12, rtol=0)
        torch.testing.assert_close(low_band(denoised), tensors[f"{case}.ll_est"], atol=1e-12, rtol=0)
        area = 1
    else:
        reference, area = tensors[f"{case}.z_lr"], 4
    torch.testing.assert_close(low_band(reference), tensors[f"{case}.ll_ref"], atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient(denoised, reference), tensors[f"{case}.grad_x0"], atol=1e-10, rtol=0)

    # what the paper's step moves with a frozen output that is no noise prediction
    ratio = info["sigma_k"] if info["pred"] == "eps" else 0.0
    k = kappa(info["gamma"], 1000 * info["t_over_T"], ratio, info["schedule"], clamp=False, area=area)
    edit = structure_edit(denoised, reference, k)
    z = tensors[f"{case}.z"]
    if info["pred"] == "flow":
        torch.testing.assert_close(edit, tensors[f"{case}.delta_x_flow"], atol=1e-10, rtol=0)
        torch.testing.assert_close(z + edit, tensors[f"{case}.z_new"], atol=1e-10, rtol=0)
    else:
        torch.testing.assert_close(edit, tensors[f"{case}.delta_x_ve"], atol=1e-10, rtol=0)
        torch.testing.assert_close(z + info["alpha"] * edit, tensors[f"{case}.z_new"], atol=1e-10, rtol=0)


def test_schedules_of_the_reference(golden):
    _, info = golden("cupscale_schedules")
    for name in SCHEDULES:
        assert [schedule_weight(1000 * t, name) for t in info["t_over_T"]] == pytest.approx(info["s"][name], abs=1e-12)
        rows = zip(info["sdxl_leading50_last22_timesteps"], info["alphas_cumprod_at_those"], info["kappa_gamma0p2_sum_loss_eps_pred"][name])
        for t, alpha_bar, expected in rows:
            assert kappa(0.2, t, (1 / alpha_bar - 1) ** 0.5, schedule=name) == pytest.approx(expected, abs=1e-9)


def test_written_out_loop_of_the_reference(golden):
    tensors, info = golden("cupscale_gsp_loop")
    x, sigmas = tensors["x_start_ve"], info["sigmas_k"]
    for i, t in enumerate(info["timesteps"]):
        denoised = 0.7 * torch.tanh(x / (1 + sigmas[i] ** 2)) + 0.3 * tensors["m"]
        derivative = (x - denoised) / sigmas[i]
        x = x + structure_edit(denoised, tensors["ref"], kappa(info["gamma"], t, sigmas[i], clamp=False))
        x = x + (sigmas[i + 1] - sigmas[i]) * derivative
        z = x / (1 + sigmas[i + 1] ** 2) ** 0.5
        torch.testing.assert_close(z, tensors["z_after_step"][i], atol=info["tol"], rtol=0)
    torch.testing.assert_close(x, tensors["final"], atol=info["tol"], rtol=0)


@pytest.mark.parametrize("wavelet", ["haar", "db1", "db2", "sym5", "bior2.2", "coif1"])
@pytest.mark.parametrize("size", [(16, 12), (13, 17), (5, 3), (6, 9)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_low_band_is_that_of_pywavelets(wavelet, size, levels):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x.numpy()
    for _ in range(levels):
        expected = pywt.dwt2(expected, wavelet, mode="symmetric")[0]
    band = low_band(x, wavelet, levels)
    torch.testing.assert_close(band, torch.from_numpy(expected), atol=1e-12, rtol=0)
    other = torch.randn(band.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((band * other).sum(), (x * low_band_adjoint(other, *size, wavelet, levels)).sum())


@pytest.mark.parametrize("wavelet, levels", [("haar", 1), ("haar", 3), ("db3", 2)])
@pytest.mark.parametrize("low", [None, (8, 12), (7, 5)])
def test_gradient_is_that_of_autograd(wavelet, levels, low):
    denoised = torch.randn(1, 4, 16, 24, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(1, 4, *(low or (16, 24)), dtype=torch.float64)
    small = denoised if low is None else F.interpolate(denoised, low, mode="area")
    loss = (low_band(small, wavelet, levels) - low_band(reference, wavelet, levels)).square().sum()
    (expected,) = torch.autograd.grad(loss, denoised)
    torch.testing.assert_close(gradient(denoised.detach(), reference, wavelet, levels), expected)


def test_wavelets_are_those_of_pywavelets():
    assert WAVELETS == tuple(pywt.wavelist(kind="discrete"))


@pytest.mark.parametrize("low", [(16, 24), (8, 12), (4, 8)])
def test_kappa_is_the_share_of_the_low_band_that_is_removed(low):
    denoised, reference = torch.randn(2, 4, 16, 24, dtype=torch.float64), torch.randn(2, 4, *low, dtype=torch.float64)
    edited = denoised + structure_edit(denoised, reference, 0.3)

    def deviation(x):
        return low_band((F.interpolate(x, low, mode="area") if x.shape[-2:] != reference.shape[-2:] else x) - reference)

    torch.testing.assert_close(deviation(edited), 0.7 * deviation(denoised))


def test_strength_modes_and_clamp():
    assert kappa(1.0, 421, 1.2473, clamp=False) == pytest.approx(1.928, abs=1e-3)
    assert kappa(1.0, 421, 1.2473) == 1.0
    assert kappa(0.2, 500, 0.8, mode="kappa") == pytest.approx(0.1)
    assert kappa(0.0, 500, 0.8) == 0.0
    with pytest.raises(ValueError, match="schedule is 'sine'"):
        kappa(0.2, 500, 0.8, schedule="sine")


def test_videos_are_pulled_frame_by_frame():
    denoised, reference = torch.randn(2, 16, 3, 9, 8), torch.randn(2, 16, 3, 9, 8)
    whole = structure_edit(denoised, reference, 0.4, "db2", 2)
    for frame in range(3):
        close(whole[:, :, frame], structure_edit(denoised[:, :, frame], reference[:, :, frame], 0.4, "db2", 2), 1e-5)


@pytest.mark.parametrize("size", [(32, 48), (33, 20), (7, 5)])
@pytest.mark.parametrize("band", ["resize", "butterworth"])
def test_a_low_pass_keeps_what_is_coarse(band, size):
    even = torch.full((2, 3, *size), 1.5, dtype=torch.float64)
    torch.testing.assert_close(low_pass(even, band), even)
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])
    checkerboard = (1.0 - 2 * ((x + y) % 2)).double()[None]
    assert low_pass(checkerboard, band).abs().max() < 0.15
    wave = torch.cos(torch.pi * (x + 0.5) / size[1]).double().expand(1, *size).contiguous()
    assert size[1] < 16 or (low_pass(wave, band) - wave).abs().mean() < 0.2


def test_edits_of_other_bands_pull_to_the_reference():
    denoised, reference = torch.randn(2, 4, 24, 16), torch.randn(2, 4, 24, 16)
    for band in ("resize", "butterworth"):
        edit = structure_edit(denoised, reference, 0.3, band=band)
        torch.testing.assert_close(edit, -0.3 * low_pass(denoised - reference, band))


def test_schedules_over_a_run_start_at_one_and_fall():
    ratios = [2.0, 1.0, 0.5, 0.1]
    for schedule in RUN_SCHEDULES:
        weights = [run_weight(schedule, step, 4, ratio, ratios[0]) for step, ratio in enumerate(ratios)]
        assert weights[0] == 1 and all(a > b > 0 for a, b in zip(weights, weights[1:]))
    assert run_weight(RUN_SCHEDULES[0], 2, 4, 0, 0) == pytest.approx(0.5)
    assert run_weight(RUN_SCHEDULES[1], 0, 1, math.inf, math.inf) == 1
    assert run_weight(RUN_SCHEDULES[1], 1, 4, 1.0, 2.0) == pytest.approx(0.5 / 0.8)
