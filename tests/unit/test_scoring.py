import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loupe.benchmarks.scoring import (
    detail,
    interval,
    outer_border,
    seam,
    self_ssim,
    sharpness,
    sharpness_ratio,
    ssim,
)
from loupe.methods.regions import RegionLayout
from loupe.training.mini.render import render
from loupe.training.mini.scenes import sample_scene


@pytest.fixture(scope="module")
def picture():
    return torch.from_numpy(render(sample_scene(7_000_002), 256, 1)).permute(2, 0, 1)[None] / 127.5 - 1


def test_ssim_of_flat_images_is_its_luminance_term():
    a, b = torch.full((2, 3, 16, 20), 0.2), torch.full((2, 3, 16, 20), -0.4)
    expected = (2 * 0.6 * 0.3 + 1e-4) / (0.6**2 + 0.3**2 + 1e-4)
    torch.testing.assert_close(ssim(a, b), torch.full((2,), expected), atol=1e-4, rtol=0)


def test_ssim_of_one_window_is_the_formula():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 11, 11, generator=g, dtype=torch.float64) for _ in range(2))
    x = torch.arange(11, dtype=torch.float64) - 5
    w = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
    w = w / w.sum()
    mean = lambda v: (w * v).sum()
    covariance = lambda p, q: mean((p - mean(p)) * (q - mean(q)))
    expected = (2 * mean(a) * mean(b) + 1e-4) * (2 * covariance(a, b) + 9e-4) / ((mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (covariance(a, a) + covariance(b, b) + 9e-4))
    torch.testing.assert_close(ssim(2 * a - 1, 2 * b - 1), expected[None])


def test_ssim_falls_with_damage(picture):
    noisy = picture + 0.02 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert ssim(picture, picture).item() == pytest.approx(1, abs=1e-5)
    assert 0.7 < ssim(picture, noisy).item() < 0.99
    assert ssim(picture, picture.flip(-1)).item() < ssim(picture, noisy).item()


def test_self_ssim_tells_one_image_at_two_sizes_from_two_images(picture):
    small = F.interpolate(picture, (128, 128), mode="bicubic", antialias=True)
    other = torch.from_numpy(render(sample_scene(7_000_003), 192, 1)).permute(2, 0, 1)[None] / 127.5 - 1
    found = self_ssim({256: picture, 128: small, 192: other})
    assert list(found) == [(128, 192), (128, 256), (192, 256)]
    assert found[128, 256] == pytest.approx(1, abs=1e-5)
    assert max(found[128, 192], found[192, 256]) < 0.8


def test_one_image_of_doubled_pitch_counts_as_a_miss_and_not_as_merit():
    mean, miss = sharpness_ratio([1.0] * 15 + [2.0])
    assert mean < 1.05 and miss == pytest.approx(1 / 16)
    assert sharpness_ratio([0.5, 2.0]) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_faded_outer_border():
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (96, 96, 3)).astype(np.uint8)
    assert outer_border(image) == pytest.approx(1, abs=0.1)
    faded = image.copy()
    faded[:8] = faded[:8].mean(-1, keepdims=True)  # gray
    assert outer_border(faded) < 0.85
    assert outer_border(np.ascontiguousarray(faded[::-1])) == pytest.approx(outer_border(faded))


def test_a_seam_is_a_step_on_a_border_of_regions_and_nowhere_else():
    layout = RegionLayout.from_overlap(32, 32, 16, 16, 0.0)
    rng = np.random.default_rng(0)
    image = rng.integers(100, 110, (256, 256, 3)).astype(np.uint8)
    assert seam(image, layout, 8) == pytest.approx(1, abs=0.15)
    on, off = image.copy(), image.copy()
    on[:, 128:] += 60
    off[:, 100:] += 60
    assert seam(on, layout, 8) > 10 and seam(off, layout, 8) == pytest.approx(1, abs=0.15)


def test_blur_lowers_sharpness_and_detail():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.0)
    assert sharpness(blurred) < 0.3 * sharpness(image)
    assert detail(blurred / 255) < 0.2 * detail(image / 255)


def test_an_interval_of_a_mean_holds_it_and_shrinks_with_n():
    values = np.random.default_rng(1).normal(3, 1, 400)
    widths = []
    for n in (16, 400):
        low, high = interval(values[:n])
        assert low < values[:n].mean() < high
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]
