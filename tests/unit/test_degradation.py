import cv2
import numpy as np
import pytest
from loupe.benchmarks.scoring import psnr_of_arrays
from loupe.training.degradation import degrade, gaussian_kernel, jpeg, sinc_kernel


def scene(size=96):
    y, x = np.mgrid[:size, :size] / size
    waves = np.stack([np.sin(20 * x), np.cos(17 * y), np.sin(11 * (x + y))], -1)
    return ((waves * 0.4 + 0.5) * 255).astype(np.uint8)


def enlarged(image, size=96):
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)


def test_the_seed_decides():
    a, b, c = (degrade(scene(), np.random.RandomState(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    state = np.random.get_state()[1].copy()
    degrade(scene(), np.random.RandomState(3))
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("shape, scale, expected", [((96, 128), 4, (24, 32)), ((97, 61), 2, (48, 30)), ((96, 96), 1.5, (64, 64)), ((5, 7), 4, (1, 2))])
def test_sizes(shape, scale, expected):
    image = np.random.RandomState(0).randint(0, 256, (*shape, 3), np.uint8)
    for seed in range(4):
        out = degrade(image, np.random.RandomState(seed), scale)
        assert out.shape == (*expected, 3) and out.dtype == np.uint8


def test_strength_orders_the_damage():
    quality = [np.mean([psnr_of_arrays(enlarged(degrade(scene(), np.random.RandomState(seed), 2, strength)), scene()) for seed in range(24)]) for strength in (0.1, 0.5, 1.0)]
    assert quality[0] > quality[1] + 1 > quality[2] + 2


def test_every_image_is_damaged_differently():
    outs = [degrade(scene(), np.random.RandomState(seed)) for seed in range(12)]
    assert len({out.tobytes() for out in outs}) == 12


@pytest.mark.parametrize("sigma", [0.7, 2.5])
def test_gaussian_kernels_are_opencvs(sigma):
    column = cv2.getGaussianKernel(21, sigma)
    np.testing.assert_allclose(gaussian_kernel(21, (sigma, sigma)), column @ column.T, atol=1e-7)
    np.testing.assert_allclose(gaussian_kernel(21, (sigma, sigma), kind="generalized", beta=1.0), column @ column.T, atol=1e-7)


def test_anisotropic_kernels_turn():
    """(row, column): sigma 3 along x at angle 0, along y after a quarter turn."""
    flat, upright = gaussian_kernel(21, (3, 1)), gaussian_kernel(21, (3, 1), np.pi / 2)
    assert flat[10, 14] > flat[14, 10]
    np.testing.assert_allclose(upright, flat.T, atol=1e-7)
    offset = np.arange(21) - 10
    assert (flat.sum(0) * offset**2).sum() == pytest.approx(9, rel=0.05)
    assert (flat.sum(1) * offset**2).sum() == pytest.approx(1, rel=0.05)


def test_plateau_kernels_have_flat_tops_and_long_tails():
    plateau, gaussian = gaussian_kernel(21, (2, 2), kind="plateau", beta=2.0), gaussian_kernel(21, (2, 2))
    assert plateau[10, 11] / plateau[10, 10] > gaussian[10, 11] / gaussian[10, 10]
    assert plateau[10, 20] / plateau[10, 10] > gaussian[10, 20] / gaussian[10, 10]


def test_sinc_kernels_cut_at_their_frequency():
    kernel = sinc_kernel(61, np.pi / 2)
    response = np.abs(np.fft.fft2(kernel, (256, 256)))[0]  # along x, bin k is 2 pi k / 256 radians a pixel
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert response[:48].min() > 0.8 and response[80:128].max() < 0.2


def test_jpeg_loses_more_at_lower_quality():
    noise = np.random.RandomState(0).rand(64, 64, 3).astype(np.float32)
    errors = [np.abs(jpeg(noise, quality) - noise).mean() for quality in (95, 60, 20)]
    assert errors[0] < errors[1] < errors[2]
    red = np.zeros((32, 32, 3), np.float32)
    red[..., 0] = 1
    assert np.abs(jpeg(red, 95) - red).max() < 0.02
