import pytest
import torch
from loupe.methods.latent_adjustment import adjust, shares_by_level, shares_by_step
from loupe.methods.schedules import alphas_cumprod

SIGNS = {"ela": 0.01, "none": 0.0, "lla": -0.01}


def test_steps_of_the_reference(golden):
    _, info = golden("lsa")
    for steps, masks in info["masks"].items():
        expected = [SIGNS[mask] for mask in masks]
        assert shares_by_step(int(steps), info["alpha"], info["beta"], info["early_frac"], info["late_frac"]) == expected


def test_noise_levels_give_the_same_steps_on_the_papers_grid(golden):
    _, info = golden("lsa")
    timesteps = [float(t) for t in range(981, 0, -20)]
    for end in (0.0, 0.4):
        assert shares_by_level([*timesteps, end], 0.01, 0.01) == [SIGNS[mask] for mask in info["masks"]["50"]]


@pytest.mark.parametrize("timesteps", [[981, 701, 100, 0], [999, 749, 499, 249, 0], [400, 90, 0]])
def test_a_step_has_its_part_of_what_is_early_and_late(timesteps):
    """As much in all as the papers' steps over the same levels."""
    shares = shares_by_level(timesteps, 0.03, 0.01)
    early, late = ((max(timesteps[0], 781) - 781) / 20, 181 / 20)
    kept = 1.0
    for share in shares:
        kept *= 1 - share
    assert kept == pytest.approx((1 - 0.03) ** early * 1.01**late, rel=1e-3)
    assert all(share == 0 for share, t, after in zip(shares, timesteps, timesteps[1:]) if t <= 781 and after >= 181)


def test_no_step_is_early_or_late_at_the_ends():
    assert shares_by_step(10, 0.1, 0.1, 0.0, 1.0) == [0.0] * 10
    assert shares_by_step(4, 0.1, 0.2, 0.5, 0.5) == [0.1, 0.1, -0.2, -0.2]


@pytest.mark.parametrize("edit, share", [("ela", 0.01), ("lla", -0.01)])
def test_transforms_of_the_reference(edit, share, golden):
    tensors, info = golden("lsa")
    x0, reference, eps = tensors["x0"], tensors["x_lr"], tensors["eps"]
    tolerance = {"atol": info["tol"], "rtol": 0}
    torch.testing.assert_close(adjust(x0, reference, share), tensors[f"denoised.{edit}"], **tolerance)
    for i, sigma in enumerate(info["sigma_k_for_s_index"]):
        torch.testing.assert_close(adjust(x0 + sigma * eps, reference, share, (1 + sigma**2) ** 0.5), tensors[f"s{i}.sample_ve.{edit}"], **tolerance)
    for i, sigma in enumerate(info["flow_sigma_for_f_index"]):
        torch.testing.assert_close(adjust((1 - sigma) * x0 + sigma * eps, reference, share), tensors[f"f{i}.sample_flow.{edit}"], **tolerance)


@pytest.mark.parametrize("target", ["none", "sample", "denoised"])
def test_written_out_loop_of_the_reference(target, golden, sdxl_sigmas):
    """Spaced DDPM in the variance-preserving latent."""
    tensors, info = golden("lsa")
    alphas = alphas_cumprod(torch.float64)
    z, one = tensors["z_start"], torch.ones((), dtype=torch.float64)
    shares = shares_by_step(info["N"], info["alpha"], info["beta"])
    for i, t in enumerate(info["timesteps"]):
        now, then = alphas[t], alphas[info["timesteps"][i + 1]] if i + 1 < info["N"] else one
        x0 = now.sqrt() * z + (1 - now) * tensors["m"]
        if target == "denoised":
            x0 = adjust(x0, tensors["x_lr"], shares[i])
        step, variance = now / then, (1 - then) / (1 - now) * (1 - now / then)
        z = then.sqrt() * (1 - step) / (1 - now) * x0 + step.sqrt() * (1 - then) / (1 - now) * z
        if i + 1 < info["N"]:
            z = z + variance.sqrt() * tensors["noises"][i]
        if target == "sample":
            z = adjust(z, tensors["x_lr"], shares[i])
    torch.testing.assert_close(z, tensors[f"traj.{target}"], atol=info["tol"], rtol=0)


def test_a_share_of_zero_changes_no_bit():
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(adjust(x, torch.randn(2, 4, 5, 6), 0.0, 3.0), x)
