"""The Fréchet distance of patches, on cases whose answer is known."""

import cv2
import numpy as np
import pytest
from loupe.benchmarks.patch_distance import distance, distances, moments


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 64, 72, 3), np.uint8))


def test_the_same_images_in_another_order_have_none(images):
    found = distances(images[::-1], images)
    assert found[0] == pytest.approx(0, abs=1e-3) and found.shape == (501,)


def test_it_grows_with_blur(images):
    soft = [distances([cv2.GaussianBlur(image, (0, 0), sigma) for image in images], images)[0] for sigma in (0.3, 0.6, 1.2)]
    assert 0 < soft[0] < soft[1] < soft[2]


def test_brightness_does_not_count(images):
    assert distances([image // 2 + 20 for image in images], [image // 2 for image in images])[0] == pytest.approx(0, abs=1e-3)


def test_of_known_covariances():
    """Of diagonal ones: the root of the summed squared differences of standard deviations."""
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert distance(turn * a @ turn.T, turn * b @ turn.T) == pytest.approx(np.sqrt(1 + 0 + 4))
    assert moments(np.full((16, 16, 3), 7, np.uint8)).max() == 0
