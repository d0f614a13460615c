import math

import pytest
import torch
import torch.nn.functional as F
from loupe.methods.alignment import alignment_loss, predicted_latent, signal_to_noise


@pytest.fixture(scope="module")
def case(golden):
    tensors, info = golden("ind_align")
    return tensors, info, torch.tensor(info["alphas_cumprod"], dtype=torch.float64)


def decode(latent, tensors):
    """The toy decoder of the reference data."""
    return torch.einsum("oc,bchw->bohw", tensors["W"], F.interpolate(latent, (9, 9), mode="bilinear", align_corners=False)).tanh()


def test_losses_and_gradient_of_the_reference(case):
    tensors, info, alphas = case
    eps = tensors["eps_pred"].clone().requires_grad_()
    predicted = predicted_latent(tensors["z_t"], eps, alphas)
    decoded = decode(predicted, tensors)
    torch.testing.assert_close(predicted.detach(), tensors["z0_hat"], atol=info["tol"], rtol=0)
    torch.testing.assert_close(decoded.detach(), tensors["x0_hat"], atol=info["tol"], rtol=0)
    loss = alignment_loss(tensors["z0"], predicted, tensors["x0"], decoded, alphas, latent_weight=info["lambda1"], image_weight=info["lambda2"])
    torch.testing.assert_close(loss.latent.detach(), tensors["L_dm"], atol=info["tol"], rtol=1e-12)
    torch.testing.assert_close(loss.image.detach(), tensors["L_recon"], atol=info["tol"], rtol=1e-12)
    torch.testing.assert_close(loss.total.detach().reshape(1), tensors["loss"], atol=info["tol"], rtol=1e-12)
    loss.total.backward()
    torch.testing.assert_close(eps.grad, tensors["grad_eps_pred"], atol=info["tol"], rtol=1e-12)


def test_latent_term_is_the_error_of_the_noise(case):
    tensors, _, alphas = case
    predicted = predicted_latent(tensors["z_t"], tensors["eps_pred"], alphas)
    loss = alignment_loss(tensors["z0"], predicted, tensors["x0"], tensors["x0"], alphas)
    torch.testing.assert_close(loss.latent, (tensors["eps"] - tensors["eps_pred"]).square().flatten(1).mean(1), atol=1e-10, rtol=0)
    assert torch.equal(loss.image, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("limit", [5.0, 20.0])
def test_limit_holds_back_the_almost_clean_images_only(case, limit):
    tensors, _, alphas = case
    snr = signal_to_noise(alphas)
    assert snr[0] > 1000 > limit > snr[2]
    predicted = predicted_latent(tensors["z_t"], tensors["eps_pred"], alphas)
    arguments = tensors["z0"], predicted, tensors["x0"], decode(predicted, tensors), alphas
    plain, limited = alignment_loss(*arguments), alignment_loss(*arguments, limit=limit)
    torch.testing.assert_close(limited.image, plain.image * snr.clamp(max=limit) / snr)
    assert torch.equal(limited.image[2:], plain.image[2:])
    assert torch.equal(signal_to_noise(alphas, math.inf), snr)


def test_weights_choose_the_terms(case):
    tensors, _, alphas = case
    predicted = predicted_latent(tensors["z_t"], tensors["eps_pred"], alphas)
    arguments = tensors["z0"], predicted, tensors["x0"], decode(predicted, tensors), alphas
    loss = alignment_loss(*arguments, latent_weight=0.0, image_weight=3.0)
    torch.testing.assert_close(loss.total, 3 * loss.image.mean())


def test_any_part_of_the_image_can_be_compared(case):
    tensors, _, alphas = case
    predicted = predicted_latent(tensors["z_t"], tensors["eps_pred"], alphas)
    decoded = decode(predicted, tensors)
    part = (..., slice(2, 7), slice(0, 4))
    loss = alignment_loss(tensors["z0"], predicted, tensors["x0"][part], decoded[part], alphas)
    assert loss.image.shape == (4,) and torch.isfinite(loss.total)
    with pytest.raises(ValueError, match="decoded is .*5, 4.*expected .*9, 9"):
        alignment_loss(tensors["z0"], predicted, tensors["x0"], decoded[part], alphas)
