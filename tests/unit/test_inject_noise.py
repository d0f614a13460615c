import math

import pytest
import torch
from loupe.methods.inject_noise import LAMBDA, inject_noise, slerp
from loupe.methods.schedules import sd_ratio

RHO = sd_ratio(249)  # the paper's start


def normal(seed, shape=(2, 4, 128, 128)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rms(x):
    return float(x.double().square().mean().sqrt())


def test_slerp_is_that_of_unit_vectors_an_image_at_a_time():
    a, b = normal(1, (2, 3, 8, 8)), normal(2, (2, 3, 8, 8))
    for i in range(2):
        u, v = a[i].flatten().double(), b[i].flatten().double()
        angle = math.acos(float(u @ v / u.norm() / v.norm()))
        expected = (math.sin(0.7 * angle) * u + math.sin(0.3 * angle) * v) / math.sin(angle)
        torch.testing.assert_close(slerp(a, b, 0.3)[i].flatten().double(), expected, rtol=1e-6, atol=1e-6)
    unit = a / a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    other = b / b.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(slerp(unit, other, 0.3).flatten(1).norm(dim=1), torch.ones(2))


def test_slerp_ends_at_both():
    a, b = normal(1), normal(2)
    torch.testing.assert_close(slerp(a, b, 0.0), a, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slerp(a, b, 1.0), b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 1.0, -1.0])
def test_slerp_of_what_has_no_arc_is_finite(factor):
    a = normal(1, (1, 1, 4, 4))
    assert slerp(a, factor * a, 0.05).isfinite().all()
    torch.testing.assert_close(slerp(a, a, 0.05), a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lam", [0.99, 0.95, 0.9, 0.8])
def test_what_one_step_leaves_of_the_fresh_noise(lam):
    """rho sin((1 - lambda) pi / 2), .054 for the paper's .95."""
    x0, eps, fresh = normal(1), normal(2), normal(3)
    out = inject_noise(x0 + RHO * eps, x0, fresh, 1.0, RHO, 1 - lam)
    left = -float(((out - x0).double() * fresh).mean() / fresh.double().square().mean())
    assert left == pytest.approx(RHO * math.sin((1 - lam) * math.pi / 2), rel=0.02)


def test_the_numbers_of_the_paper_s_setting():
    x0, eps, fresh = normal(1), normal(2), normal(3)
    state = x0 + RHO * eps
    assert (RHO, LAMBDA) == (pytest.approx(0.693, abs=1e-3), 0.95)
    assert rms(inject_noise(state, x0, fresh, 1.0, RHO, 1 - LAMBDA) - x0) == pytest.approx(0.054, abs=1e-3)
    other_order = state - RHO * slerp(eps, fresh, LAMBDA)
    assert rms(other_order - x0) > 0.9  # the state's noise stays, and the fresh one is taken from it


def test_a_flow_state_is_given_the_same():
    x0, eps, fresh, denoised = normal(1), normal(2), normal(3), normal(1) + 0.1 * normal(4)
    s = RHO / (1 + RHO)
    noisy = inject_noise(x0 + RHO * eps, denoised, fresh, 1.0, RHO, 0.05)
    flow = inject_noise((1 - s) * x0 + s * eps, denoised, fresh, 1 - s, s, 0.05)
    assert rms(flow - noisy) < 3e-7 * rms(noisy)
